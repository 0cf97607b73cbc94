"""Attributes from CSV and Parquet: somebody's labels, or what somebody looked at and corrected."""

import csv
import io
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from reid_index.attributes import CONFIDENCE, LABEL, ORIGIN, PERSON, PREFIX, check_name
from reid_index.errors import BadSource, UsageError
from reid_index.reading import PARQUET_ERRORS, ParquetTable, read_bytes, shown

from .attribute_vocabulary import NO, VOCABULARY, YES
from .labels import KEYS, Labels

_LARGEST = 2**30
"""Bytes of a CSV: some twenty million rows."""

_BETWEEN = "|"
"""Between the words of a set in a cell."""

_ORIGIN = re.compile(rf"{LABEL}|{PERSON}|model [^\s].*")
_NAMED = 5
"""Words and columns that a message names; the others are counted."""


def read_attribute_table(
    path: Path, *, by: str | None, sets: Mapping[str, bool]
) -> tuple[Labels, list[str], list[str]]:
    """The attributes in a file, what there is of unknown words, and what else is to be told.

    CSV is UTF-8 with a header; an empty cell is unknown. The key is the column `by`, or else the
    first of item, source, person. Attributes are the columns `attr.<name>`, and `<name>` for those
    of the vocabulary; `<name>.confidence` and `<name>.origin` say more of them. Words are made
    lower case where that makes them words of the vocabulary. Sets are words with `|` between them,
    or a JSON list as `reid query --format csv` writes it; so is every cell of a column that has
    such a cell, or that is a set in the gallery or, where that lacks it, in the vocabulary. sets:
    attribute → whether it is a set in the gallery.

    What is neither yes nor no of an attribute that is one of these is refused; other words that the
    vocabulary lacks are taken, and told. Repeated rows are left as they are.

    Raises BadSource, with row (from 1, below the header) and column; UsageError where there is no
    column `by`.
    """
    table = _read(path)
    names = _canonical(table.column_names, path=path)
    key = _key(table.column_names, by=by, path=path)
    attributes = [name for name in names if not name.endswith((CONFIDENCE, ORIGIN))]
    if not attributes:
        raise BadSource(
            f"{path}: there is no attribute in it, as a column such as attr.hat; it has "
            f"{', '.join(map(shown, table.column_names[:_NAMED]))}"
        )
    for name in names:
        of = name.removesuffix(CONFIDENCE).removesuffix(ORIGIN)
        if of not in names:
            raise BadSource(f"{path}: a column {names[name]!r} without the attribute's own")
    columns = {key: _keys(table[key], key=key, path=path)}
    faults: list[str] = []
    for name in attributes:
        short = name.removeprefix(PREFIX)
        column = _Column(path, names[name], short)
        columns[name], strange = column.values(table[names[name]], is_set=sets.get(short))
        if strange:
            some = ", ".join(map(shown, strange[:_NAMED]))
            more = f" and {len(strange) - _NAMED:,} more" if len(strange) > _NAMED else ""
            faults.append(f"{path}, column {names[name]}: words not known here: {some}{more}")
        known = columns[name].is_valid()
        for suffix, read in ((CONFIDENCE, _confidences), (ORIGIN, _origins)):
            if name + suffix in names:
                further = _Column(path, names[name + suffix], short)
                told = read(further, table[further.column])
                columns[name + suffix] = pc.if_else(known, told, pa.scalar(None, told.type))
    found = Labels(table=pa.table(columns), key=key)
    return found, faults, _notes(table.column_names, key=key, names=names, path=path)


def _read(path: Path) -> pa.Table:
    """The file's columns: those of a CSV as text, without outer spaces, null where it is empty."""
    try:
        if path.suffix.lower() == ".parquet":
            return ParquetTable(path).read()
        content = read_bytes(path, most=_LARGEST)
        header = next(
            csv.reader(io.TextIOWrapper(io.BytesIO(content), "utf-8-sig", newline="")), []
        )
        if len(set(header)) < len(header):
            raise ValueError("two columns have the same name")
        table = pa.csv.read_csv(
            pa.BufferReader(content),
            convert_options=pa.csv.ConvertOptions(
                column_types=dict.fromkeys(header, pa.string()),
                strings_can_be_null=True,
                null_values=[""],
            ),
        )
        if table.column_names != header:
            raise ValueError("its first line names no columns")
    except OSError as error:
        raise BadSource(f"{path}: {error.strerror or _line(error)}") from None
    except (*PARQUET_ERRORS, csv.Error) as error:
        raise BadSource(f"{path}: cannot be read as a table: {_line(error)}") from None
    return pa.table({name: _stripped(table[name]) for name in table.column_names})


