"""What a filter asks of item columns, answered: once, by Arrow, or again and again, by bitmaps.

where.py fits an expression to the columns; the predicates that it then has are answered here.
`known` of each is the plain answer. `Columns` gives the same from columns prepared for it.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ..errors import UsageError

if TYPE_CHECKING:
    from .where import Where

Kind = Literal["number", "boolean", "text", "time", "set"]

# A pyarrow array, chunked or not; pyarrow publishes no types.
_Array: TypeAlias = Any
# Eight rows a byte, the first in the lowest bit; what follows the last row is arbitrary.
Bitmap: TypeAlias = NDArray[np.uint8]
# Where a predicate is true, and where it is false; where neither, it is unknown.
Answer: TypeAlias = tuple[Bitmap, Bitmap]

_KEPT = 128
"""Predicates whose answers are kept: 2 bits of a row each, so 32 bytes of a row in all at most."""

_BLOCK = 2**16
"""Rows compared at a time: what is made of them stays in the cache, in memory used before."""

_SAMPLE = 4096
_REPEATED = 16
"""Numbers are coded where a sample holds each of them so often, on average."""

_SPANS = 8
"""From so many values on, looking up every code is faster than comparing all codes with each."""

_COMPARE = {
    "=": pc.equal,
    "!=": pc.not_equal,
    "<": pc.less,
    "<=": pc.less_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
}
_COMPARE_NUMBERS = {
    "=": np.equal,
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
}


def kind_of(column_type: pa.DataType) -> Kind | None:
    """How columns of a type, without dictionary, are compared; None: not at all."""
    types = pa.types
    if types.is_boolean(column_type):
        return "boolean"
    is_float = types.is_float32(column_type) or types.is_float64(column_type)
    if is_float or (types.is_integer(column_type) and not types.is_uint64(column_type)):
        return "number"
    if types.is_timestamp(column_type) and column_type.unit == "us" and column_type.tz:
        return "time"
    if types.is_string(column_type) or types.is_large_string(column_type):
        return "text"
    if types.is_list(column_type) and types.is_string(column_type.value_type):
        return "set"
    return None


def plain_type(column_type: pa.DataType) -> pa.DataType:
    """The type without dictionary."""
    return column_type.value_type if pa.types.is_dictionary(column_type) else column_type


def _plain(table: pa.Table, name: str) -> _Array:
    column = table[name]
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


@dataclass(frozen=True)
class OfValues:
    """A column beside values: operator = != < <= > >= and one value, or IN and any number; for sets
    alone also WITHIN and any number.

    values: int, float, bool or str; times as microseconds since 1970. type: that of the values and
    of the comparison: int64 or float64 for integers, the elements' for a set (= contains, != does
    not, IN contains any, WITHIN contains no other), otherwise the column's.
    """

    name: str
    operator: str
    values: tuple[int | float | str, ...]
    type: pa.DataType

    def known(self, table: pa.Table) -> _Array:
        """Whether it is true for each row, null where that is unknown: chunked bool (rows,)."""
        column, values = _plain(table, self.name), pa.array(self.values, type=self.type)
        if pa.types.is_list(column.type):
            contains = _contains_any(column, values, others=self.operator == "WITHIN")
            return pc.invert(contains) if self.operator in ("!=", "WITHIN") else contains
        # Not safe: that refuses integers beyond 2⁵³ instead of rounding them.
        column = column.cast(self.type, safe=False)
        if self.operator != "IN":
            return _COMPARE[self.operator](column, values[0])
        if pa.types.is_floating(column.type):
            # is_in takes −0.0 and 0.0 for two numbers; adding 0.0 leaves only the latter.
            zero = pa.scalar(0.0, column.type)
            column, values = pc.add(column, zero), pc.add(values, zero)
        found = pc.is_in(column, value_set=values)
        return pc.if_else(pc.is_valid(column), found, pa.scalar(None, pa.bool_()))


@dataclass(frozen=True)
class OfColumns:
    """A column beside another of its kind, with an operator as above; no sets."""

    name: str
    operator: str
    other: str

    def known(self, table: pa.Table) -> _Array:
        """As `OfValues.known`; integers as int64, integers beside floats as float64."""
        column, other = _plain(table, self.name), _plain(table, self.other)
        if kind_of(column.type) == "number":
            whole = pa.types.is_integer(column.type) and pa.types.is_integer(other.type)
            common = pa.int64() if whole else pa.float64()
            column, other = column.cast(common, safe=False), other.cast(common, safe=False)
        return _COMPARE[self.operator](column, other)


@dataclass(frozen=True)
class IsNull:
    """Whether a column, of any type, has no value; never unknown."""

    name: str

    def known(self, table: pa.Table) -> _Array:
        """As `OfValues.known`."""
        return pc.is_null(_plain(table, self.name))


Predicate: TypeAlias = OfValues | OfColumns | IsNull
Step: TypeAlias = Predicate | str
"""Of an expression in postfix order: a predicate, or "and", "or", "not"."""


def _contains_any(column: _Array, values: _Array, *, others: bool) -> _Array:
    """Whether each set has any of the values, or any other; null where the set is null."""
    rows, elements = _elements(column)
    found = pc.is_in(elements, value_set=values).to_numpy() != others
    contains = np.zeros(len(column), np.bool_)
    contains[rows[found]] = True
    return pa.chunked_array([pa.array(contains, mask=pc.is_null(column).to_numpy())])


def _elements(column: _Array) -> tuple[NDArray[np.intp], _Array]:
    """The row of each element of all sets, ascending; the elements."""
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
    return np.repeat(np.arange(len(column)), lengths), pc.list_flatten(column)


class Columns:
    """The item table of one generation, for filters: what it prepares and answers is kept.

    The first expression about a column, unless that is of a dictionary, is answered the plain way:
    one filter alone should not pay for preparing. From the second on, a column is prepared: text,
    booleans and numbers that repeat become codes (1, 2 or 4 bytes a row, and the distinct values);
    other numbers and times stay as they are (nothing where the table holds them in one piece
    without nulls, else their own size); sets become lists of rows (8 bytes an element). The answers
    of the last 128 different predicates
    are kept, packed: 32 bytes a row at most. Threads may share it.
    """

    def __init__(self, table: pa.Table) -> None:
        self.schema: pa.Schema = table.schema
        self._rows: int = table.num_rows
        self._asked: set[str] = set()
        # Neither refers to self: it should go as soon as its gallery does.
        self._fit = lru_cache(maxsize=_KEPT)(partial(_fit, table.schema))
        self._answer = lru_cache(maxsize=_KEPT)(_Source(table, self._asked).answer)

    def mask(self, where: "Where") -> NDArray[np.bool_]:
        """Just what `where.mask(table)` gives, or raises: a new array, bool (N,)."""
        return self.unpacked(self.answer(self._fit(where))[0])

    def answer(self, steps: Sequence[Step]) -> Answer:
        """Where an expression in postfix order, as `Where.on` has it, is true, and where false."""
        stack: list[Answer] = []
        for step in steps:
            if not isinstance(step, str):
                stack.append(self._answer(step))
            elif step == "not":
                stack.append(stack.pop()[::-1])
            else:
                (true, false), (other_true, other_false) = stack.pop(), stack.pop()
                if step == "and":
                    stack.append((true & other_true, false | other_false))
                else:
                    stack.append((true | other_true, false & other_false))
        self._asked.update(step.name for step in steps if not isinstance(step, str))
        return stack.pop()

    def fitted(self, where: "Where") -> tuple[Step, ...]:
        """`where.on` of these columns, kept."""
        return self._fit(where)

    def not_camera(self, numbers: Sequence[int]) -> NDArray[np.bool_]:
        """The rows that are not known to be of those cameras: a new array, bool (N,).

        Rows of unknown camera stay. Raises UsageError for anything but whole numbers of 32 bits.
        """
        if not all(isinstance(n, int | np.integer) and abs(n) < 2**31 for n in numbers):
            raise UsageError(f"not_camera must hold whole numbers of 32 bits, got {list(numbers)}")
        wanted = tuple(sorted({int(number) for number in numbers}))
        true, _ = self._answer(OfValues("camera", "IN", wanted, pa.int64()))
        self._asked.add("camera")
        return self.unpacked(~true)

    def unpacked(self, bitmap: Bitmap) -> NDArray[np.bool_]:
        """A bitmap as a new array, bool (N,)."""
        return np.unpackbits(bitmap, count=self._rows, bitorder="little").view(np.bool_)


def _fit(schema: pa.Schema, where: "Where") -> tuple[Step, ...]:
    return where.on(schema)


class _Source:
    """Answers predicates; prepares columns that were asked about in an earlier expression."""

    def __init__(self, table: pa.Table, asked: set[str]) -> None:
        self._table = table
        self._asked = asked
        self._prepared: dict[str, _Prepared] = {}

    def answer(self, predicate: Predicate) -> Answer:
        if not (isinstance(predicate, OfValues) and self._is_prepared(predicate.name)):
            known = predicate.known(self._table)
            true = packed(pc.fill_null(known, False).to_numpy())
            return true, ~packed(pc.fill_null(known, True).to_numpy())
        # Two threads may both prepare it, and find the same.
        column = self._prepared.get(predicate.name)
        if column is None:
            column = _prepare(self._table[predicate.name])
            self._prepared[predicate.name] = column
        operator = {"IN": "=", "!=": "="}.get(predicate.operator, predicate.operator)
        true = column.matches(operator, predicate.values)
        if column.known is None:
            false = ~true
        else:
            true, false = true & column.known, ~true & column.known
        return (false, true) if predicate.operator == "!=" else (true, false)

    def _is_prepared(self, name: str) -> bool:
        """Whether a column is, or should be. Words of a dictionary are codes already: preparing
        them takes less than answering the plain way."""
        return name in self._asked or pa.types.is_dictionary(self._table.schema.field(name).type)


def counted(bitmap: Bitmap) -> int:
    """How many bits are set; none may be behind the last row."""
    return int(np.count_nonzero(np.unpackbits(bitmap).view(np.bool_)))


def packed(mask: NDArray[np.bool_]) -> Bitmap:
    """A mask as a bitmap, without a bit behind the last row."""
    return np.packbits(mask, bitorder="little")


def _packed_in_blocks(test: Callable[[slice], NDArray[np.bool_]], rows: int) -> Bitmap:
    """The rows that test finds, a block at a time."""
    bitmap = np.empty((rows + 7) // 8, np.uint8)
    for start in range(0, rows, _BLOCK):
        stop = min(rows, start + _BLOCK)
        bitmap[start // 8 : (stop + 7) // 8] = packed(test(slice(start, stop)))
    return bitmap


def _packed_run(start: int, stop: int, rows: int) -> Bitmap:
    """The rows from start to below stop."""
    bitmap = np.zeros((rows + 7) // 8, np.uint8)
    if start < stop:
        first, last = start // 8, (stop - 1) // 8
        bitmap[first : last + 1] = 0xFF
        bitmap[first] &= 0xFF << start % 8 & 0xFF
        bitmap[last] &= 0xFF >> 7 - (stop - 1) % 8
    return bitmap


class _Prepared(Protocol):
    """A column prepared. known: the rows that are not null, None for all."""

    @property
    def known(self) -> Bitmap | None: ...

    def matches(self, operator: str, values: Sequence[Any]) -> Bitmap:
        """The rows that compare so (= < <= > >=) with any of the values, null rows arbitrary."""


def _prepare(column: _Array) -> _Prepared:
    kind = kind_of(plain_type(column.type))
    if pa.types.is_dictionary(column.type) and not (kind == "text" and _is_a_code(column)):
        column = column.cast(column.type.value_type)
    known = packed(pc.is_valid(column).to_numpy()) if column.null_count else None
    if kind == "set":
        return _Sets.of(column, known)
    if kind == "time":
        column = column.cast(pa.int64())
    if kind in ("number", "time"):
        numbers = (column.fill_null(0) if column.null_count else column).to_numpy()
        sample = numbers[:: max(1, len(numbers) // _SAMPLE)]
        if len(np.unique(sample)) * _REPEATED > len(sample):
            return _Numbers.of(numbers, known)
    return _Codes.of(column, known)


@dataclass(frozen=True, eq=False)
class _Numbers:
    """Numbers as they are. in_order: none is smaller than the one before, or NaN."""

    values: NDArray[Any]
    in_order: bool
    known: Bitmap | None

    @classmethod
    def of(cls, values: NDArray[Any], known: Bitmap | None) -> "_Numbers":
        in_order = (values[1:] >= values[:-1]).all() and (values[:1] == values[:1]).all()
        return cls(values, bool(in_order), known)

    def matches(self, operator: str, values: Sequence[Any]) -> Bitmap:
        rows = len(self.values)
        if self.in_order:
            found = np.zeros((rows + 7) // 8, np.uint8)
            for value in values:
                found |= _packed_run(*_span(self.values, rows, operator, value), rows)
            return found

        def test(block: slice) -> NDArray[np.bool_]:
            numbers = self.values[block]  # NumPy, too, compares integers and a float as float64
            if len(values) != 1:
                return np.isin(numbers, np.array(values))
            compared: NDArray[np.bool_] = _COMPARE_NUMBERS[operator](numbers, values[0])
            return compared

        return _packed_in_blocks(test, rows)


@dataclass(frozen=True, eq=False)
class _Codes:
    """Each row as the place of its value among the distinct ones, which are sorted; len(distinct)
    for null. numbers: of the distinct, those that are not NaN, which comes last."""

    distinct: Any
    numbers: int
    codes: NDArray[Any]
    known: Bitmap | None

    @classmethod
    def of(cls, column: _Array, known: Bitmap | None) -> "_Codes":
        distinct, codes = _encoded(column)
        numbers = len(distinct)
        if not isinstance(distinct, pa.Array):
            numbers = int(np.count_nonzero(distinct == distinct))
        return cls(distinct, numbers, codes, known)

    def matches(self, operator: str, values: Sequence[Any]) -> Bitmap:
        spans = [_span(self.distinct, self.numbers, operator, value) for value in values]
        spans = [(low, high) for low, high in spans if low < high]
        wanted = np.zeros(len(self.distinct) + 1, np.bool_)
        for low, high in spans:
            wanted[low:high] = True

        def test(block: slice) -> NDArray[np.bool_]:
            codes = self.codes[block]
            found: NDArray[np.bool_]
            if 1 <= len(spans) <= _SPANS:
                found = self._within(codes, *spans[0])
                for span in spans[1:]:
                    found |= self._within(codes, *span)
            else:
                found = wanted[codes]
            return found

        return _packed_in_blocks(test, len(self.codes))

    def _within(self, codes: NDArray[Any], low: int, high: int) -> NDArray[np.bool_]:
        """Whether each code is from low to below high; arbitrary for null."""
        found: NDArray[np.bool_]
        if high - low == 1:
            found = codes == codes.dtype.type(low)
        elif high == len(self.distinct):
            found = codes >= codes.dtype.type(low)
        else:
            found = codes < codes.dtype.type(high)
            if low:
                found &= codes >= codes.dtype.type(low)
        return found


@dataclass(frozen=True, eq=False)
class _Sets:
    """The rows that hold each distinct element, one element's after the other's: those of
    distinct[i] are rows[starts[i] : starts[i + 1]]. count: of all rows."""

    distinct: Any
    rows: NDArray[np.intp]
    starts: NDArray[np.intp]
    count: int
    known: Bitmap | None

    @classmethod
    def of(cls, column: _Array, known: Bitmap | None) -> "_Sets":
        rows, elements = _elements(column)
        distinct, codes = _encoded(elements)
        counts = np.bincount(codes, minlength=len(distinct))
        starts = np.concatenate([[0], np.cumsum(counts)])
        return cls(distinct, rows[np.argsort(codes, kind="stable")], starts, len(column), known)

    def matches(self, operator: str, values: Sequence[Any]) -> Bitmap:
        if operator == "WITHIN":
            every = range(len(self.starts) - 1)  # null, which comes last, among them
            return ~self._with(set(every) - self._places("=", values))
        return self._with(self._places(operator, values))

    def _places(self, operator: str, values: Sequence[Any]) -> set[int]:
        """Which distinct elements compare so with any of the values."""
        spans = [_span(self.distinct, len(self.distinct), operator, value) for value in values]
        return {place for low, high in spans for place in range(low, high)}

    def _with(self, places: set[int]) -> Bitmap:
        """The rows that hold any of those elements."""
        found = np.zeros(self.count, np.bool_)
        for place in places:
            found[self.rows[self.starts[place] : self.starts[place + 1]]] = True
        return packed(found)


def _is_a_code(column: _Array) -> bool:
    """Whether each chunk's dictionary has each value once, and no null."""
    words = [chunk.dictionary for chunk in column.chunks]
    return all(one.null_count == 0 and len(pc.unique(one)) == len(one) for one in words)


