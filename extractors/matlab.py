"""Tables, lists of names and structures in MATLAB files of version 5 to 7, looked through before
SciPy reads them: damaged ones end SciPy 1.17, and the interpreter with it.

The format is that of "MAT-File Format", The MathWorks, chapter 1, level 5.
"""

import io
import math
import re
import struct
import zlib
from collections.abc import Sequence
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
_CELL, _STRUCTURE, _TEXT = 1, 2, 4
_HOLDS = {
    **dict.fromkeys((_CELL, _STRUCTURE), frozenset((_MATRIX,))),
    _TEXT: frozenset((1, 2, 3, 4, 16, 17, 18)),
}
"""Types of the elements in an array, by its class: cells, structures and text, beside numbers.
There are no objects or sparse arrays in lists and tables."""

_INT8, _INT32 = 1, 5
_FIELD = re.compile(rb"([A-Za-z]\w*)\0+")
_LONGEST_FIELD = 64
"""Bytes of a field's name, with the 0 at its end; MATLAB has no longer ones."""

_COMPLEX = 0x800
_MOST_SIZES = 32 * 4
_DEEPEST = 8

_BLANKS = 64 * 2**10
"""Characters that a text may have without a byte for each: SciPy takes such for blanks."""


def read_mat(path: Path, *names: str, layout: str) -> list[NDArray[Any]]:
    """Those variables of a MATLAB file of version 5 to 7 that has no structures. Raises
    BadSource."""
    found = _read(path, names, layout=layout, structures=False)
    for name in names:
        if name not in found:
            raise _missing(path, name, found)
    return [found[name] for name in names]


def read_structure(path: Path, *names: str, layout: str) -> tuple[str, dict[str, Any]]:
    """The first of those variables that a MATLAB file of version 5 to 7 has, and what it holds: a
    structure as field → value, structures within it likewise, other values as arrays.

    Raises BadSource, also for a list of structures where a single one is meant.
    """
    found = _read(path, names, layout=layout, structures=True)
    for name in names:
        if name in found:
            return name, _fields(found[name], name=name, path=path)
    raise _missing(path, " or ".join(names), found)


def _fields(value: NDArray[Any], *, name: str, path: Path) -> dict[str, Any]:
    if value.dtype.names is None or value.shape != (1, 1):
        raise BadSource(f"{path}: {name} is not one structure of fields")
    one = value[0, 0]
    return {
        field: _fields(one[field], name=f"{name}.{field}", path=path)
        if one[field].dtype.names
        else one[field]
        for field in value.dtype.names
    }


def _missing(path: Path, name: str, found: dict[str, Any]) -> BadSource:
    there = ", ".join(sorted(found)) or "nothing"
    return BadSource(f"{path}: there is no variable {name!r}, it holds {there}")


def _read(path: Path, names: Sequence[str], *, layout: str, structures: bool) -> dict[str, Any]:
    """Name → value of those of the variables that are there; of the others None."""
    from scipy.io import loadmat, whosmat

    need(path, layout=layout)
    try:
        content = read_bytes(path, most=_LARGEST)
        room = room_for(len(content))
        _check(content, room=room, structures=structures)
        held = whosmat(io.BytesIO(content))
        if sum(8 * math.prod(map(int, shape)) for _, shape, _ in held) > room:
            raise ValueError("it claims more than its size can mean")
        found = loadmat(io.BytesIO(content), variable_names=names)
    except Exception as error:  # for damaged files, scipy's reader raises whatever comes
        reason = " ".join(str(error).split())
        raise BadSource(f"{path}: not a MATLAB file up to version 7: {reason}") from None
    return {name: found.get(name) for name, *_ in held}


def _check(content: bytes, *, room: int, structures: bool) -> None:
    """Raise ValueError unless every data element is one, lies in the one that holds it, and all of
    them take no more than so many bytes unpacked."""
    order = {b"IM": "<", b"MI": ">"}.get(content[126:_HEADER])
    if order is None or 0 in content[:4]:  # by which SciPy knows files of version 4
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
        _check_matrix(data, order, depth=0, structures=structures)


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


def _check_matrix(content: bytes, order: str, *, depth: int, structures: bool) -> None:
    if not content:  # an empty cell
        return
    if depth > _DEEPEST:
        raise ValueError("cells within cells beyond all reason")
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
    kind_of_array = flags & 255
    wanted = math.prod(sizes) if kind_of_array in (_CELL, _STRUCTURE) else 1
    if kind_of_array == _STRUCTURE:
        if not structures:
            raise ValueError("it has a structure, where tables and lists are expected")
        fields, at = _count_fields(content, at, order)
        wanted *= fields
    of_numbers = _NUMBERS if kind_of_array in _NUMERIC else frozenset[int]()
    holds = _HOLDS.get(kind_of_array, of_numbers)
    count = 0
    while at < len(content):
        kind, data, at = _element(content, at, order)
        if kind not in holds:
            raise ValueError(f"an array of the class {kind_of_array} with one of the type {kind}")
        count += 1
        if kind == _MATRIX:
            _check_matrix(data, order, depth=depth + 1, structures=structures)
        elif kind_of_array == _TEXT and math.prod(sizes) > max(len(data), _BLANKS):
            raise ValueError(f"a text of {sizes} in {len(data)} bytes")
    if count != wanted:
        raise ValueError(f"an array of {sizes} with {count} elements")


def _count_fields(content: bytes, at: int, order: str) -> tuple[int, int]:
    """How many fields a structure has, and where their values begin. SciPy divides by the length
    that the names are said to have, and reads each up to its 0."""
    kind, data, at = _element(content, at, order)
    (length,) = struct.unpack(f"{order}i", data) if kind == _INT32 and len(data) == 4 else (0,)
    kind, data, at = _element(content, at, order)
    if not 2 <= length <= _LONGEST_FIELD or kind != _INT8 or not data or len(data) % length:
        raise ValueError("a structure without names of fields")
    names = [data[start : start + length] for start in range(0, len(data), length)]
    found = [_FIELD.fullmatch(name) for name in names]
    if not all(found):
        raise ValueError("a structure with a field of no proper name")
    if len({match[1] for match in found if match}) < len(names):
        raise ValueError("a structure with two fields of one name")
    return len(names), at