def _line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _stripped(column: pa.ChunkedArray) -> pa.ChunkedArray:
    clean = pc.utf8_trim_whitespace(column)
    return pc.if_else(pc.equal(clean, ""), pa.scalar(None, pa.string()), clean)


def _canonical(columns: Sequence[str], *, path: Path) -> dict[str, str]:
    """`attr.<name>`, `.confidence` and `.origin` → what the file calls that column. Raises
    BadSource."""
    names: dict[str, str] = {}
    for column in columns:
        base = column.removeprefix(PREFIX).removesuffix(CONFIDENCE).removesuffix(ORIGIN)
        if column.startswith(PREFIX):
            name = column
        elif base in VOCABULARY:
            name = PREFIX + column
        else:
            continue
        if name in names:
            raise BadSource(f"{path}: {names[name]} and {column} are the same; leave one")
        try:
            check_name(base)
        except UsageError as error:
            raise BadSource(f"{path}: {error}") from None
        names[name] = column
    return names


def _key(columns: Sequence[str], *, by: str | None, path: Path) -> str:
    if by is not None:
        if by not in columns:
            raise UsageError(f"{path}: it has no column {by!r}")
        return by
    for key in KEYS:
        if key in columns:
            return key
    raise BadSource(
        f"{path}: whom a row is of is told by a column item, source or person; it has "
        f"{', '.join(map(shown, columns[:_NAMED]))}"
    )


def _notes(columns: Sequence[str], *, key: str, names: Mapping[str, str], path: Path) -> list[str]:
    used = {*KEYS, *names.values()}
    others = [name for name in columns if name not in used]
    notes = []
    if len([name for name in KEYS if name in columns]) > 1:
        notes.append(f"{path}: its rows are told by {key}")
    if others:
        some = ", ".join(others[:_NAMED]) + (", …" if len(others) > _NAMED else "")
        notes.append(f"{path}: not read: {some}; attributes of your own are called attr.NAME")
    return notes


def _keys(column: pa.ChunkedArray, *, key: str, path: Path) -> pa.Array:
    if column.null_count:
        row = pc.index(pc.is_null(column), True).as_py() + 1
        raise BadSource(f"{path}, row {row}: there is no {key}")
    kind = pa.int64() if key == "item" else pa.string()
    try:
        return column.cast(kind).combine_chunks()
    except pa.ArrowException:
        if not pa.types.is_string(column.type):
            raise BadSource(f"{path}: the column {key} holds {column.type}") from None
    row = next(row for row, text in enumerate(column.to_pylist(), 1) if not _is_id(text))
    raise BadSource(
        f"{path}, row {row}: item is {shown(column[row - 1].as_py())}; a number, please"
    )


def _is_id(text: str) -> bool:
    return re.fullmatch(r"-?\d+", text, re.ASCII) is not None and abs(int(text)) < 2**63


