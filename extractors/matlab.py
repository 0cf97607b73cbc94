"""Tables and lists of names in MATLAB files of version 5 to 7, looked through before SciPy reads
them: damaged ones end SciPy 1.17, and the interpreter with it.

The format is that of "MAT-File Format", The MathWorks, chapter 1, level 5.
"""

import io
import math
import struct
import zlib
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from reid_index.errors import BadSource
from reid_index.reading import read_bytes, room_for

from .records import need

_LARGEST = 2**30
"""Bytes of a file, 20 times the largest list of a published data set."""

_HEADER = 128
_MATRIX, _COMPRESSED = 14, 15
_HEAD = (6, 5, 1)
"""Types of the elements that an array begins with: flags, dimensions, name; 1-1 in the format."""

_NUMBERS = frozenset((*range(1, 8), 9, 12, 13))
_NUMERIC = range(6, 16)
_CELL = 1
_HOLDS = {_CELL: frozenset((_MATRIX,)), 4: frozenset((1, 2, 3, 4, 16, 17, 18))}
"""Types of the elements in an array, by its class: cells and text, beside numbers. There are no
structures, objects or sparse arrays in lists and tables."""

_COMPLEX = 0x800
_MOST_SIZES = 32 * 4
_DEEPEST = 8


def read_mat(path: Path, *names: str, layout: str) -> list[NDArray[Any]]:
    """Those variables of a MATLAB file of version 5 to 7. Raises BadSource."""
    from scipy.io import loadmat, whosmat

    need(path, layout=layout)
    try:
        content = read_bytes(path, most=_LARGEST)
        room = room_for(len(content))
        _check(content, room=room)
        held = whosmat(io.BytesIO(content))
        if sum(8 * math.prod(map(int, shape)) for _, shape, _ in held) > room:
            raise ValueError("it claims more than its size can mean")
        found = loadmat(io.BytesIO(content), variable_names=names)
    except Exception as error:  # for damaged files, scipy's reader raises whatever comes
        raise BadSource(f"{path}: not a MATLAB file up to version 7: {error}") from None
    for name in names:
        if name not in found:
            there = ", ".join(sorted(name for name, *_ in held)) or "nothing"
            raise BadSource(f"{path}: there is no variable {name!r}, it holds {there}")
    return [found[name] for name in names]


def _check(content: bytes, *, room: int) -> None:
    """Raise ValueError unless every data element is one, lies in the one that holds it, and all of
    them take no more than so many bytes unpacked."""
    order = {b"IM": "<", b"MI": ">"}.get(content[126:_HEADER])
    if order is None:
        raise ValueError("it has no header")
    at = _HEADER
    while at < len(content):
        kind, data, at = _element(content, at, order)
        if kind == _COMPRESSED:
            unpacker = zlib.decompressobj()
            data = unpacker.decompress(data, room)
            if unpacker.unconsumed_tail or not unpacker.eof:
                raise ValueError("it is cut, or unpacks to more than its size can mean")
            room -= len(data)
            kind, data, _ = _element(data, 0, order)
        if kind != _MATRIX:
            raise ValueError(f"a variable in it is of the type {kind}")
        _check_matrix(data, order, depth=0)


def _element(content: bytes, at: int, order: str) -> tuple[int, bytes, int]:
    """The type and data of the element at a place, and where the next begins."""
    if at + 8 > len(content):
        raise ValueError("it is cut")
    kind, size = struct.unpack_from(f"{order}II", content, at)
    begin = at + 8
    if kind >> 16:  # a small one: type and size in the first half of the tag
        kind, size, begin = kind & 0xFFFF, kind >> 16, at + 4
        end = at + 8
        if size > 4:
            raise ValueError(f"a small element of {size} bytes")
    else:
        end = begin + size if kind == _COMPRESSED else begin + -(-size // 8) * 8
    if begin + size > len(content):
        raise ValueError("an element reaches beyond what holds it")
    return kind, content[begin : begin + size], end


def _check_matrix(content: bytes, order: str, *, depth: int) -> None:
    if not content:  # an empty cell
        return
    if depth > _DEEPEST:
        raise ValueError("cells within cells")
    head = []
    at = 0
    for wanted in _HEAD:
        kind, data, at = _element(content, at, order)
        if kind != wanted:
            raise ValueError(f"an array begins with an element of the type {kind}")
        head.append(data)
    if len(head[0]) != 8 or len(head[1]) % 4 or not 8 <= len(head[1]) <= _MOST_SIZES:
        raise ValueError("an array of no class or size")
    (flags,) = struct.unpack(f"{order}I", head[0][:4])
    sizes = struct.unpack(f"{order}{len(head[1]) // 4}i", head[1])
    if min(sizes) < 0 or flags & _COMPLEX:
        raise ValueError("an array of complex numbers, or of a size below 0")
    holds = _HOLDS.get(flags & 255, _NUMBERS if flags & 255 in _NUMERIC else frozenset())
    count = 0
    while at < len(content):
        kind, data, at = _element(content, at, order)
        if kind not in holds:
            raise ValueError(f"an array of the class {flags & 255} with one of the type {kind}")
        count += 1
        if kind == _MATRIX:
            _check_matrix(data, order, depth=depth + 1)
    if count != (math.prod(sizes) if flags & 255 == _CELL else 1):
        raise ValueError(f"an array of {sizes} with {count} elements")
