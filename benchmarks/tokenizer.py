"""Texts per second against open_clip's tokenizer, from strings to the padded array, on real captions.

    python -m benchmarks.tokenizer [--quick] [--json FILE]

Each round takes 4,000 captions that are new to both tokenizers; no tokenizer sees a text twice. The two sides take
turns at going first, and rates are medians over all rounds of three passes (`--quick`: one), each with new tokenizers.
Warm: the word caches contain the words of 9,000 other captions and of earlier rounds. Cold: new tokenizers in every
round.
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

NUM_WARM_UP = 9000
NUM_TIMED = 4000
PASSES = 3
TARGET_RATIO = 15.0

Tokenize = Callable[[list[str]], Any]
Rates = list[tuple[float, float]]


def clean_captions(archive_path: Path) -> list[str]:
    """The distinct captions of the archive that need no text cleaning, in the order of the archive."""
    with tarfile.open(archive_path) as archive:
        file = archive.extractfile("flickr8k-train/captions.jsonl")
        assert file is not None
        captions = [caption for line in file for caption in json.loads(line)["captions"]]
    return [caption for caption in dict.fromkeys(captions) if is_plain(caption)]


def rates(make_pair: Callable[[], tuple[Tokenize, Tokenize]], warm_up: list[str], timed: list[str]) -> Rates:
    """Texts/s of ours and of the peer's in rounds of captions new to both, after both have tokenized `warm_up`."""
    ours_and_peer = make_pair()
    for tokenize in ours_and_peer:
        tokenize(warm_up)
    rounds = []
    for start in range(0, len(timed) - NUM_TIMED + 1, NUM_TIMED):
        texts = timed[start : start + NUM_TIMED]
        seconds, ids = {}, {}
        order = (0, 1) if start // NUM_TIMED % 2 else (1, 0)
        for side in order:
            begin = time.perf_counter()
            ids[side] = ours_and_peer[side](texts)
            seconds[side] = time.perf_counter() - begin
        assert (ids[0] == ids[1].numpy()).all()
        rounds.append((NUM_TIMED / seconds[0], NUM_TIMED / seconds[1]))
    return rounds


def median_rates(rounds: Rates) -> tuple[float, float]:
    ours, peer = zip(*rounds, strict=True)
    return statistics.median(ours), statistics.median(peer)


def main() -> None:
    options = parser(__doc__, needs_data=True).parse_args()
    peer_class = open_clip().tokenizer.SimpleTokenizer
    merges = clip_encoder().merges
    captions = clean_captions(options.data / "flickr8k-train.tar")

    def make_pair() -> tuple[Tokenize, Tokenize]:
        return Tokenizer(encoder=BytePairEncoder(merges)), peer_class()

    warm: Rates = []
    cold: Rates = []
    for _ in range(1 if options.quick else PASSES):
        warm += rates(make_pair, captions[:NUM_WARM_UP], captions[NUM_WARM_UP:])
        for start in range(0, len(captions) - NUM_TIMED + 1, NUM_TIMED * 3):
            cold += rates(make_pair, [], captions[start : start + NUM_TIMED])
    name = f"{NUM_TIMED:,} clean captions not seen before"
    finish(
        [
            Row.compare(f"{name}, warm word caches (texts/s)", *median_rates(warm), target=TARGET_RATIO),
            Row.compare(f"{name}, cold word caches (texts/s)", *median_rates(cold)),
        ],
        options.json,
    )


if __name__ == "__main__":
    main()
