"""Draws against a Philox written from its paper, and the properties of epochs."""

import numpy as np
import pytest

from wordsight.data.order import Purpose, draws, permutation, stream_of, windowed_permutation

WORD = 1 << 64


def philox_4x64_10(counter: list[int], key: list[int]) -> list[int]:
    """Philox4x64-10 from Salmon et al. 2011, section 3.3 and table 2."""
    x, k = list(counter), list(key)
    for _ in range(10):
        high0, low0 = divmod(0xD2E7470EE14C6C93 * x[0], WORD)
        high1, low1 = divmod(0xCA5A826395121157 * x[2], WORD)
        x = [high1 ^ x[1] ^ k[0], low1, high0 ^ x[3] ^ k[1], low0]
        k = [(k[0] + 0x9E3779B97F4A7C15) % WORD, (k[1] + 0xBB67AE8584CAA73B) % WORD]
    return x


def test_the_reference_philox_gives_the_published_answers() -> None:
    """The known answers of Random123 (`kat_vectors`, philox4x64 10)."""
    assert philox_4x64_10([0] * 4, [0] * 2) == [
        0x16554D9ECA36314C,
        0xDB20FE9D672D0FDC,
        0xD7E772CEE186176B,
        0x7E68B68AEC7BA23B,
    ]


@pytest.mark.parametrize("arguments", [(0, 0, 0, 0, 0), (7, 1, 2, 3, 4), (WORD - 1, 300, 5, WORD - 1, 6)])
def test_a_draw_is_philox_of_its_arguments(arguments: tuple[int, int, int, int, int]) -> None:
    seed, stream, epoch, position, attempt = arguments
    numbers = draws(seed, stream, epoch, position, attempt).integers(0, WORD, 8, dtype=np.uint64, endpoint=False)
    blocks = [philox_4x64_10([block, attempt, position, epoch], [seed, stream]) for block in (1, 2)]
    assert numbers.tolist() == blocks[0] + blocks[1]


def test_neighbouring_positions_share_no_numbers() -> None:
    numbers = set()
    for seed, stream, epoch, position in np.ndindex(3, 3, 3, 3):
        numbers |= set(draws(seed, stream, epoch, position).integers(0, 1 << 63, 50).tolist())
    assert len(numbers) == 3**4 * 50


def test_sources_and_purposes_have_different_streams() -> None:
    streams = {stream_of(purpose, source) for purpose in Purpose for source in range(100)}
    assert len(streams) == len(Purpose) * 100


def test_an_epoch_visits_each_sample_once_and_epochs_differ() -> None:
    first, second = permutation(1, 0, 0, 100), permutation(1, 0, 1, 100)
    assert sorted(first) == sorted(second) == list(range(100))
    assert first.tolist() != second.tolist()
    assert first.tolist() == permutation(1, 0, 0, 100).tolist()


def test_a_windowed_epoch_visits_each_sample_once_and_few_shards_at_a_time() -> None:
    counts = [5] * 7
    order = windowed_permutation(3, 0, 0, counts, 2)
    assert sorted(order) == list(range(35))
    runs = [order[start : start + 10] // 5 for start in range(0, 35, 10)]
    assert [len(set(run)) for run in runs] == [2, 2, 2, 1]
    assert any(len(set(run[:5])) == 2 for run in runs)  # the samples of both shards are shuffled together
    assert order.tolist() != windowed_permutation(3, 0, 1, counts, 2).tolist()


def test_a_window_over_all_shards_can_contain_empty_ones() -> None:
    assert sorted(windowed_permutation(3, 0, 0, [2, 0, 3], 8)) == list(range(5))
