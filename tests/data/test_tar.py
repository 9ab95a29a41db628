"""The members of tar files against the standard library's reader, and against inconsistent files."""

import bz2
import contextlib
import gzip
import io
import lzma
import os
import tarfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from wordsight.data.tar import END_OF_ARCHIVE, Member, header_of, padding_of, read_at, walk_members
from wordsight.errors import DataError

NAMES = ["a.jpg", "directory/b.JSON", "n" * 96 + ".jpg", "deep/" * 40 + "c.jpg", "ключ-é.png", "x" * 300 + ".txt"]


def members_of(content: bytes, path: str = "s.tar") -> list[Member]:
    return list(walk_members(lambda offset, size: content[offset : offset + size], len(content), path))


def archive(tar_format: int, names: list[str]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tar_format) as tar:
        for number, name in enumerate(names):
            information = tarfile.TarInfo(name)
            information.size = number * 311
            tar.addfile(information, io.BytesIO(bytes([number]) * information.size))
    return file.getvalue()


def one_member(
    content: bytes = b"hello", kind: bytes = b"0", name: bytes = b"a.jpg", size: bytes | None = None
) -> bytes:
    header = bytearray(512)
    header[: len(name)] = name
    header[124:136] = size if size is not None else b"%011o\0" % len(content)
    header[156:157] = kind
    header[257:265] = b"ustar\x0000"
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + content + padding_of(len(content)) + END_OF_ARCHIVE


@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_equal_those_of_tarfile(tar_format: int) -> None:
    names = [name for name in NAMES if tar_format != tarfile.USTAR_FORMAT or "/" in name or len(name) <= 100]
    content = archive(tar_format, names)
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        expected = [(member.name, member.offset_data, member.size) for member in tar.getmembers()]
    assert [(member.name, member.offset, member.size) for member in members_of(content)] == expected
    assert [name for name, _, _ in expected] == names


def test_real_archives_agree_with_tarfile(shared_data: Path) -> None:
    for name in ("mnist.tar", "illus-noto.tar"):
        with (shared_data / name).open("rb") as file, tarfile.open(shared_data / name) as tar:
            total = os.fstat(file.fileno()).st_size
            members = walk_members(partial(read_at, file), total, name)
            expected = [(member.name, member.offset_data, member.size) for member in tar if member.isfile()]
            assert [(member.name, member.offset, member.size) for member in members] == expected


def test_tarfile_reads_our_headers_and_finds_no_time() -> None:
    content = b"".join(header_of(name, 3) + b"abc" + padding_of(3) for name in NAMES) + END_OF_ARCHIVE
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        members = tar.getmembers()
    assert [member.name for member in members] == NAMES
    assert {(member.mtime, member.uid, member.gid, member.uname) for member in members} == {(0, 0, 0, "")}


def test_directories_are_left_out_and_links_are_described() -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, kind in (("d", tarfile.DIRTYPE), ("l.jpg", tarfile.SYMTYPE), ("p.jpg", tarfile.FIFOTYPE)):
            information = tarfile.TarInfo(name)
            information.type = kind
            information.linkname = "/etc/passwd"
            tar.addfile(information)
    assert [(member.name, member.kind) for member in members_of(file.getvalue())] == [
        ("l.jpg", "a symbolic link"),
        ("p.jpg", "a pipe"),
    ]


@pytest.mark.parametrize("cut", [1, 511, 512, 513, 1000, 1024, 1535, 2048])
def test_a_truncated_file_is_an_error_that_names_the_byte(cut: int) -> None:
    content = one_member(b"x" * 400)[:-1024] + one_member(b"y" * 10)
    assert [member.size for member in members_of(content)] == [400, 10]
    with pytest.raises(DataError, match=rf"^s\.tar: truncated: .*byte {cut}; fetch it again$"):
        members_of(content[:cut])


def test_a_name_in_an_extended_header_belongs_to_one_member_only() -> None:
    content = archive(tarfile.GNU_FORMAT, ["z" * 200 + ".jpg", "b.jpg"])
    assert [member.name[-5:] for member in members_of(content)] == ["z.jpg", "b.jpg"]


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (b"77777777777\0", "truncated"),
        (b"\x80" + b"\0" * 3 + b"\x7f" + b"\xff" * 7, "truncated"),
        (b"\xff" * 12, "invalid size"),
        (b"-0000000001\0", "invalid size"),
        (b"hello world\0", "invalid size"),
    ],
)
def test_invalid_sizes_are_refused(size: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        members_of(one_member(size=size))


def test_a_file_that_is_not_tar_is_refused() -> None:
    for content in (b"PK\x03\x04" + b"\1" * 2000, b"hello" * 1000, bytes(range(256)) * 8):
        with pytest.raises(DataError, match="not a tar file"):
            members_of(content)


@pytest.mark.parametrize(
    "records",
    [b"999 path=x\n", b"path=x\n", b"0 path=x\n", b"-5 path=x\n", b"12 size=-100\n", b"24 size=9" + b"9" * 14 + b"\n"],
)
def test_damaged_extended_headers_are_refused(records: bytes) -> None:
    content = one_member(records, kind=b"x")[:-1024] + one_member()
    with pytest.raises(DataError, match=r"^s\.tar: "):
        members_of(content)


def test_a_huge_extended_header_is_not_read() -> None:
    def read_header(offset: int, size: int) -> bytes:
        assert size <= 512
        return one_member(b"", kind=b"L", size=b"%011o\0" % (1 << 31))[offset : offset + size]

    with pytest.raises(DataError, match="not a usable shard"):
        list(walk_members(read_header, 1 << 33, "s.tar"))


def test_sparse_members_are_refused() -> None:
    with pytest.raises(DataError, match="sparse"):
        members_of(one_member(kind=b"S"))
    with pytest.raises(DataError, match="sparse"):
        members_of(one_member(b"22 GNU.sparse.major=1\n", kind=b"x")[:-1024] + one_member())


def test_damaged_headers_give_members_within_the_file_or_a_data_error() -> None:
    plain = archive(tarfile.PAX_FORMAT, NAMES)
    generator = np.random.Generator(np.random.Philox(5))
    for _ in range(300):
        damaged = bytearray(plain)
        for index in generator.integers(0, len(plain), 3):
            damaged[index] = generator.integers(256)
        with contextlib.suppress(DataError):
            for member in members_of(bytes(damaged)):
                assert 0 <= member.offset <= member.offset + member.size <= len(plain)


def test_a_name_that_is_too_long_affects_only_its_own_member() -> None:
    members = members_of(archive(tarfile.PAX_FORMAT, ["n" * 100_000 + ".jpg", "b.jpg"]))
    assert [(len(member.name) < 300, member.name[-6:], member.kind) for member in members] == [
        (True, "...jpg", "a member with a name of 100,004 characters"),
        (True, "b.jpg", ""),
    ]


def test_more_members_than_the_limit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wordsight.data.tar.MAX_MEMBERS", 3)
    assert len(members_of(archive(tarfile.USTAR_FORMAT, ["a", "b", "c"]))) == 3
    with pytest.raises(DataError, match="more than 3 members; split it into shards"):
        members_of(archive(tarfile.USTAR_FORMAT, ["a", "b", "c", "d"]))


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_a_compressed_archive_is_refused_with_the_program_that_unpacks_it(compress: Callable[[bytes], bytes]) -> None:
    with pytest.raises(DataError, match=r"^s\.tar: compressed; unpack it with '(gunzip|bunzip2|unxz)' first$"):
        members_of(compress(archive(tarfile.USTAR_FORMAT, ["a"])))
