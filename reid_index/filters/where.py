"""The where language: the one filter over item columns, for Python, command line and HTTP alike.

An expression is parsed once and then fitted to any number of tables; columns.py answers what it
then asks of a column. Its grammar knows columns and literals only: no functions, no arithmetic, no
way to anything but the columns of the table.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from difflib import get_close_matches
from functools import cache, lru_cache
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ..attributes import PREFIX, names_in
from ..errors import WhereError
from .columns import IsNull, Kind, OfColumns, OfValues, Predicate, kind_of, plain_type

if TYPE_CHECKING:
    from lark import Lark, Token, Tree, UnexpectedToken

_MAX_CHARACTERS = 10_000
_KEPT = 128
"""Expressions that stay parsed."""

# Columns and values are whole terminals, not rules: each parser state then knows exactly what may
# follow, which is what the error messages say.
_GRAMMAR = r"""
?start: start _OR conjunction -> or
    | conjunction
?conjunction: conjunction _AND negation -> and
    | negation
?negation: NOT negation -> not
    | "(" start ")"
    | COLUMN COMPARE (COLUMN | VALUE) -> compare
    | VALUE COMPARE COLUMN -> compare
    | COLUMN NOT? _IN "(" VALUE ("," VALUE)* ")" -> in
    | COLUMN NOT? _BETWEEN (COLUMN | VALUE) _AND (COLUMN | VALUE) -> between
    | VALUE NOT? _BETWEEN COLUMN _AND COLUMN -> between
    | COLUMN _IS NOT? _NULL -> null

