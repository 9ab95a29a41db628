"""Detection of the kind of data that a path is.

`detect_input` is the only detector, shared by `shards` and `evaluate` (`records.py`) and by `classify` and `embed`
(`inputs.py`), so that the commands agree on every path. `train` opens shards directly (`open_shards`).
"""

from pathlib import Path
from typing import Literal, TypeAlias

from wordsight.data.shard_reader import is_shards
from wordsight.data.tables import is_table
from wordsight.data.video import is_video
from wordsight.data.walk import contains_image_files, is_directory

InputKind: TypeAlias = Literal["file", "directory", "table", "tables", "shards", "tar", "video"]
"""The kind of data at a path: `tables` are a directory of Parquet files; `shards` are a directory of tar files, a range
of them or a web address; `tar` is one tar file; `file` is anything else, including a path that does not exist."""


def detect_input(path: str | Path) -> InputKind:
    """Detect what kind of data a path is.

    Directories and shards are recognised by their content, everything else by its suffix:

    - `shards`: a web address, a range such as `{000000..000004}.tar`, a directory with a `manifest.json` of
      `wordsight shards`, or a directory with `*.tar` files and without images in it or below;
    - `tables`: a directory with `*.parquet` files and without images in it or below, such as a Hugging Face dataset;
    - `directory`: any other directory;
    - `table`: an existing `.csv`, `.tsv`, `.parquet` or `.jsonl` file, `captions.txt` or `*.token.txt`;
    - `tar`: a single `.tar` file. `wordsight shards` reads it as an archive of a directory, so that it can have any of
      the layouts of a directory; `iter_images` yields its images and needs no captions;
    - `video`: a file with the suffix of a video;
    - `file`: anything else.
    """
    if is_shards(path):
        return "shards"
    path = Path(path)
    if is_directory(path):
        return "directory" if contains_image_files(path) or not find_tables(path) else "tables"
    if is_table(path):
        return "table"
    if path.suffix.lower() == ".tar":
        return "tar"
    return "video" if is_video(path) else "file"


def find_tables(directory: Path) -> list[Path]:
    """Return the Parquet files in a directory and below, sorted; hidden ones are left out."""
    paths = (path for path in directory.rglob("*.parquet") if path.is_file())
    return sorted(path for path in paths if not any(part.startswith(".") for part in path.relative_to(directory).parts))
