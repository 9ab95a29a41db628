"""A reader of Thrift's compact protocol, for the footers and page headers of Parquet files.

pyarrow aborts the process when it is asked for the metadata of some damaged files, so they are read here first.

Source: Thrift compact protocol specification, "Encoding" and "Struct encoding".
"""

from typing import Any

from wordsight.errors import DataError

_MAX_DEPTH = 16
_BOOLEANS, _BYTE, _INTEGERS, _DOUBLE, _BINARY, _LISTS, _STRUCT = (1, 2), 3, (4, 5, 6), 7, 8, (9, 10), 12


class ThriftReader:
    """Reads a struct: integers, structs and lists are kept, the contents of everything else is skipped.

    Args:
        content: begins with the struct.

    Attributes:
        at: the position after what has been read.
    """

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.at = 0

    def struct(self, depth: int = 0) -> "ThriftStruct":
        """Read a struct.

        Raises:
            IndexError: the content is too short, or damaged.
        """
        if depth > _MAX_DEPTH:
            raise IndexError("nested too deeply")
        fields: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._zigzag()
            kind = head & 15
            fields[number] = None if kind in _BOOLEANS else self._value(kind, depth)
        return ThriftStruct(fields)

    def _value(self, kind: int, depth: int) -> Any:
        if kind in _INTEGERS:
            return self._zigzag()
        if kind in (_BYTE, *_BOOLEANS):  # a boolean in a list
            return self._byte()
        if kind == _BINARY:
            return self._skip(self._varint())
        if kind == _DOUBLE:
            return self._skip(8)
        if kind == _STRUCT:
            return self.struct(depth + 1)
        if kind in _LISTS:
            head = self._byte()
            size = self._varint() if head >> 4 == 15 else head >> 4
            if size > len(self._content) - self.at:
                raise IndexError("beyond the end")
            return [self._value(head & 15, depth + 1) for _ in range(size)]
        raise IndexError("a type that Parquet does not use")

    def _byte(self) -> int:
        self.at += 1
        return self._content[self.at - 1]

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                return value
            if shift > 63:
                raise IndexError("more than 64 bits")

    def _zigzag(self) -> int:
        value = self._varint()
        return value >> 1 ^ -(value & 1)

    def _skip(self, size: int) -> None:
        self.at += size
        if self.at > len(self._content):
            raise IndexError("beyond the end")


class ThriftStruct:
    """The fields of a struct by their numbers."""

    def __init__(self, fields: dict[int, Any]) -> None:
        self._fields = fields

    def __contains__(self, number: int) -> bool:
        return number in self._fields

    def integer(self, number: int, default: int = -1) -> int:
        """Return an integer; raises DataError if the field has another type."""
        value = self._fields.get(number, default)
        if not isinstance(value, int):
            raise DataError(f"field {number} of its metadata is damaged; fetch it again")
        return value

    def struct(self, number: int) -> "ThriftStruct":
        """Return a struct, empty if it is missing; raises DataError if the field has another type."""
        value = self._fields.get(number)
        if value is not None and not isinstance(value, ThriftStruct):
            raise DataError(f"field {number} of its metadata is damaged; fetch it again")
        return value or ThriftStruct({})

    def structs(self, number: int) -> "list[ThriftStruct]":
        """Return a list of structs, empty if it is missing; raises DataError if the field has another type."""
        value = self._fields.get(number, [])
        if not isinstance(value, list) or not all(isinstance(item, ThriftStruct) for item in value):
            raise DataError(f"field {number} of its metadata is damaged; fetch it again")
        return value
