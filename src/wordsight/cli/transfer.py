"""`--copy-to` and `--move-to`: image files are planned first, then listed or transferred; nothing is overwritten.

The whole plan is checked before the first file is touched, so that a mistake leaves everything as it was. Moving needs
`--yes` and is otherwise a dry run. A copy that was interrupted continues when the same command runs again, because an
identical file at the target counts as done.
"""

import filecmp
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Annotated

import typer

from wordsight.errors import ConfigError, DataError, OutputError, counted, encodable, printable

CopyToOption = Annotated[
    Path | None, typer.Option("--copy-to", metavar="DIR", help="Copy the image files into this directory.")
]
MoveToOption = Annotated[
    Path | None,
    typer.Option("--move-to", metavar="DIR", help="Move the image files into this directory; needs --yes."),
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="With --copy-to or --move-to: list what would happen, and change nothing.")
]
YesOption = Annotated[bool, typer.Option("--yes", help="Really move the files of --move-to.")]

MAX_DIRECTORY_BYTES = 200
"""Length of the name of a directory, of the 255 that file systems allow."""

_REPLACED = set('<>:"/\\|?*')  # characters that no file name may have on Windows, or anywhere
_RESERVED = {"con", "prn", "aux", "nul", *(f"{name}{number}" for name in ("com", "lpt") for number in range(1, 10))}


@dataclass(frozen=True)
class Transfer:
    """One file to copy or move.

    Attributes:
        source: the file.
        target: where it goes.
        is_done: whether an identical file is there already.
    """

    source: Path
    target: Path
    is_done: bool = False


@dataclass(frozen=True)
class TransferOptions:
    """The values of `--copy-to`, `--move-to`, `--dry-run` and `--yes`, checked against each other and the inputs.

    Raises:
        ConfigError: both directories are given, or `--dry-run` or `--yes` without one.
        OutputError: the directory is inside an input directory, or is a file.
    """

    copy_to: Path | None = None
    move_to: Path | None = None
    dry_run: bool = False
    yes: bool = False
    inputs: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        if self.copy_to is not None and self.move_to is not None:
            raise ConfigError("--copy-to and --move-to both say where the files go; choose one")
        if self.directory is None and (self.dry_run or self.yes):
            raise ConfigError(f"{'--dry-run' if self.dry_run else '--yes'} needs --copy-to or --move-to")
        if self.yes and (self.dry_run or self.move_to is None):
            raise ConfigError(f"--yes is for --move-to, and not for {'--dry-run' if self.dry_run else '--copy-to'}")
        if self.directory is not None:
            _check_directory(self.directory, self.inputs, self.option)

    @property
    def directory(self) -> Path | None:
        """Where the files go; None if they stay where they are."""
        return self.copy_to if self.move_to is None else self.move_to

    @property
    def is_move(self) -> bool:
        """Whether files are moved, not copied."""
        return self.move_to is not None

    @property
    def option(self) -> str:
        """The option that was given."""
        return "--move-to" if self.is_move else "--copy-to"


def directory_name(text: str) -> str:
    """Return a label as the name of a directory on every file system.

    Characters that are not allowed become underscores, and so do dots and spaces at the ends.
    """
    name = "".join("_" if character in _REPLACED or not character.isprintable() else character for character in text)
    name = name.encode("utf-8", "replace")[:MAX_DIRECTORY_BYTES].decode("utf-8", "ignore")
    kept = name.strip(". ")
    if not kept or kept != name or name.partition(".")[0].casefold() in _RESERVED:
        return f"{kept}_"
    return name


def plan_transfers(files: Iterable[tuple[Path, Sequence[str]]], options: TransferOptions) -> list[Transfer]:
    """Decide where each file goes, and check that all can be written.

    Two files with the same name in one directory get numbers: `IMG_1.jpg`, `IMG_1-2.jpg`.

    Args:
        files: each file, and the directories below the target directory in which it is put: none, or for example a
            label; see `directory_name`. A file that is given again for the same directory is left out.
        options: where the files go; with a directory.

    Raises:
        DataError: a file is missing or is not a file, or is to be moved to several directories or is a link.
        OutputError: another file is at a target, a target is inside an input directory, or the disk is too full.
    """
    assert options.directory is not None
    transfers: list[Transfer] = []
    taken: set[str] = set()
    seen: set[tuple[str, str]] = set()
    checked: set[Path] = set()
    for source, parts in files:
        directory = options.directory.joinpath(*map(directory_name, parts))
        if directory not in checked:
            _check_directory(directory, options.inputs, options.option)
            checked.add(directory)
        _check_source(source, options.is_move)
        identity = (os.path.realpath(source), str(directory))
        if identity not in seen:
            seen.add(identity)
            transfers.append(_transfer(source, _free_target(directory / source.name, taken), options.is_move))
    if options.is_move:
        _require_one_target(transfers)
    else:
        _check_space(transfers, options.directory)
    return transfers


