"""A small version of the benchmark of kills and full disks."""

import os
from pathlib import Path

import pytest


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_after_kills_and_full_disks_the_next_run_is_correct(tmp_path: Path) -> None:
    from benchmarks.kills import measure

    rows, problems = measure(10, 6, tmp_path, seed=100)
    assert problems == []
    assert all(row.holds for row in rows)
    assert len(rows) == 14
