"""What the footer of a Parquet file claims to hold: how many values, in how many bytes.

pyarrow 26 says so too, but ends the process where the footer is damaged. The format is Parquet's,
github.com/apache/parquet-format, its footer in the compact protocol of Apache Thrift
(doc/specs/thrift-compact-protocol.md in github.com/apache/thrift).
"""

import struct
from dataclasses import dataclass
from typing import Any, BinaryIO

_LARGEST = 2**26
"""Bytes of a footer: some 100,000 pieces of columns."""

_DEEPEST = 32

_STOP, _TRUE, _FALSE, _BYTE = range(4)
_DOUBLE, _BINARY, _LIST, _SET = range(7, 11)
_STRUCT = 12
_WHOLE = (4, 5, 6)  # 16, 32 and 64 bits


@dataclass(frozen=True)
class Claimed:
    """values: in all columns together, nulls and the elements of lists counted one by one. size:
    their bytes, uncompressed but still coded."""

    values: int
    size: int


def read_claims(file: BinaryIO) -> Claimed:
    """The sums over all columns of a Parquet file.

    Raises ValueError for one that is damaged, claims less than nothing, or has columns in other
    files.
    """
    end = file.seek(0, 2)
    file.seek(max(0, end - 8))
    tail = file.read(8)
    if len(tail) < 8 or tail[4:] != b"PAR1":
        raise ValueError("it is no Parquet file")
    length = int.from_bytes(tail[:4], "little")
    if length > min(end - 8, _LARGEST):
        raise ValueError(f"its footer has {length:,} bytes, which cannot be")
    file.seek(end - 8 - length)
    try:
        columns = [
            column for group in _Compact(file.read(length)).fields(0)[4] for column in group[1]
        ]
        if any(1 in column for column in columns):
            raise ValueError("it has columns in other files")
        # Of ColumnMetaData: num_values, total_uncompressed_size.
        values = [column[3][5] for column in columns]
        sizes = [column[3][6] for column in columns]
        if min(values + sizes, default=0) < 0:
            raise ValueError("it claims less than nothing")
        return Claimed(sum(values), sum(sizes))
    except (LookupError, TypeError, struct.error):
        raise ValueError("its footer is damaged") from None


class _Compact:
    """Reads values of the compact protocol; IndexError at the end of the bytes."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._at = 0

    def fields(self, depth: int) -> dict[int, Any]:
        """A struct: its values by the number of the field."""
        if depth > _DEEPEST:
            raise ValueError("its footer is damaged")
        found: dict[int, Any] = {}
        number = 0
        while (head := self._byte()) != _STOP:
            number = number + (head >> 4) if head >> 4 else self._whole()
            found[number] = self._value(head & 15, depth)
        return found

    def _value(self, kind: int, depth: int) -> Any:
        if kind in (_TRUE, _FALSE):
            return kind == _TRUE
        if kind == _BYTE:
            return self._byte()
        if kind in _WHOLE:
            return self._whole()
        if kind == _DOUBLE:
            return self._take(8)
        if kind == _BINARY:
            return self._take(self._varint())
        if kind in (_LIST, _SET):
            return self._list(depth)
        if kind == _STRUCT:
            return self.fields(depth + 1)
        raise ValueError("its footer is damaged")  # Parquet has no maps in it

    def _list(self, depth: int) -> list[Any]:
        head = self._byte()
        size = head >> 4 if head >> 4 < 15 else self._varint()
        kind = head & 15
        # In a list, each of true and false takes a byte.
        kind = _BYTE if kind in (_TRUE, _FALSE) else kind
        return [self._value(kind, depth + 1) for _ in range(size)]

    def _whole(self) -> int:
        number = self._varint()
        return (number >> 1) ^ -(number & 1)

    def _varint(self) -> int:
        number = shift = 0
        while (byte := self._byte()) & 128:
            number |= (byte & 127) << shift
            shift += 7
            if shift > 63:
                raise ValueError("its footer is damaged")
        return number | byte << shift

    def _byte(self) -> int:
        byte = self._content[self._at]
        self._at += 1
        return byte

    def _take(self, size: int) -> bytes:
        if size > len(self._content) - self._at:
            raise IndexError
        self._at += size
        return self._content[self._at - size : self._at]
