"""Files that anybody may have written, read within limits: nothing is made room for because a file
claims to hold it.

What is raised here is ValueError or OSError of one line; readers make it an error of their own.
"""

import io
import json
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from stat import S_ISREG
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from .footer import read_claims

LARGEST_JSON = 64 * 2**20
"""Bytes of a JSON file: a manifest of 100,000 shards is as large, and takes ten times as much
memory once it is read."""

GROWTH = 256
ALWAYS = 2**30
"""What is read may take GROWTH times the bytes of its file, and ALWAYS so many: columns of one
value, or of none, shrink by more than any real table does as a whole, but for small ones."""

_ADDED = 16
"""Columns that a reader may add to a table: those that items always have."""

LARGEST_INTEGER = 2**63 - 1

PARQUET_ERRORS = (pa.ArrowException, OSError, ValueError)
"""What is raised for a file that is no Parquet, is damaged or claims too much."""

_COLUMNS = 4096
"""Columns of a table, those within columns counted too: the widest known have some hundreds."""


def room_for(size: int) -> int:
    """How many bytes may be made of a file of so many."""
    return max(ALWAYS, GROWTH * size)


def read_bytes(path: Path, *, most: int) -> bytes:
    """All bytes of a file, of which there may be so many.

    Raises ValueError for more and for what is no file: a pipe or a device would never end.
    """
    with open(path, "rb", opener=_without_waiting) as file:
        status = os.fstat(file.fileno())
        if not S_ISREG(status.st_mode):
            raise ValueError("it is not a file")
        content = b"" if status.st_size > most else file.read(most + 1)
    if status.st_size > most or len(content) > most:
        raise ValueError(f"it has more than {most:,} bytes")
    return content


def _without_waiting(name: str, flags: int) -> int:
    """Open a pipe that nobody writes to, too."""
    return os.open(name, flags | os.O_NONBLOCK)


def parse_json(content: bytes | str) -> Any:
    """The value of a JSON text. Raises ValueError for what is not JSON, NaN and infinity among it,
    and for thousands of brackets within each other."""
    try:
        return json.loads(content, parse_constant=_no_number)
    except RecursionError:
        raise ValueError("it has brackets within brackets beyond all reason") from None


def _no_number(word: str) -> Any:
    raise ValueError(f"{word} is no number of JSON")


def read_json(path: Path, *, most: int = LARGEST_JSON) -> Any:
    """`parse_json` of a file of at most so many bytes; raises OSError, ValueError."""
    return parse_json(read_bytes(path, most=most))


def whole(value: Any, *, name: str, least: int = 0, most: int = LARGEST_INTEGER) -> int:
    """A whole number of a JSON file. Raises ValueError for anything else or beyond the bounds."""
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{name} is {shown(value)}, not a whole number from {least} to {most}")
    return value


def number(value: Any, *, name: str, least: float = -math.inf, most: float = math.inf) -> float:
    """A finite number of a JSON file. Raises ValueError for anything else or beyond the bounds."""
    if type(value) in (int, float) and least <= value <= most and abs(value) <= 1e308:
        return float(value)
    raise ValueError(f"{name} is {shown(value)}, not a finite number from {least} to {most}")


def text(value: Any, *, name: str) -> str:
    """A text of a JSON file. Raises ValueError for anything else and for halves of characters."""
    if not isinstance(value, str):
        raise ValueError(f"{name} is {shown(value)}, not a text")
    value.encode()  # a UnicodeEncodeError is a ValueError
    return value


def shown(value: Any) -> str:
    """A value in one short line for a message."""
    plain = [value] if not isinstance(value, list) else value
    if len(plain) > 8 or not all(isinstance(one, str | int | float | None) for one in plain):
        return f"a {type(value).__name__}"
    written = ascii(value)
    return written if len(written) <= 40 else f"{written[:39]}…"


