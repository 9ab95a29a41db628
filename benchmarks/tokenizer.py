"""Texts per second against open_clip's tokenizer, from strings to the padded array, on real captions.

    python -m benchmarks.tokenizer [--json FILE]

Each round takes 4,000 captions that neither side has met: no text is seen twice by a tokenizer. The sides alternate
which of them goes first; the figures are medians over all rounds of three passes, each with new tokenizers. Warm:
both word caches have seen the words of 9,000 other captions, and in later rounds those of the former rounds. Cold:
both tokenizers are new in every round.
"""

import json
import statistics
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.table import Row, finish, parser
from tests.parity.peers import open_clip

from wordsight.text import Tokenizer
from wordsight.text.byte_pairs import BytePairEncoder, clip_encoder
from wordsight.text.cleaning import is_plain

ARCHIVE = Path(__file__).resolve().parents[2] / "shared" / "data" / "flickr8k-train.tar"
WARMING = 9000
TIMED = 4000
PASSES = 3
TARGET = 15.0

Tokenize = Callable[[list[str]], Any]
Rates = list[tuple[float, float]]


def clean_captions() -> list[str]:
    """The distinct captions of the archive that need no repair, in the archive's order."""
    with tarfile.open(ARCHIVE) as archive:
        file = archive.extractfile("flickr8k-train/captions.jsonl")
        assert file is not None
        captions = [caption for line in file for caption in json.loads(line)["captions"]]
    return [caption for caption in dict.fromkeys(captions) if is_plain(caption)]


def rates(make_pair: Callable[[], tuple[Tokenize, Tokenize]], warming: list[str], timed: list[str]) -> Rates:
    """Texts/s of ours and the peer's in rounds of captions that are new to both, after both took `warming`."""
    ours_and_peer = make_pair()
    for tokenize in ours_and_peer:
        tokenize(warming)
    rounds = []
    for start in range(0, len(timed) - TIMED + 1, TIMED):
        texts = timed[start : start + TIMED]
        seconds, ids = {}, {}
        order = (0, 1) if start // TIMED % 2 else (1, 0)
        for side in order:
            begin = time.perf_counter()
            ids[side] = ours_and_peer[side](texts)
            seconds[side] = time.perf_counter() - begin
        assert (ids[0] == ids[1].numpy()).all()
        rounds.append((TIMED / seconds[0], TIMED / seconds[1]))
    return rounds


def median_rates(rounds: Rates) -> tuple[float, float]:
    ours, peer = zip(*rounds, strict=True)
    return statistics.median(ours), statistics.median(peer)


def main() -> None:
    options = parser(__doc__.splitlines()[0]).parse_args()
    peer_class = open_clip().tokenizer.SimpleTokenizer
    merges = clip_encoder().merges
    captions = clean_captions()

    def make_pair() -> tuple[Tokenize, Tokenize]:
        return Tokenizer(encoder=BytePairEncoder(merges)), peer_class()

    warm: Rates = []
    cold: Rates = []
    for _ in range(PASSES):
        warm += rates(make_pair, captions[:WARMING], captions[WARMING:])
        for start in range(0, len(captions) - TIMED + 1, TIMED * 3):
            cold += rates(make_pair, [], captions[start : start + TIMED])
    name = f"{TIMED:,} clean captions not seen before"
    finish(
        [
            Row.compare(f"{name}, warm word caches (texts/s)", *median_rates(warm), target=TARGET),
            Row.compare(f"{name}, cold word caches (texts/s)", *median_rates(cold)),
        ],
        options.json,
    )


if __name__ == "__main__":
    main()
