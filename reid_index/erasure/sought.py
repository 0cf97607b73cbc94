"""Finding bytes, at any offset, of which only salted hashes are known.

Windows of 8 or some more bytes find candidates in one pass; a salted sha256 confirms them. Vectors
are looked for by pieces of 64 bytes, so that a fragment is found, too: the key of a piece is a
polynomial modulo 2⁶⁴ whose value at the next offset follows from that at this one (Karp and Rabin,
Efficient randomized pattern-matching algorithms, IBM J. Res. Dev. 31(2), 1987). A polynomial of a
short text could be turned back into it, so a text is looked for by 32 bits of a product with 8 of
its bytes instead.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..compiled import compiled

PIECE = 64
"""Bytes of a piece of a vector."""

SHORTEST = 8
"""Bytes of the shortest text that is looked for anywhere: shorter ones are in any file by chance.
"""

LONGEST = 1024
"""Bytes of a text that are looked for: of a longer one, its beginning."""

WINDOW = 8
"""Bytes of a text by which it is found."""

KEYS = np.dtype([("key", "<u8"), ("check", "<u4")])
NEEDLES = np.dtype([("window", "<u4"), ("length", "<u2"), ("lead", "<u2"), ("digest", "V16")])
"""Texts: a hash of eight bytes, how long the text is and where in it these begin, and its digest.
"""

_ROOM = 65536
"""Candidates that are gathered before they are confirmed."""

_ENDING = 6
"""Bytes of the longest ending, as .jpeg is one, that a window leaves out: most paths end alike."""


@dataclass(frozen=True)
class Pieces:
    """Byte strings of one length, by key: KEYS, ascending."""

    length: int
    records: NDArray[np.void]


@dataclass(frozen=True)
class Hasher:
    """What turns bytes into hashes: a salt, and what follows from it."""

    salt: bytes

    @cached_property
    def base(self) -> np.uint64:
        """What the polynomials are taken at: odd, and of full period modulo 2⁶⁴."""
        return np.uint64(self._number("base") & ~7 | 5)

    @cached_property
    def factor(self) -> np.uint64:
        """What windows of texts are multiplied by; odd."""
        return np.uint64(self._number("factor") | 1)

    def _number(self, name: str) -> int:
        return int.from_bytes(self.digest(name, b"")[:8], "little")

    def digest(self, kind: str, value: bytes) -> bytes:
        """The first 16 bytes of sha256 of salt, kind, 0 and value."""
        return hashlib.sha256(b"%b%b\0%b" % (self.salt, kind.encode(), value)).digest()[:16]

    def check(self, piece: bytes) -> int:
        """32 bits of sha256 that confirm a key."""
        return int.from_bytes(self.digest("piece", piece)[:4], "little")

    def keys(
        self, rows: NDArray[np.uint8], starts: NDArray[np.int64], length: int
    ) -> NDArray[np.uint64]:
        """The keys of the pieces of rows (n, bytes) that begin at starts (k,): (n, k)."""
        keys = np.empty((len(rows), len(starts)), np.uint64)
        _keys(np.ascontiguousarray(rows), starts, length, self.base, keys)
        return keys

    def pieces(self, values: NDArray[np.uint8]) -> Pieces:
        """Those of values (n, length), each once."""
        length = values.shape[1]
        keys, first = np.unique(
            self.keys(values, np.zeros(1, np.int64), length)[:, 0], return_index=True
        )
        records = np.empty(len(keys), KEYS)
        records["key"] = keys
        records["check"] = [self.check(values[row].tobytes()) for row in first]
        return Pieces(length, records)

    def needles(self, values: Sequence[bytes]) -> NDArray[np.void]:
        """NEEDLES of texts of at least SHORTEST bytes, all different, ascending by window."""
        records = np.empty(len(values), NEEDLES)
        for place, value in enumerate(values):
            value = value[:LONGEST]
            ending = value.rfind(b".", len(value) - _ENDING)
            end = max(WINDOW, ending if ending >= 0 else len(value))
            window = self.window(value[end - WINDOW : end])
            records[place] = (window, len(value), end - WINDOW, self.digest("text", value))
        return records[np.argsort(records["window"], kind="stable")]

    def window(self, content: bytes) -> int:
        """32 bits of eight bytes."""
        return (int.from_bytes(content, "big") * int(self.factor) % 2**64) >> 32


class KeyTable:
    """Which numbers of `bits` bits are among some, quickly: a bitmap of their highest bits, then a
    search among them."""

    def __init__(self, numbers: NDArray[np.uint64], *, bits: int) -> None:
        self.numbers = np.ascontiguousarray(numbers)
        size = min(max(12, (64 * len(numbers)).bit_length()), 28, bits)
        self.shift = np.uint64(bits - size)
        self.map = np.zeros(max(1, 2**size // 64), np.uint64)
        slots = self.numbers >> self.shift
        np.bitwise_or.at(
            self.map,
            (slots >> np.uint64(6)).astype(np.int64),
            np.uint64(1) << slots % np.uint64(64),
        )

    def mark(self, numbers: NDArray[np.uint64], seen: NDArray[np.bool_]) -> None:
        """Set `seen` where one of ours is among the numbers."""
        _mark(numbers.reshape(-1), self.map, self.shift, self.numbers, seen)


class Finder:
    """Looks for pieces and texts in buffers. Any number of threads may use it."""

    def __init__(
        self, hasher: Hasher, *, pieces: Sequence[Pieces], needles: NDArray[np.void]
    ) -> None:
        self._hasher = hasher
        self._windows = KeyTable(needles["window"].astype(np.uint64), bits=32)
        self._texts: dict[int, dict[tuple[int, int], dict[bytes, int]]] = {}
        for number, (window, length, lead, digest) in enumerate(needles.tolist()):
            texts = self._texts.setdefault(window, {}).setdefault((length, lead), {})
            texts[digest] = number
        self._pieces = [
            (one, KeyTable(one.records["key"].astype(np.uint64), bits=64))
            for one in pieces
            if len(one.records)
        ]
        lengths = [one.length for one, _ in self._pieces]
        self.overlap = max([*lengths, int(needles["length"].max(initial=1))]) - 1
        """Bytes that a buffer must reach beyond the last offset of interest."""

    def pieces(self, buffer: NDArray[np.uint8]) -> list[tuple[int, int]]:
        """(offset, length) of every piece, ascending by offset."""
        found = []
        for pieces, table in self._pieces:
            length, records = pieces.length, pieces.records
            for at in _candidates(_piece_windows, buffer, length, self._hasher.base, table):
                piece = buffer[at : at + length]
                keys = self._hasher.keys(piece[None], np.zeros(1, np.int64), length)
                place = int(np.searchsorted(records["key"], keys[0, 0]))
                if records["check"][place] == self._hasher.check(piece.tobytes()):
                    found.append((at, length))
        return sorted(found)

    def needles(self, buffer: NDArray[np.uint8]) -> list[tuple[int, int]]:
        """(offset, number of the needle) of every text, ascending by offset."""
        if not self._texts:
            return []
        found = []
        content = np.ascontiguousarray(buffer).data
        for at in _candidates(_text_windows, buffer, WINDOW, self._hasher.factor, self._windows):
            texts = self._texts[self._hasher.window(bytes(content[at : at + WINDOW]))]
            for (length, lead), numbers in texts.items():
                start = at - lead
                if start >= 0 and start + length <= len(content):
                    value = bytes(content[start : start + length])
                    number = numbers.get(self._hasher.digest("text", value))
                    if number is not None:
                        found.append((start, number))
        return sorted(found)


def _candidates(
    walk: Any, buffer: NDArray[np.uint8], length: int, multiplier: np.uint64, table: KeyTable
) -> Iterator[int]:
    found = np.empty(_ROOM, np.int64)
    begin = 0
    while begin + length <= len(buffer):
        count, begin = walk(
            buffer, begin, length, multiplier, table.map, table.shift, table.numbers, found
        )
        yield from found[:count].tolist()


@compiled()
def _place(number, numbers):  # type: ignore[no-untyped-def]
    """Where it is among ascending numbers, −1 where it is not."""
    low, high = 0, len(numbers)
    while low < high:
        middle = (low + high) >> 1
        if numbers[middle] < number:
            low = middle + 1
        else:
            high = middle
    return low if low < len(numbers) and numbers[low] == number else -1


# Numba counts references to each array that it passes on, which takes ten times as long as looking
# at the bitmap: so the loops do that themselves.


@compiled()
def _mark(found, bits, shift, numbers, seen):  # type: ignore[no-untyped-def]
    for i in range(len(found)):
        slot = found[i] >> shift
        bit = (bits[slot >> np.uint64(6)] >> (slot & np.uint64(63))) & np.uint64(1)
        if bit:
            place = _place(found[i], numbers)
            if place >= 0:
                seen[place] = True


@compiled()
def _keys(rows, starts, length, base, keys):  # type: ignore[no-untyped-def]
    """Σ (byte + 1) · base^(length − 1 − i)."""
    for row in range(len(rows)):
        for k in range(len(starts)):
            key = np.uint64(0)
            for i in range(starts[k], starts[k] + length):
                key = key * base + np.uint64(rows[row, i]) + np.uint64(1)
            keys[row, k] = key


@compiled()
def _piece_windows(  # type: ignore[no-untyped-def]
    data, begin, length, base, bits, shift, numbers, found
):
    """Offsets from begin on of windows whose key is among numbers; how many of them are in found,
    and where to go on."""
    leaving = np.uint64(1)
    for _ in range(length):
        leaving *= base
    key = np.uint64(0)
    for i in range(begin, begin + length):
        key = key * base + np.uint64(data[i]) + np.uint64(1)
    count, end = 0, len(data) - length
    for at in range(begin, end + 1):
        slot = key >> shift
        bit = (bits[slot >> np.uint64(6)] >> (slot & np.uint64(63))) & np.uint64(1)
        if bit and _place(key, numbers) >= 0:
            found[count] = at
            count += 1
            if count == len(found):
                return count, at + 1
        if at < end:
            change = np.uint64(data[at + length]) + np.uint64(1)
            change -= leaving * (np.uint64(data[at]) + np.uint64(1))
            key = key * base + change
    return count, end + 1


@compiled()
def _text_windows(  # type: ignore[no-untyped-def]
    data, begin, _length, factor, bits, shift, numbers, found
):
    """The same for 8 bytes, by the high half of their product with factor."""
    word = np.uint64(0)
    for i in range(begin, begin + 7):
        word = (word << np.uint64(8)) | np.uint64(data[i])
    count = 0
    for at in range(begin, len(data) - 7):
        word = (word << np.uint64(8)) | np.uint64(data[at + 7])
        number = (word * factor) >> np.uint64(32)
        slot = number >> shift
        bit = (bits[slot >> np.uint64(6)] >> (slot & np.uint64(63))) & np.uint64(1)
        if bit and _place(number, numbers) >= 0:
            found[count] = at
            count += 1
            if count == len(found):
                return count, at + 1
    return count, len(data) - 7
