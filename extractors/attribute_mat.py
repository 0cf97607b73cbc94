"""The labels of persons of Market-1501 and DukeMTMC-reID: market_attribute.mat, duke_attribute.mat.

Lin et al., Improving Person Re-identification by Attribute and Identity Learning, Pattern
Recognition 2019, arXiv:1703.07220. A structure with the structures train and test, whose fields
have a code for each person each; the persons are in image_index. The fields of the two come in
different orders, so they are read by name.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from reid_index.attributes import PREFIX
from reid_index.errors import BadSource
from reid_index.reading import shown

from .attribute_vocabulary import NO, YES
from .matlab import read_structure

_LAYOUT = "labels of persons are in market_attribute.mat or duke_attribute.mat"
_PARTS = ("train", "test")
_PERSONS = "image_index"
_MARKED = 2
"""The code of a colour that a person wears; 1 where not."""


@dataclass(frozen=True)
class _Fields:
    """What the fields of a file mean. words: field → its attribute, and the words of the codes from
    1 on. colors: attribute → what the names of its fields begin with, and end with."""

    words: Mapping[str, tuple[str, tuple[str, ...]]]
    colors: Mapping[str, tuple[str, tuple[str, ...]]]

    @property
    def names(self) -> set[str]:
        """All of them."""
        of_colors = (begin + end for begin, ends in self.colors.values() for end in ends)
        return {_PERSONS, *self.words, *of_colors}


_IS_CARRIED = {name: (name, (NO, YES)) for name in ("hat", "backpack", "bag", "handbag")}
_GENDER = {"gender": ("gender", ("male", "female"))}

_MARKET = _Fields(
    words={
        **_GENDER,
        "hair": ("hair", ("short", "long")),
        "up": ("sleeve", ("long", "short")),
        "down": ("lower_length", ("long", "short")),
        "clothes": ("lower_type", ("dress", "pants")),
        **_IS_CARRIED,
        "age": ("age", ("young", "teenager", "adult", "old")),
    },
    colors={
        "upper_color": (
            "up",
            ("black", "white", "red", "purple", "yellow", "gray", "blue", "green"),
        ),
        "lower_color": (
            "down",
            ("black", "white", "pink", "purple", "yellow", "gray", "blue", "green", "brown"),
        ),
    },
)

_DUKE = _Fields(
    words={
        **_GENDER,
        "top": ("sleeve", ("short", "long")),
        "boots": ("boots", (NO, YES)),
        **_IS_CARRIED,
        "shoes": ("shoes", ("dark", "light")),
    },
    colors={
        "upper_color": (
            "up",
            ("black", "white", "red", "purple", "gray", "blue", "green", "brown"),
        ),
        "lower_color": ("down", ("black", "white", "red", "gray", "blue", "green", "brown")),
    },
)

_KNOWN = {"market_attribute": _MARKET, "duke_attribute": _DUKE}


def read_attribute_mat(path: Path) -> tuple[pa.Table, list[str]]:
    """The persons of both parts, `person` as Market-1501's file names have them (0002), and their
    attributes: `attr.<name>` a dictionary of strings, or a list of strings, sorted, for colours.
    And, a line each, what there is of codes that mean nothing.

    Unknown (null) is what has such a code, and the colours of who has no colour marked, or one with
    such a code. Persons may be there twice.

    Raises BadSource for what is no such file, with the names of fields that are missing or that
    nobody knows, and where a field has another length than image_index.
    """
    variable, parts = read_structure(path, *_KNOWN, layout=_LAYOUT)
    fields = _KNOWN[variable]
    strange = [name for name in parts if name not in _PARTS]
    if strange or not parts:
        named = ", ".join(map(repr, strange)) or "nothing"
        raise BadSource(f"{path}: {variable} has train and test, not {named}")
    tables, faults = [], []
    for name, part in parts.items():
        where = f"{path}, {name}"
        if not isinstance(part, dict):
            raise BadSource(f"{where}: it is not a structure of fields")
        _check_names(part, fields, where=where)
        persons = _persons(part[_PERSONS], where=where)
        codes = {
            field: _codes(part[field], field=field, rows=len(persons), where=where)
            for field in part
            if field != _PERSONS
        }
        faults += _faults(codes, fields, where=where)
        tables.append(_table(persons, codes, fields))
    return pa.concat_tables(tables).unify_dictionaries(), faults


def _check_names(part: Mapping[str, Any], fields: _Fields, *, where: str) -> None:
    missing, strange = sorted(fields.names - part.keys()), sorted(part.keys() - fields.names)
    told = [
        *([f"there is no field {_listed(missing)}"] if missing else []),
        *([f"nobody knows the field {_listed(strange)}"] if strange else []),
    ]
    if told:
        raise BadSource(f"{where}: {'; '.join(told)}; get the file anew")


def _listed(names: list[str]) -> str:
    return ", ".join(map(repr, names))


def _persons(values: Any, *, where: str) -> list[str]:
    """As Market-1501's layout writes them: numbers of at least four digits."""
    if isinstance(values, dict) or values.dtype.kind not in "OUui":
        raise BadSource(f"{where}: image_index is no list of persons")
    persons = []
    for number, value in enumerate(values.ravel(), start=1):
        # MATLAB's cell of strings: an array of arrays of one text each.
        text = "".join(map(str, np.ravel(value))).strip()
        if not re.fullmatch(r"\d{1,9}", text, re.ASCII):
            raise BadSource(
                f"{where}: image_index has {shown(text)} for person {number}; a number, please"
            )
        persons.append(f"{int(text):04d}")
    return persons


