"""Random changes of valid files of every kind, chosen by hypothesis with a fixed seed; see `corpus.py`."""

from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from tests.hostile import sandbox
from tests.hostile.corpus import mutated, seeds
from tests.hostile.sandbox import HostileInput, import_everything, run, serving_responses

EXAMPLES = 300
REFUSED = ("recipe.toml", "state dict", "mirror response", "hub response")
"""Valid files that end in an error: shards or weights that the command needs are missing, or are of another model."""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_change_of_a_valid_file_ends_in_more_than_one_line(tmp_path: Path) -> None:
    import_everything()
    corpus = seeds()
    count = 0

    with serving_responses(tmp_path) as port:

        @seed(20)
        @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(st.sampled_from(sorted(corpus)), st.integers(1000, 1_000_000))
        def check(name: str, number: int) -> None:
            nonlocal count
            count += 1
            hostile = mutated(name, corpus[name], number)
            assert run(hostile, tmp_path / f"input{count}", port).failures == [], hostile.name

        check()
    assert count >= EXAMPLES


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_unchanged_files_are_read(tmp_path: Path) -> None:
    """Otherwise the changed ones would be refused for another reason."""
    import_everything()
    codes = {}
    with serving_responses(tmp_path) as port:
        for name, valid in seeds().items():
            hostile = HostileInput(name, partial(valid.write, content=valid.content), valid.command)
            codes[name] = run(hostile, tmp_path / "input", port).code
    assert {name for name, code in codes.items() if code} == set(REFUSED)


def test_the_sandbox_notices_each_kind_of_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "MEMORY_BUDGET_BYTES", 64 << 20)

    def failures(code: str) -> str:
        script = tmp_path / "script.py"
        script.write_text(code)
        return " ".join(run(HostileInput("x", lambda root: None, (), script), tmp_path / "root").failures)

    assert failures("") == ""
    assert failures("print('error: a.png: broken')\nsys.exit(2)") == ""
    assert "exit code 1" in failures("sys.exit(1)")
    assert "exit code 2" in failures("sys.exit(2)")
    assert "exit code 0" in failures("print('\\x1b[31m')")
    assert "exit code 0" in failures("print('Traceback (most recent call last)')")
    assert "exit code -9" in failures("os.kill(os.getpid(), 9)")
    assert "MiB" in failures("x = b'a' * (256 << 20)")
    assert "changed 'home/a'" in failures("Path('home/a').write_text('')")
    monkeypatch.setattr(sandbox, "MAX_SECONDS", 2)
    assert "2.0 s" in failures("time.sleep(30)")