class _Column:
    """One column of a file, and the messages on it. column: what the file calls it; name: the
    attribute that it is of."""

    def __init__(self, path: Path, column: str, name: str) -> None:
        self._path = path
        self.column = column
        self._attribute = VOCABULARY.get(name)

    def values(
        self, column: pa.ChunkedArray, *, is_set: bool | None
    ) -> tuple[pa.Array | pa.ChunkedArray, list[str]]:
        """Words as a dictionary of strings, or sets as lists; and the words that the vocabulary
        lacks. is_set: what the gallery has, None where it has nothing of the kind."""
        of_lists = _is_list(column.type)
        texts = None if of_lists else self._texts(column)
        coded = None if texts is None else texts.combine_chunks().dictionary_encode()
        cells = column.to_pylist() if coded is None else coded.dictionary.to_pylist()
        has_sets = of_lists or any(_BETWEEN in cell or _is_json(cell) for cell in cells)
        wanted = self._wants_sets(has_sets, is_set)
        read: Callable[[Any], Any] = self._set if wanted else self._word
        done = []
        for place, cell in enumerate(cells):
            try:
                done.append(None if cell is None else read(cell))
            except ValueError as error:
                row = place if coded is None else pc.index(coded.indices, place).as_py()
                raise self._wrong(row, str(error)) from None
        strange = self._strange(done)
        kind = pa.list_(pa.string()) if wanted else pa.string()
        made = pa.array(done, kind)
        if coded is not None:
            made = made.take(coded.indices)
        return (made if wanted else made.dictionary_encode()), strange

    def _texts(self, column: pa.ChunkedArray) -> pa.ChunkedArray:
        kind = column.type
        if pa.types.is_boolean(kind):
            return pc.if_else(column, YES, NO)
        if pa.types.is_dictionary(kind):
            kind = kind.value_type
        if not (pa.types.is_null(kind) or _is_text(kind)):
            raise BadSource(f"{self._path}: the column {self.column} holds {kind}, not words")
        return _stripped(column.cast(pa.string()))

    def _wants_sets(self, has_sets: bool, is_set: bool | None) -> bool:
        """Raises BadSource where the file has sets, and gallery or vocabulary single words."""
        known = self._attribute.is_set if self._attribute is not None else False
        if has_sets and (is_set is False or (self._attribute is not None and not known)):
            raise BadSource(
                f"{self._path}: the column {self.column} has sets of words, where a single one is "
                "expected"
            )
        return has_sets or (known if is_set is None else is_set)

    def _word(self, text: str) -> str:
        """Raises ValueError."""
        if self._attribute is None:
            return text
        if text.lower() in self._attribute.words:
            return text.lower()
        if self._attribute.is_yes_or_no:
            raise ValueError(f"{shown(text)} is neither yes nor no")
        return text

    def _set(self, cell: Any) -> list[str] | None:
        """Raises ValueError."""
        if isinstance(cell, list):
            words = cell
        elif _is_json(cell):
            words = json.loads(cell)
        else:
            words = cell.split(_BETWEEN)
        if not all(isinstance(word, str) and word.strip() for word in words):
            raise ValueError(f"{shown(cell)} has an empty word")
        return sorted({self._word(word.strip()) for word in words}) or None

    def _strange(self, done: Sequence[Any]) -> list[str]:
        if self._attribute is None:
            return []
        every = {
            word
            for value in done
            if value is not None
            for word in (value if isinstance(value, list) else [value])
        }
        return sorted(every - set(self._attribute.words))

    def _wrong(self, row: int, reason: str) -> BadSource:
        return BadSource(f"{self._path}, row {row + 1}, column {self.column}: {reason}")

    def each(self, column: pa.ChunkedArray, read: Callable[[Any], Any], kind: Any) -> pa.Array:
        """Every value that is not null, as `read` makes it. Raises BadSource where that raises
        ValueError."""
        try:
            coded = column.combine_chunks().dictionary_encode()
        except pa.ArrowException:
            kind = column.type
            raise BadSource(f"{self._path}: the column {self.column} holds {kind}") from None
        done = []
        for place, value in enumerate(coded.dictionary.to_pylist()):
            try:
                done.append(read(value))
            except ValueError as error:
                raise self._wrong(pc.index(coded.indices, place).as_py(), str(error)) from None
        return pa.array(done, kind).take(coded.indices)


def _confidences(column: _Column, values: pa.ChunkedArray) -> pa.Array:
    return column.each(values, _confidence, pa.float32())


def _confidence(value: Any) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number <= 1:
        raise ValueError(f"{shown(value)} is no confidence, a number from 0 to 1")
    return number


def _origins(column: _Column, values: pa.ChunkedArray) -> pa.Array:
    return column.each(values, _origin, pa.string())


def _origin(value: Any) -> str:
    if not (isinstance(value, str) and _ORIGIN.fullmatch(value)):
        raise ValueError(f"{shown(value)} is no origin: label, person, or model and its name")
    return value


def _is_json(cell: Any) -> bool:
    if not (isinstance(cell, str) and cell.startswith("[")):
        return False
    try:
        return isinstance(json.loads(cell), list)
    except (ValueError, RecursionError):
        return False


def _is_text(kind: pa.DataType) -> bool:
    checks = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return any(check(kind) for check in checks)


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))
