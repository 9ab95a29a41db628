"""How the format of a directory is detected, and which names of files the hub looks for."""

from pathlib import Path

import pytest
from tests.tiny_clip import tiny_clip
from tests.weights.models import checkpoint_of

from wordsight.errors import WeightsError
from wordsight.weights.convert import TARGETS, convert
from wordsight.weights.formats.registry import FORMATS
from wordsight.weights.read import describes_model, read


def test_a_directory_is_read_by_the_first_format_whose_description_it_contains(tmp_path: Path) -> None:
    tiny_clip().save(tmp_path / "model")
    (tmp_path / "model" / "config.json").write_text("not read")
    assert read(tmp_path / "model").card.name == "tiny"


@pytest.mark.parametrize("name", FORMATS)
def test_a_written_directory_has_the_files_that_its_format_names(tmp_path: Path, name: str) -> None:
    convert(checkpoint_of("vit"), tmp_path / "out", name)
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert FORMATS[name].weights_names[0] in files
    assert describes_model(tmp_path / "out") == bool(FORMATS[name].description_name)
    assert FORMATS[name].description_name in files | {""}


def test_every_format_and_onnx_can_be_written() -> None:
    assert set(TARGETS) == {*FORMATS, "onnx"}


def test_a_directory_without_a_model_is_refused(tmp_path: Path) -> None:
    assert not describes_model(tmp_path)
    message = "contains no weights and none of wordsight.json, open_clip_config.json, config.json; pass the directory"
    with pytest.raises(WeightsError, match=message):
        read(tmp_path)