def run_transfers(transfers: Sequence[Transfer], options: TransferOptions, quiet: bool = False) -> None:
    """Copy or move the files, or list what would happen; a line on standard error says how many there are.

    Moves are listed on standard output as well, so that they can be undone: the file, a tab, and where it is now.

    Raises:
        OutputError: a target is not writable, or another file has appeared there.
    """
    from wordsight.cli.terminal import print_note, show_progress

    assert options.directory is not None
    todo = [transfer for transfer in transfers if not transfer.is_done]
    done = f", {len(transfers) - len(todo):,} already there" if len(todo) < len(transfers) else ""
    num_directories = len({transfer.target.parent for transfer in todo})
    where = f"{encodable(options.directory)} ({counted(num_directories, 'directory', 'directories')})"
    if options.dry_run or (options.is_move and not options.yes):
        for transfer in todo:
            _print_transfer(transfer)
        verb = "moved" if options.is_move else "copied"
        print_note(f"nothing was {verb}: {counted(len(todo), 'file')} would go to {where}{done}", quiet)
        if options.is_move:
            print_note("to move them, run the command again with --yes and without --dry-run", quiet)
        return
    with show_progress(len(todo), "files", quiet) as progress:
        for number, transfer in enumerate(todo, start=1):
            _execute(transfer, options.is_move)
            if options.is_move:
                _print_transfer(transfer)
            progress(number)
    print_note(f"{'moved' if options.is_move else 'copied'} {counted(len(todo), 'file')} to {where}{done}", quiet)


def _print_transfer(transfer: Transfer) -> None:
    print(f"{printable(transfer.source)}\t{printable(transfer.target)}")


def _check_directory(directory: Path, inputs: Sequence[Path], option: str) -> None:
    """Refuse a directory inside an input, where the next run would find the copies, and one that is a file."""
    target = Path(os.path.realpath(directory))
    for path in inputs:
        source = Path(os.path.realpath(path))
        if source.is_dir() and target.is_relative_to(source):
            raise OutputError(
                f"{option} {encodable(directory)}: inside the input {encodable(path)}, where the next run would find "
                "the files again; choose a directory outside of it"
            )
    if os.path.lexists(target) and not target.is_dir():
        raise OutputError(f"{option} {encodable(directory)}: exists and is not a directory; choose another one")


def _check_source(source: Path, is_move: bool) -> None:
    try:
        is_file = source.is_file()
    except (OSError, ValueError):  # a name that no file can have
        is_file = False
    if not is_file:
        raise DataError(
            f"{encodable(source)}: no such file; only image files can be copied or moved, not images in tables, "
            "shards or videos"
        )
    if is_move and source.is_symlink():
        raise DataError(f"{encodable(source)}: a link, which may not work elsewhere; use --copy-to")


def _free_target(target: Path, taken: set[str]) -> Path:
    """Return the target, with a number if another file of the plan has it, apart from case."""
    for number in count(1):
        path = target if number == 1 else target.with_name(f"{target.stem}-{number}{target.suffix}")
        if str(path).casefold() not in taken:
            taken.add(str(path).casefold())
            return path
    raise AssertionError


def _transfer(source: Path, target: Path, is_move: bool) -> Transfer:
    if not os.path.lexists(target):
        return Transfer(source, target)
    if not is_move and target.is_file() and filecmp.cmp(source, target, shallow=False):
        return Transfer(source, target, is_done=True)
    raise OutputError(f"{encodable(target)}: exists, and is not replaced; choose another directory")


def _require_one_target(transfers: Sequence[Transfer]) -> None:
    targets: dict[str, Path] = {}
    for transfer in transfers:
        other = targets.setdefault(os.path.realpath(transfer.source), transfer.target)
        if other != transfer.target:
            raise DataError(
                f"{encodable(transfer.source)}: cannot be moved to both {encodable(other.parent)} and "
                f"{encodable(transfer.target.parent)}; use --copy-to"
            )


def _check_space(transfers: Sequence[Transfer], directory: Path) -> None:
    needed = sum(transfer.source.stat().st_size for transfer in transfers if not transfer.is_done)
    existing = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise OutputError(f"{encodable(directory)}: {needed:,} bytes to copy, but only {free:,} are free")


def _execute(transfer: Transfer, is_move: bool) -> None:
    from wordsight.files import as_output_error, make_directory
    from wordsight.temporary import temporary_file

    source, target = transfer.source, transfer.target
    make_directory(target.parent)
    try:
        if is_move and source.stat().st_dev == target.parent.stat().st_dev:
            _rename_new(source, target)
            return
        with temporary_file(target) as (file, temporary):
            with source.open("rb") as original:
                shutil.copyfileobj(original, file, 1 << 20)
            file.flush()
            os.fsync(file.fileno())
            file.close()
            shutil.copystat(source, temporary)
            _rename_new(temporary, target)
        if is_move:
            source.unlink()
    except OSError as error:
        raise as_output_error(error, target) from error


def _rename_new(source: Path, target: Path) -> None:
    """Rename a file to a path at which nothing is."""
    if os.path.lexists(target):
        raise OutputError(f"{encodable(target)}: appeared meanwhile, and is not replaced; choose another directory")
    source.rename(target)
