"""Recognise what is often found in place of a model's file, so that an error says what to do about it."""

import re
from collections.abc import Callable
from pathlib import Path

from wordsight.files import open_regular

UNFINISHED_SUFFIXES = (".incomplete", ".part", ".partial", ".crdownload", ".download", ".aria2", ".tmp")
"""How browsers, download tools and the Hugging Face hub name files that are not complete yet."""

_START_BYTES = 1024
_LFS = re.compile(rb"version https://git-lfs\.github\.com/spec/.*?(?:\nsize (\d{1,18})\b|\Z)", re.DOTALL)
_ANNEX = re.compile(rb"[./]*(\.git)?/annex/objects/")
_ANNEX_ADVICE = "git-annex has not fetched the file: run 'git annex get' in its repository, or download the file itself"
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"\xfd7zXZ": "xz",
    b"BZh": "bzip2",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"7z\xbc\xaf": "7z",
    b"Rar!": "rar",
}
_OTHER_FRAMEWORKS = {b"\x89HDF": "an HDF5 file (TensorFlow)", b"GGUF": "a GGUF file", b"\x93NUMPY": "a NumPy array"}
_TAR_OFFSET = 257
_MAX_SHOWN = 40


def mistaken_for_weights(path: Path) -> str:
    """What a file is that cannot be read as weights, and what to do; empty if it is none of the usual mistakes."""
    return _first_match(path, (_placeholder, _archive, _other_content))


def mistaken_for_text(path: Path) -> str:
    """What a file is that cannot be read as JSON, and what to do; empty if it is none of the usual mistakes."""
    return _first_match(path, (_placeholder, _archive))


def _first_match(path: Path, checks: tuple[Callable[[bytes], str], ...]) -> str:
    try:
        with open_regular(path) as file:
            start = file.read(_START_BYTES)
    except (OSError, ValueError):
        if path.is_symlink() and not path.exists():
            target = path.readlink()
            is_annexed = "annex" in target.parts
            return _ANNEX_ADVICE if is_annexed else f"a link to {target}, which does not exist; download the file again"
        return ""
    if path.suffix in UNFINISHED_SUFFIXES:
        return "an unfinished download; download the file again"
    return next((reason for check in checks if (reason := check(start))), "")


def _placeholder(start: bytes) -> str:
    """Describe a file that stands for another one, or a server's answer in place of it."""
    if not start:
        return "the file is empty; download it again"
    if match := _LFS.match(start):
        size = f" of {int(match[1]):,} bytes" if match[1] else ""
        return (
            f"a Git LFS pointer instead of the file{size}; run 'git lfs pull' in its repository, or download the "
            "file itself"
        )
    if _ANNEX.match(start):
        return _ANNEX_ADVICE
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<body", b"<?xml", b"<error")):
        return (
            "a web page or a server's error message instead of the file; download the file itself, not the page "
            "that describes it"
        )
    return ""


def _archive(start: bytes) -> str:
    kind = next((name for magic, name in _COMPRESSED.items() if start.startswith(magic)), None)
    if start[_TAR_OFFSET : _TAR_OFFSET + 5] == b"ustar":
        kind = "tar"
    return f"a {kind} archive; unpack it and pass the file or the directory in it" if kind else ""


def _other_content(start: bytes) -> str:
    kind = next((name for magic, name in _OTHER_FRAMEWORKS.items() if start.startswith(magic)), None)
    if kind:
        return f"{kind}; expected weights that torch or safetensors wrote"
    if start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05") and start[8:9] != b"{":
        return (
            "a bare pickle, whose contents cannot be checked before it is loaded; if you trust the file, save its "
            "state dict with torch.save"
        )
    try:
        text = start.decode("utf-8")
    except UnicodeDecodeError:
        return ""
    if not all(character.isprintable() or character in "\r\n\t" for character in text):
        return ""
    return f"a text file that begins with {text[:_MAX_SHOWN]!r}, not weights; download the file again"