def _codes(values: Any, *, field: str, rows: int, where: str) -> NDArray[Any]:
    """(rows,), numbers."""
    if isinstance(values, dict) or values.dtype.kind not in "uif":
        raise BadSource(f"{where}: the field {field!r} has no numbers")
    if values.size != rows:
        raise BadSource(
            f"{where}: the field {field!r} has {values.size:,} codes for {rows:,} persons"
        )
    codes: NDArray[Any] = values.ravel()
    return codes


def _means(codes: NDArray[Any], *, most: int) -> NDArray[np.bool_]:
    """Which codes are whole numbers from 1 to the largest."""
    found: NDArray[np.bool_] = np.isin(codes, np.arange(1, most + 1))
    return found


def _faults(codes: Mapping[str, NDArray[Any]], fields: _Fields, *, where: str) -> list[str]:
    """A line for each field that has codes that mean nothing."""
    lines = []
    for field, found in codes.items():
        most = len(fields.words[field][1]) if field in fields.words else _MARKED
        wrong = found[~_means(found, most=most)]
        if len(wrong):
            several = np.unique(wrong)
            some = ", ".join(f"{code:g}" for code in several[:5])
            more = ", …" if len(several) > 5 else ""
            persons = "1 person" if len(wrong) == 1 else f"{len(wrong):,} persons"
            lines.append(
                f"{where}: the field {field!r} has codes from 1 to {most}, and {some}{more} for "
                f"{persons}: unknown"
            )
    return lines


def _table(persons: list[str], codes: Mapping[str, NDArray[Any]], fields: _Fields) -> pa.Table:
    columns: dict[str, pa.Array] = {"person": pa.array(persons, pa.string())}
    for field, (name, words) in fields.words.items():
        unknown = ~_means(codes[field], most=len(words))
        places = np.where(unknown, 0, codes[field]).astype(np.int32) - 1
        columns[PREFIX + name] = pa.DictionaryArray.from_arrays(
            pa.array(np.maximum(places, 0), pa.int32(), mask=unknown), pa.array(words)
        )
    for name, (begin, colors) in fields.colors.items():
        ordered = sorted(colors)
        table = np.stack([codes[begin + color] for color in ordered], axis=1)
        known: NDArray[np.bool_] = np.all(_means(table, most=_MARKED), axis=1)
        columns[PREFIX + name] = pa.array(
            [
                [color for color, code in zip(ordered, row, strict=True) if code == _MARKED] or None
                if is_known
                else None
                for is_known, row in zip(known, table, strict=True)
            ],
            pa.list_(pa.string()),
        )
    return pa.table(columns)