def _encoded(column: _Array) -> tuple[Any, NDArray[Any]]:
    """The distinct values, sorted, NaN last: an Arrow array of text, otherwise NumPy's; and each
    row's place among them in the smallest unsigned type, len(distinct) for null."""
    if not pa.types.is_dictionary(column.type):
        if kind_of(column.type) == "text":
            column = column.cast(pa.large_string())  # one piece of it may exceed 2 GiB
        column = column.dictionary_encode()
    encoded = column.unify_dictionaries()
    distinct = (
        encoded.chunk(0).dictionary if encoded.num_chunks else pa.array([], column.type.value_type)
    )
    order = pc.sort_indices(distinct)
    places = np.empty(len(distinct) + 1, np.min_scalar_type(len(distinct)))
    places[order.to_numpy()] = np.arange(len(distinct))
    places[-1] = len(distinct)
    pieces = [places[chunk.indices.fill_null(len(distinct)).to_numpy()] for chunk in encoded.chunks]
    codes = np.concatenate([places[:0], *pieces])
    distinct = distinct.take(order)
    is_text = kind_of(distinct.type) == "text"
    return distinct if is_text else distinct.to_numpy(zero_copy_only=False), codes


def _span(ordered: Any, count: int, operator: str, value: Any) -> tuple[int, int]:
    """From where to where the first `count` elements, sorted, compare so with the value.

    They are compared in the value's Python type: integers beside a float as floats, and a text of
    Arrow as a str, whose order, by code point, is that of its UTF-8.
    """

    def place(bisect: Any) -> int:
        found: int = bisect(ordered, value, hi=count, key=type(value))
        return found

    match operator:
        case "<":
            return 0, place(bisect_left)
        case "<=":
            return 0, place(bisect_right)
        case ">":
            return place(bisect_right), count
        case ">=":
            return place(bisect_left), count
    return place(bisect_left), place(bisect_right)