_AND.1: /and(?![\w.])/i
_OR.1: /or(?![\w.])/i
NOT.1: /not(?![\w.])/i
_IN.1: /in(?![\w.])/i
_BETWEEN.1: /between(?![\w.])/i
_IS.1: /is(?![\w.])/i
_NULL.1: /null(?![\w.])/i
VALUE.1: TEXT | NUMBER | BOOLEAN
TEXT: /'(?:[^']|'')*'(?!')/
NUMBER: /[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:e[+-]?[0-9]+)?(?![\w.])/i
BOOLEAN: /(?:true|false)(?![\w.])/i
COLUMN: /[^\W\d]\w*(?:\.\w+)*/ | /"(?:[^"]|"")+"(?!")/
COMPARE: /[<>=!]=|<>|[<>=]/
%ignore /\s+/
"""

_WORDS = {
    "COLUMN": "a column",
    "VALUE": "a value",
    "COMPARE": "= != < <= > >=",
    "NOT": "NOT",
    "_IN": "IN",
    "_BETWEEN": "BETWEEN",
    "_IS": "IS",
    "_NULL": "NULL",
    "_AND": "AND",
    "_OR": "OR",
    "LPAR": "'('",
    "COMMA": "','",
    "RPAR": "')'",
    "$END": "the end",
}
_BARE_NAME = re.compile(
    r"(?!(?:and|or|not|in|between|is|null|true|false)\Z)[^\W\d]\w*(?:\.\w+)*", re.IGNORECASE
)

_1970 = datetime(1970, 1, 1, tzinfo=UTC)
_SAME = {"==": "=", "<>": "!="}
_MIRRORED = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}

_WANTED: dict[Kind, str] = {
    "number": "a number such as 3",
    "boolean": "TRUE or FALSE",
    "text": "text in 'single quotes'",
    "time": "a time in quotes, such as '2024-05-01T12:30'",
    "set": "text in 'single quotes'",
}


@dataclass(frozen=True)
class _Place:
    """A character of an expression, counted from 0."""

    text: str
    index: int

    def error(self, what: str, advice: str) -> WhereError:
        """What is wrong here and what to do, then the expression and a caret below the place."""
        start, end = max(0, self.index - 40), self.index + 40
        before = ("…" if start else "") + self.text[start : self.index]
        after = self.text[self.index : end] + ("…" if end < len(self.text) else "")
        return WhereError(
            f"where: {what} at character {self.index + 1}{advice}"
            f"\n  {_printable(before + after)}\n  {' ' * len(before)}^"
        )


@dataclass(frozen=True)
class _Column:
    name: str
    place: _Place

    def type_in(self, schema: pa.Schema) -> pa.DataType:
        """Its type without dictionary. Raises WhereError where there is no such column."""
        if self.name not in schema.names:
            raise self._unknown(schema.names)
        return plain_type(schema.field(self.name).type)

    def kind_in(self, schema: pa.Schema) -> tuple[Kind, pa.DataType]:
        """As `type_in`, with its kind. Raises WhereError for a type that has no comparisons."""
        found = self.type_in(schema)
        kind = kind_of(found)
        if kind is None:
            raise self.place.error(
                f"column {_quoted(self.name)} has type {found}, which cannot be compared",
                "; use another column, or IS NULL",
            )
        return kind, found

    def _unknown(self, names: Sequence[str]) -> WhereError:
        by_lower = {name.lower(): name for name in names}
        close = get_close_matches(self.name.lower(), by_lower, n=1)
        hint = ""
        if close:
            hint = f" (did you mean {_quoted(by_lower[close[0]])}?)"
        elif not self.name.startswith(PREFIX):
            hint = " (text goes in 'single quotes')"
        what = "columns"
        if self.name.startswith(PREFIX):
            # Each has two columns more, among which those that can be meant are hard to see.
            what, names = "attributes", [PREFIX + name for name in names_in(names)]
        written = (
            name if _BARE_NAME.fullmatch(name) else '"' + name.replace('"', '""') + '"'
            for name in names
        )
        listed = _printable(", ".join(written)) or "none"
        return self.place.error(f"unknown column {_quoted(self.name)}", f"{hint}; {what}: {listed}")


@dataclass(frozen=True)
class _Value:
    value: bool | int | float | str
    written: str
    place: _Place

    def fit(self, name: str, kind: Kind, column_type: pa.DataType) -> Any:
        """The value as a column of that kind takes it. Raises WhereError where it does not fit."""
        wanted = {"number": (int, float), "boolean": (bool,)}.get(kind, (str,))
        if type(self.value) not in wanted:
            raise self.place.error(
                f"{_shortened(self.written)} does not fit column {_quoted(name)} ({column_type})",
                f"; write {_WANTED[kind]}",
            )
        return self._time() if kind == "time" else self.value

    def _time(self) -> int:
        """Microseconds since 1970."""
        try:
            time = datetime.fromisoformat(str(self.value))
            time = time.replace(tzinfo=time.tzinfo or UTC).astimezone(UTC)
        except (ValueError, OverflowError):
            raise self.place.error(
                f"{_shortened(self.written)} is not a time",
                "; write ISO 8601 such as '2024-05-01' or '2024-05-01T12:30+02:00'",
            ) from None
        return (time - _1970) // timedelta(microseconds=1)


@dataclass(frozen=True)
class _Compare:
    column: _Column
    operator: str
    other: _Column | _Value

    def on(self, schema: pa.Schema) -> OfValues | OfColumns:
        """What it asks of such columns. Raises WhereError where it does not fit them."""
        kind, found = self.column.kind_in(schema)
        if kind in ("set", "boolean") and self.operator not in ("=", "!="):
            raise self.column.place.error(
                f"column {_quoted(self.column.name)} ({found}) has no order",
                "; use =, != or IN",
            )
        if isinstance(self.other, _Value):
            return _of_values(self.column.name, self.operator, [self.other], kind, found)
        other_kind, other_found = self.other.kind_in(schema)
        if kind != other_kind or kind == "set":
            raise self.other.place.error(
                f"column {_quoted(self.other.name)} ({other_found}) does not compare with "
                f"column {_quoted(self.column.name)} ({found})",
                "; use two columns of numbers, of text, of times or of booleans",
            )
        return OfColumns(self.column.name, self.operator, self.other.name)


@dataclass(frozen=True)
class _In:
    column: _Column
    values: tuple[_Value, ...]

    def on(self, schema: pa.Schema) -> OfValues:
        return _of_values(self.column.name, "IN", self.values, *self.column.kind_in(schema))


@dataclass(frozen=True)
class _IsNull:
    column: _Column

    def on(self, schema: pa.Schema) -> IsNull:
        self.column.type_in(schema)
        return IsNull(self.column.name)


_Step = _Compare | _In | _IsNull | str


@dataclass(frozen=True, kw_only=True)
class Where:
    """A parsed expression, from `compile_where`.

    text: as it was written. steps: its predicates and "and", "or", "not" in postfix order, so that
    no depth of nesting needs recursion. Two of the same text are equal.
    """

    text: str
    steps: tuple[_Step, ...] = field(compare=False, repr=False)

    def on(self, schema: pa.Schema) -> tuple[Predicate | str, ...]:
        """The steps with what each predicate asks of columns of that schema.

        Raises WhereError for a column that it has not and for a value or operator that does not
        fit its column.
        """
        return tuple(step if isinstance(step, str) else step.on(schema) for step in self.steps)

    def columns(self, schema: pa.Schema) -> list[str]:
        """The columns of that schema that it asks. Raises WhereError as `on` does."""
        asked: dict[str, None] = {}
        for step in self.on(schema):
            if not isinstance(step, str):
                asked[step.name] = None
                if isinstance(step, OfColumns):
                    asked[step.other] = None
        return list(asked)

    def mask(self, table: pa.Table) -> NDArray[np.bool_]:
        """Whether the expression is true for each row: bool (rows,); False where it is unknown.

        Nothing is kept; `Columns` in columns.py gives the same, faster when it is asked again.
        Raises WhereError as `on` does.
        """
        stack: list[Any] = []
        for step in self.on(table.schema):
            if not isinstance(step, str):
                stack.append(step.known(table))
            elif step == "not":
                stack.append(pc.invert(stack.pop()))
            else:
                right, left = stack.pop(), stack.pop()
                combine = pc.and_kleene if step == "and" else pc.or_kleene
                stack.append(combine(left, right))
        return np.asarray(pc.fill_null(stack.pop(), False).to_numpy(), dtype=np.bool_)


@lru_cache(maxsize=_KEPT)
def compile_where(text: str) -> Where:
    """Parse an expression such as `camera != 3 AND attr.hat = 'yes' AND start >= '2024-05-01'`.

    Predicates, with a column on at least one side; keywords in any case:
        = == != <> < <= > >=, IN (…), NOT IN (…), BETWEEN a AND b (both included), NOT BETWEEN,
        IS NULL, IS NOT NULL; joined by NOT, AND, OR, which bind in this order, and brackets.
    Columns are words joined by dots; any other name, and a keyword as a name, goes in "double
    quotes". Values are 'text' (a quote within is doubled), TRUE, FALSE, int64 and finite float64.

    A null makes its predicate unknown, and NOT, AND and OR follow Kleene, as in SQL; the mask has
    the rows that are true. So neither `attr.hat = 'yes'` nor `NOT attr.hat = 'yes'` keeps a row
    whose attr.hat is null.

    Numbers: a value is rounded to a float column's type, so that 0.9 finds the float32 nearest to
        it; integers beside a float are compared as float64; NaN follows IEEE 754.
    Text: ordered by code point. Booleans: no order, only = != and IN.
    Times (timestamp[us] with a time zone): ISO 8601 text; UTC where it has no offset; a date alone
        is its midnight.
    Sets (list of text): = contains, != does not contain, IN contains any, and no other operator.
        A null within a set equals nothing.
    Columns of one kind compare with each other, sets excepted. Columns of other types, boxes among
    them, have IS NULL and IS NOT NULL only.

    Raises WhereError for text that is empty, longer than 10,000 characters or not an expression;
    its message is a line and, below, the expression with a caret at the place.
    """
    from lark import UnexpectedCharacters, UnexpectedToken  # 35 ms that only a filter should cost

    _check_characters(text)
    try:
        tree = _parser().parse(text)
    except UnexpectedCharacters as error:
        raise _unreadable(_Place(text, error.pos_in_stream or 0)) from None
    except UnexpectedToken as error:
        raise _misplaced(text, error) from None
    return Where(
        text=text, steps=tuple(step for node in _postfix(tree) for step in _steps(text, node))
    )


@cache
def _parser() -> "Lark":
    """Kept, since building it takes longer than most filters."""
    from lark import Lark

    return Lark(_GRAMMAR, parser="lalr", lexer="basic")


def _check_characters(text: str) -> None:
    if not text.strip():
        raise _Place(text, 0).error("the expression is empty", "; write for instance camera = 3")
    if len(text) > _MAX_CHARACTERS:
        raise _Place(text, _MAX_CHARACTERS).error(
            "the expression goes on", f"; shorten it to {_MAX_CHARACTERS:,} characters"
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise _Place(text, error.start).error("half a character", "; remove it") from None


def _unreadable(place: _Place) -> WhereError:
    rest = place.text[place.index :]
    if rest[0] in "'\"":
        thing = "text has no end" if rest[0] == "'" else "column name has no end or is empty"
        return place.error(f"the {thing}", f"; close it with {rest[0]}")
    word = re.match(r"[+-]?[\w.]*", rest)
    return place.error(
        f"cannot read {_quoted(word[0] if word and word[0] else rest[0])}",
        "; write columns, comparisons, numbers, 'text', IN, BETWEEN, IS, AND, OR, NOT and brackets",
    )


def _misplaced(text: str, error: "UnexpectedToken") -> WhereError:
    token = error.token
    at_end = token.type == "$END"
    place = _Place(text, len(text) if at_end else token.start_pos or 0)
    if token.type == "_NULL":
        return place.error("NULL is not a value", "; write IS NULL or IS NOT NULL")
    expected = set(error.expected)
    if "_OR" in expected:
        # After a whole predicate; an LALR state does not know whether a bracket is open.
        before = takewhile(lambda one: (one.start_pos or 0) < place.index, _parser().lex(text))
        types = [one.type for one in before]
        is_open = types.count("LPAR") > types.count("RPAR")
        expected = {"_AND", "_OR", "RPAR" if is_open else "$END"}
    words = [word for terminal, word in _WORDS.items() if terminal in expected]
    listed = " or ".join([", ".join(words[:-1]), words[-1]] if words[1:] else words)
    shown = _shortened(token) if token.startswith(("'", '"')) else _quoted(token)
    what = "the expression ends too early" if at_end else f"unexpected {shown}"
    return place.error(what, f"; expected {listed}")


def _postfix(tree: "Tree[Token]") -> "list[Tree[Token]]":
    """All nodes, each after its children, left to right."""
    nodes, stack = [], [tree]
    while stack:
        node = stack.pop()
        nodes.append(node)
        stack.extend(child for child in node.children if not isinstance(child, str))
    return nodes[::-1]


def _steps(text: str, node: "Tree[Token]") -> Iterator[_Step]:
    tokens = [child for child in node.children if isinstance(child, str)]
    parts = [token for token in tokens if token.type != "NOT"]
    match str(node.data):
        case "and" | "or" as connective:
            yield connective
        case "compare":
            left, operator, right = parts
            yield _compare(_operand(text, left), str(operator), _operand(text, right))
        case "between":
            item, low, high = (_operand(text, part) for part in parts)
            yield from (_compare(item, ">=", low), _compare(item, "<=", high), "and")
        case "in":
            values = tuple(_value(text, part) for part in parts[1:])
            yield _In(_column(text, parts[0]), values)
        case "null":
            yield _IsNull(_column(text, parts[0]))
    if len(parts) < len(tokens):
        yield "not"


def _compare(left: _Column | _Value, operator: str, right: _Column | _Value) -> _Compare:
    operator = _SAME.get(operator, operator)
    if isinstance(left, _Column):
        return _Compare(left, operator, right)
    assert isinstance(right, _Column), "the grammar has a column on one side"
    return _Compare(right, _MIRRORED.get(operator, operator), left)


def _operand(text: str, token: "Token") -> _Column | _Value:
    return _column(text, token) if token.type == "COLUMN" else _value(text, token)


def _column(text: str, token: "Token") -> _Column:
    name = token[1:-1].replace('""', '"') if token.startswith('"') else str(token)
    return _Column(name, _Place(text, token.start_pos or 0))


def _value(text: str, token: "Token") -> _Value:
    place = _Place(text, token.start_pos or 0)
    if token.startswith("'"):
        return _Value(token[1:-1].replace("''", "'"), str(token), place)
    if token.upper() in ("TRUE", "FALSE"):
        return _Value(token.upper() == "TRUE", str(token), place)
    if token.lstrip("+-").isdigit():
        # Decimal, since int() refuses 4,300 digits and more.
        whole = Decimal(token)
        if not -(2**63) <= whole < 2**63:
            raise place.error(f"{_shortened(token)} is beyond int64", "; write it as a float")
        return _Value(int(whole), str(token), place)
    number = float(token)
    if not np.isfinite(number):
        raise place.error(f"{_shortened(token)} is beyond float64", "; write a smaller number")
    return _Value(number, str(token), place)


def _of_values(
    name: str, operator: str, values: Sequence[_Value], kind: Kind, column_type: pa.DataType
) -> OfValues:
    """The comparison, in the type that a column of that type is compared in."""
    fitted = [value.fit(name, kind, column_type) for value in values]
    common = column_type
    if pa.types.is_integer(column_type):
        common = pa.float64() if any(isinstance(one, float) for one in fitted) else pa.int64()
    elif kind == "set":
        common = pa.string()
    if pa.types.is_floating(common):
        fitted = pa.array([float(one) for one in fitted], type=common).to_pylist()
    return OfValues(name, operator, tuple(fitted), common)


def _quoted(name: str) -> str:
    return f"'{_shortened(name)}'"


def _shortened(text: str) -> str:
    return _printable(text if len(text) <= 40 else text[:39] + "…")


def _printable(text: str) -> str:
    """One character for one, so that the caret stays below its place."""
    return "".join(one if one.isprintable() else " " if one.isspace() else "�" for one in text)
