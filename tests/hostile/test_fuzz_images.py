"""Thousands of mutations of an image of each format: an image or one line, in seconds, within the memory budget."""

import random
import struct
import time
import zlib
from pathlib import Path

import pytest
from tests.hostile.test_hostile_images import FILES

from wordsight.errors import ImageError
from wordsight.image import Preprocessing, load_pixels

NUM_MUTATIONS = 2000
MAX_SECONDS = 10
MAX_MEMORY_BYTES = 2_000_000_000
EXTREMES = (0, 1, 13_000, 40_000, 65_535, 1 << 16, (1 << 31) - 1, (1 << 32) - 1)


def mutate(content: bytes, generator: random.Random) -> bytes:
    """Change, repeat, delete or cut bytes, more often in the header than elsewhere."""
    changed = bytearray(content)
    for _ in range(generator.choice((1, 1, 2, 4, 8))):
        index = generator.randrange(max(1, min(len(changed), generator.choice((40, 200, len(changed))))))
        end = index + generator.randrange(1, 64)
        kind = generator.randrange(10)
        if kind < 4:
            changed[index : index + 1] = bytes([generator.choice((0, 1, 127, 128, 255, generator.randrange(256)))])
        elif kind < 6:
            changed[index : index + 4] = struct.pack(generator.choice("<>") + "I", generator.choice(EXTREMES))
        elif kind < 7:
            changed[index : index + 2] = struct.pack(generator.choice("<>") + "H", generator.choice(EXTREMES[:5]))
        elif kind < 8:
            changed[index:index] = changed[index:end] * generator.choice((1, 2, 50))
        elif kind < 9:
            del changed[index:end]
        else:
            del changed[max(8, index) :]
    return bytes(changed)


def with_checksums(content: bytes) -> bytes:
    """A PNG whose chunks have the right checksums, so that mutations reach what comes after them."""
    changed, position = bytearray(content), 8
    while position + 12 <= len(changed):
        end = position + 8 + int.from_bytes(changed[position : position + 4], "big")
        if end + 4 > len(changed):
            break
        changed[end : end + 4] = zlib.crc32(changed[position + 4 : end]).to_bytes(4, "big")
        position = end + 4
    return bytes(changed)


def resident_peak_bytes() -> int:
    """The peak since it was last reset (Linux)."""
    status = Path("/proc/self/status").read_text("utf-8")
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) * 1024


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs VmHWM of Linux")
@pytest.mark.parametrize("kind", FILES)
def test_mutated_images_are_decoded_or_refused_in_one_line(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORDSIGHT_MAX_MEMORY", str(MAX_MEMORY_BYTES))
    generator, preprocessing = random.Random(7), Preprocessing(size_px=224)
    Path("/proc/self/clear_refs").write_text("5")
    before, num_errors = resident_peak_bytes(), 0
    for _ in range(NUM_MUTATIONS):
        content = mutate(FILES[kind], generator)
        if kind.startswith("png"):
            content = with_checksums(content)
        begin = time.process_time()
        try:
            assert load_pixels(content, preprocessing, generator.choice(("viewer", "published"))).shape[2] == 3
        except ImageError as error:
            num_errors += 1
            assert "\n" not in str(error)  # noqa: PT017
        assert time.process_time() - begin < MAX_SECONDS
    assert resident_peak_bytes() - before < MAX_MEMORY_BYTES
    assert 0 < num_errors < NUM_MUTATIONS