class ParquetTable:
    """A Parquet file, its footer looked at and found within limits; its rows are not read yet.

    schema: names and types of its columns. rows: how many it has.

    Text is read as Arrow's dictionaries first, as a file of some hundred bytes can hold gigabytes
    of one text again and again, and made plain once it is known how large it becomes.
    """

    def __init__(self, source: Path | bytes, *, rows: int | None = None) -> None:
        """source: a file, or its bytes. rows: how many it has to have.

        Raises PARQUET_ERRORS.
        """
        if isinstance(source, bytes):
            size, claimed = len(source), read_claims(io.BytesIO(source))
        else:
            if source.exists() and not source.is_file():
                raise ValueError("it is not a file")
            with source.open("rb") as file:
                size, claimed = os.fstat(file.fileno()).st_size, read_claims(file)
        self._room = room_for(size)
        facts, self.schema = _look_at(source)
        self.rows: int = facts.num_rows
        if rows is not None and self.rows != rows:
            raise ValueError(f"it has {self.rows} rows, not {rows}")
        if not (self.rows >= 0 and facts.num_columns <= _COLUMNS):
            raise ValueError(f"it claims {self.rows} rows of {facts.num_columns} columns")
        added = self.rows * (len(self.schema) + _ADDED)
        if claimed.size + 8 * claimed.values + 8 * added > 2 * self._room:
            raise ValueError(f"it claims {self.rows:,} rows, of more bytes than its size can mean")
        if len(set(self.schema.names)) < len(self.schema):
            raise ValueError("two columns have the same name")
        columns = map(facts.schema.column, range(facts.num_columns))
        texts = [column.path for column in columns if column.physical_type == "BYTE_ARRAY"]
        self._file = pq.ParquetFile(_opened(source), metadata=facts, read_dictionary=texts)

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows, of all columns or of those."""
        # Arrow cannot read lists of dictionaries over several groups of rows at once.
        groups = range(self._file.num_row_groups)
        read = [self._file.read_row_group(at, columns=columns) for at in groups]
        return self._plain(pa.concat_tables(read) if read else self._file.read(columns=columns))

    def batches(self, rows: int) -> Iterator[pa.Table]:
        """All rows, so many at a time, or fewer where a group of rows ends."""
        for at in range(self._file.num_row_groups):
            for batch in self._file.iter_batches(rows, row_groups=[at]):
                yield self._plain(pa.Table.from_batches([batch]))

    def _plain(self, table: pa.Table) -> pa.Table:
        # Arrow takes what a file holds for UTF-8, and its places of a dictionary for such.
        table.validate(full=True)
        if sum(map(_spread, table.columns)) > self._room:
            raise ValueError("it holds more text than its size can mean")
        kinds = [
            (field.name, _without_dictionary(field.type, self.schema.field(field.name).type))
            for field in table.schema
        ]
        return table.cast(pa.schema(kinds))


def _opened(source: Path | bytes) -> Any:
    return pa.BufferReader(source) if isinstance(source, bytes) else source


def _look_at(source: Path | bytes) -> tuple[Any, pa.Schema]:
    """The facts of a Parquet file, and its schema."""
    with pq.ParquetFile(_opened(source)) as file:
        return file.metadata, file.schema_arrow


def _spread(column: Any) -> int:
    """Bytes of all texts of a column, each as often as it is there."""
    if isinstance(column, pa.ChunkedArray):
        return sum(map(_spread, column.chunks))
    if pa.types.is_dictionary(column.type):
        lengths = pc.binary_length(column.dictionary).cast(pa.int64())
        return pc.sum(lengths.take(column.indices)).as_py() or 0
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        return _spread(column.flatten())
    if pa.types.is_struct(column.type):
        return sum(map(_spread, column.flatten()))
    return 0


def _without_dictionary(kind: pa.DataType, meant: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind) and not pa.types.is_dictionary(meant):
        return kind.value_type
    if pa.types.is_list(kind) and pa.types.is_dictionary(kind.value_type):
        return pa.list_(kind.value_field.with_type(kind.value_type.value_type))
    return kind
