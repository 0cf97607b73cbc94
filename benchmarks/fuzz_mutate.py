"""Damage for fuzzing: bytes, JSON and where expressions changed at random, all by one seeded
generator."""

import json
import struct
from collections.abc import Sequence
from random import Random
from typing import Any

EXTREMES = (0, 1, -1, 127, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63)
"""Integers at which counts, sizes and offsets go wrong."""

_STRANGE: tuple[Any, ...] = (
    *EXTREMES,
    *(-(2**31), -(2**63), 10**12, 10**30, 10**400, 0.5, -0.0, 1e-320, 1e308, float("inf")),
    *(float("nan"), True, False, None, "", "x", "\0", "a\nb", "../..", "/etc/passwd", "\ud800"),
    *("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"),
    *("é" * 3000, "1" * 5000, [], {}, [[]], {"": None}, [0] * 3000, [[[[[[1]]]]]]),
)


def bytes_of(content: bytes, rng: Random, *, others: Sequence[bytes] = ()) -> bytes:
    """The bytes after one to four changes. others: files to take pieces from."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        _change(changed, rng, others or (content,))
    return bytes(changed)


def _change(data: bytearray, rng: Random, others: Sequence[bytes]) -> None:
    if not data:
        data += rng.randbytes(rng.randrange(1, 64))
    at = rng.randrange(len(data))
    piece = slice(at, at + 2 ** rng.randrange(10))
    match rng.randrange(11):
        case 0 | 1:
            data[at] ^= 1 << rng.randrange(8)
        case 2:
            data[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        case 3:
            kind = rng.choice(("<H", ">H", "<I", ">I", "<Q", ">Q"))
            number = rng.choice(EXTREMES) + rng.choice((-1, 0, 0, 1))
            size = struct.calcsize(kind)
            data[at : at + size] = struct.pack(kind, number % 2 ** (8 * size))
        case 4:
            del data[at:]
        case 5:
            del data[piece]
        case 6:
            data[at:at] = data[piece]
        case 7:
            other = rng.choice(others)
            begin = rng.randrange(len(other) + 1)
            data[piece] = other[begin : begin + 2 ** rng.randrange(10)]
        case 8:
            there = rng.randrange(len(data))
            data[piece], data[there : there + 16] = data[there : there + 16], data[piece]
        case 9:
            data[at:at] = rng.randbytes(rng.randrange(1, 64))
        case _:
            _change_number(data, rng, at)


def _change_number(data: bytearray, rng: Random, at: int) -> None:
    """Another number in place of one that is written in digits, the next behind a place."""
    begin = next((i for i in range(at, len(data)) if chr(data[i]).isdigit()), None)
    if begin is None:
        return
    end = next((i for i in range(begin, len(data)) if not chr(data[i]).isdigit()), len(data))
    data[begin:end] = str(rng.choice(_STRANGE[:18])).encode()


def json_of(value: Any, rng: Random) -> bytes:
    """A value, changed in one to four places, as JSON; NaN and infinity as Python writes them."""
    value = _copy(value)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        places = list(_places(value))
        if not places:
            break
        holder, key = rng.choice(places)
        _change_node(value, holder, key, rng)
    if rng.random() < 0.02:
        value = rng.choice(_STRANGE)
    if rng.random() < 0.02:
        return b"[" * rng.choice((900, 100_000)) + b"]" * 900
    return json.dumps(value).encode()


def _places(value: Any) -> Any:
    """Where values are: the object or list, and the key or index."""
    keys = value.keys() if isinstance(value, dict) else range(len(value))
    for key in list(keys):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from _places(value[key])


def _change_node(value: Any, holder: Any, key: Any, rng: Random) -> None:
    old = holder[key]
    match rng.randrange(8):
        case 0:
            del holder[key]
        case 1:
            other, at = rng.choice(list(_places(value)))
            holder[key] = _copy(other[at])
        case 2 if isinstance(old, list) and old:
            old.append(_copy(rng.choice(old)))
        case 3 if isinstance(holder, dict):
            name = rng.choice((f"{key}x", "format", "requires", "rows", ""))
            holder[name] = _copy(old)
        case 4 | 5 if type(old) in (int, float):
            holder[key] = rng.choice((old + 1, old - 1, -old, old * 2, str(old), [old]))
        case 4 | 5 if isinstance(old, str):
            holder[key] = rng.choice((old[:-1], old + old[-1:], old.upper(), f"../{old}", [old]))
        case _:
            holder[key] = _copy(rng.choice(_STRANGE))


def _copy(value: Any) -> Any:
    return json.loads(json.dumps(value))


_VALUES = (
    *("3", "-1", "0", "2.5", "1e400", "-0.0", "+7", ".5", "9" * 30, "9223372036854775807"),
    *("'red'", "''", "'it''s'", "'2024-05-01'", "'2024-05-01T12:30+02:00'", "'0001-01-01'"),
    *("'9999-12-31T23:59:59'", "TRUE", "false", "NULL", "'\0'", "'é'", "'\U0001f600'"),
)
_COMPARISONS = ("=", "==", "!=", "<>", "<", "<=", ">", ">=", "=>", "~")


def expression(columns: Sequence[str], rng: Random, *, depth: int = 4) -> str:
    """A where expression about those columns, now and then about none, that mostly can be read."""
    if depth and rng.random() < 0.6:
        left = expression(columns, rng, depth=depth - 1)
        match rng.randrange(4):
            case 0:
                return f"NOT {left}"
            case 1:
                return f"({left})"
            case _:
                right = expression(columns, rng, depth=depth - 1)
                return f"{left} {rng.choice(('AND', 'OR', 'and', 'oR'))} {right}"
    column, other = _column(columns, rng), _column(columns, rng)
    value, second = rng.choice(_VALUES), rng.choice(_VALUES)
    negated = rng.choice(("", "NOT "))
    match rng.randrange(6):
        case 0:
            return f"{column} {negated}IN ({', '.join((value, second)[: rng.randrange(3)])})"
        case 1:
            return f"{column} {negated}BETWEEN {value} AND {second}"
        case 2:
            return f"{column} IS {negated}NULL"
        case 3:
            return f"{column} {rng.choice(_COMPARISONS)} {other}"
        case 4:
            return f"{value} {rng.choice(_COMPARISONS)} {column}"
        case _:
            return f"{column} {rng.choice(_COMPARISONS)} {value}"


def _column(columns: Sequence[str], rng: Random) -> str:
    name = rng.choice((*columns, *columns, "nobody", "item.", "and"))
    return name if rng.random() < 0.8 else f'"{name}"'


def text_of(content: str, rng: Random) -> str:
    """A text after changes to its characters, halves of characters among them."""
    characters = list(content)
    for _ in range(rng.randrange(1, 5)):
        at = rng.randrange(len(characters) + 1)
        match rng.randrange(4):
            case 0:
                characters[at:at] = rng.choice(("'", '"', "(", ")", "\0", "\n", "\ud800", "é", "0"))
            case 1:
                del characters[at : at + rng.randrange(1, 9)]
            case 2:
                characters[at:at] = characters[at : at + 30]
            case _:
                characters[at:at] = [rng.choice(("(" * 3000, "NOT " * 2000, "9" * 9000, " AND "))]
    return "".join(characters)
