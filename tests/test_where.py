"""The where language: masks by value, the place in every error, and an independent evaluator."""

import operator
import subprocess
import sys
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from reid_index.errors import WhereError
from reid_index.filters.where import compile_where

TIME = pa.timestamp("us", tz="UTC")
NOON = datetime(2024, 5, 1, 12, 0, tzinfo=UTC)
HALF_PAST = datetime(2024, 5, 1, 12, 30, tzinfo=UTC)
NAN = float("nan")

CONTENT: dict[str, tuple[pa.DataType, list[Any]]] = {
    "camera": (pa.int32(), [1, 2, 3, None, -4]),
    "other": (pa.int64(), [1, 3, None, 2, -5]),
    "weight": (pa.float32(), [0.9, 2.0, None, NAN, -0.0]),
    "person": (pa.string(), ["ann", "it's", None, "", "Zoë"]),
    "attr.hat": (pa.dictionary(pa.int32(), pa.string()), ["yes", "no", None, "yes", "no"]),
    "start": (TIME, [NOON, HALF_PAST, None, NOON, HALF_PAST]),
    "end": (TIME, [HALF_PAST, HALF_PAST, NOON, None, NOON]),
    "in_store": (pa.bool_(), [True, False, None, True, False]),
    "tags": (pa.list_(pa.string()), [["bag", "cap"], [], None, ["cap", None], ["bag"]]),
    "box": (pa.list_(pa.float32(), 4), [[1, 2, 3, 4]] * 4 + [None]),
}


def make_table() -> pa.Table:
    """CONTENT in two chunks."""
    columns = {}
    for name, (kind, values) in CONTENT.items():
        chunks = [pa.array(values[:2], kind), pa.array(values[2:], kind)]
        columns[name] = pa.chunked_array(chunks).unify_dictionaries()
    return pa.table(columns)


TABLE = make_table()


def rows(text: str, table: pa.Table = TABLE) -> list[int]:
    mask = compile_where(text).mask(table)
    assert mask.dtype == np.bool_
    assert mask.shape == (table.num_rows,)
    return np.flatnonzero(mask).tolist()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("camera = 2", [1]),
        ("camera == 2", [1]),
        ("camera != 2", [0, 2, 4]),
        ("camera <> 2", [0, 2, 4]),
        ("camera <= 2", [0, 1, 4]),
        ("2 <= camera", [1, 2]),
        ("camera=-4", [4]),
        ("camera > 1.5", [1, 2]),
        ("camera = 2.0", [1]),
        ("camera IN (3, -4, 2.5)", [2, 4]),
        ("camera NOT IN (1, 3)", [1, 4]),
        ("camera between 1 and 2", [0, 1]),
        ("camera NOT BETWEEN 1 AND 2 or camera = 1", [0, 2, 4]),
        ("2 BETWEEN camera AND other", [1]),
        ("camera = other", [0]),
        ("other > camera", [1]),
        ("weight = 0.9", [0]),
        ("weight > 0.9", [1]),
        ("weight = 0", [4]),
        ("weight IN (0, 2)", [1, 4]),
        ("weight != 2", [0, 3, 4]),
        ("weight < camera", [0]),
        ("camera != 9223372036854775807", [0, 1, 2, 4]),
        ("person = 'it''s'", [1]),
        ("person = ''", [3]),
        ("person >= 'Z' AND person < 'a'", [4]),
        ("'ann' != person", [1, 3, 4]),
        ('"attr.hat" = "attr.hat"', [0, 1, 3, 4]),
        ("attr.hat IN ('yes', 'maybe')", [0, 3]),
        ("in_store = TRUE", [0, 3]),
        ("in_store IN (false)", [1, 4]),
        ("start < end", [0]),
        ("start >= '2024-05-01' AND start < '2024-05-02'", [0, 1, 3, 4]),
        ("tags = 'cap'", [0, 3]),
        ("tags != 'cap'", [1, 4]),
        ("tags IN ('bag', 'hat')", [0, 4]),
        ("'bag' = tags", [0, 4]),
        ("box IS NOT NULL", [0, 1, 2, 3]),
        ("attr.hat is null", [2]),
        ("camera = 1 OR camera = 2 AND camera = 3", [0]),
        ("(camera = 1 OR camera = 2) AND NOT camera = 1", [1]),
        ("NOT camera = 1 AND camera = 1 OR camera = 3", [2]),
        ("camera = 1\n\tOR\u00a0camera = 2", [0, 1]),
    ],
)
def test_mask_by_value(text: str, expected: list[int]) -> None:
    assert rows(text) == expected


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        ("2024-05-01T12:30", [1, 4]),
        ("2024-05-01 12:30:00.000000Z", [1, 4]),
        ("2024-05-01T14:30+02:00", [1, 4]),
        ("2024-05-01T14:00+02:00", [0, 3]),
        ("2024-04-30T23:45-12:45", [1, 4]),
        ("2024-05-01", []),
    ],
)
def test_times_are_points_in_time_whatever_their_offset(time: str, expected: list[int]) -> None:
    assert rows(f"start = '{time}'") == expected
    assert rows(f"start IN ('{time}')") == expected
    paris = TABLE.select(["start"]).cast(pa.schema([("start", pa.timestamp("us", "Europe/Paris"))]))
    assert rows(f"start = '{time}'", paris) == expected


def test_unknown_follows_kleene() -> None:
    left, right = zip(*product([True, False, None], repeat=2), strict=True)
    table = pa.table({"a": left, "b": right})
    # Rows: TT TF TU  FT FF FU  UT UF UU
    assert rows("a = TRUE AND b = TRUE", table) == [0]
    assert rows("NOT (a = TRUE AND b = TRUE)", table) == [1, 3, 4, 5, 7]
    assert rows("a = TRUE OR b = TRUE", table) == [0, 1, 2, 3, 6]
    assert rows("NOT (a = TRUE OR b = TRUE)", table) == [4]
    assert rows("NOT a = TRUE", table) == [3, 4, 5]
    assert rows("a IN (TRUE, FALSE) OR NOT a IN (TRUE)", table) == [0, 1, 2, 3, 4, 5]


def test_one_expression_serves_several_tables() -> None:
    where = compile_where("camera = 2")
    cameras = pa.array([2, None, 3], pa.int64())
    others = [cameras.cast(pa.float64()), cameras.cast(pa.uint8()), cameras.dictionary_encode()]
    for column in [cameras, *others]:
        assert where.mask(pa.table({"camera": column})).tolist() == [True, False, False]
    empty = where.mask(TABLE.schema.empty_table())
    assert (empty.shape, empty.dtype) == ((0,), np.bool_)


def test_sets_keep_their_rows_beside_slots_of_no_row() -> None:
    assert rows("tags = 'bag'", TABLE.slice(1)) == [3]
    assert rows("tags != 'bag'", TABLE.slice(1)) == [0, 2]
    hidden = pa.ListArray.from_arrays([0, 1, 2], pa.array(["a", "b"]), mask=pa.array([True, False]))
    assert rows("tags = 'b' OR tags = 'a'", pa.table({"tags": hidden})) == [1]


def test_whole_numbers_are_exact_and_rounded_only_beside_a_float() -> None:
    odd = 2**53 + 1
    table = pa.table({"item": [2**53, odd], "odd": [odd] * 2, "half": [0.5] * 2, "zero": [0] * 2})
    assert rows("item = 9007199254740993", table) == [1]
    assert rows("item >= 9007199254740992.0", table) == [0, 1]
    assert rows("zero < half AND item = odd", table) == [1]


@pytest.mark.parametrize("name", ["android", "or_", "not.e", "in1", "between_", "is.x", "nulls"])
def test_names_may_begin_like_keywords(name: str) -> None:
    assert rows(f"{name} = 2 AND NOT {name} = 1", pa.table({name: [1, 2]})) == [1]


def test_names_that_need_quotes() -> None:
    table = pa.table({"in": [1, 2], 'a "b" c': [1, 2], "größe": [1, 2]})
    assert rows('"in" = 2 AND "a ""b"" c" = 2 AND größe = 2', table) == [1]


EARLY = "the expression ends too early at character "
OPERATORS = "expected = != < <= > >=, NOT, IN, BETWEEN or IS"
PARTS = "write columns, comparisons, numbers, 'text', IN, BETWEEN, IS, AND, OR, NOT and brackets"
COLUMNS = "columns: camera, other, weight, person, attr.hat, start, end, in_store, tags, box"
ISO = "write ISO 8601 such as '2024-05-01' or '2024-05-01T12:30+02:00'"
TWO = "use two columns of numbers, of text, of times or of booleans"


def assert_shows(error: WhereError, text: str, message: str) -> None:
    """The whole message, with the caret below the character that its first line names."""
    first, shown, caret = str(error).splitlines()
    assert first == f"where: {message}"
    assert shown == "  " + text.translate({0: "�", 10: " ", 0xD800: "�"})
    assert caret == "^".rjust(2 + int(message.split(" at character ")[1].split(";")[0].split()[0]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (" \n", "the expression is empty at character 1; write for instance camera = 3"),
        ("camera", EARLY + "7; " + OPERATORS),
        ("camera =", EARLY + "9; expected a column or a value"),
        ("(camera = 3", EARLY + "12; expected AND, OR or ')'"),
        ("camera = 3)", "unexpected ')' at character 11; expected AND, OR or the end"),
        ("camera IN ()", "unexpected ')' at character 12; expected a value"),
        ("camera IN (1 2)", "unexpected '2' at character 14; expected ',' or ')'"),
        ("camera BETWEEN 1 OR 2", "unexpected 'OR' at character 18; expected AND"),
        ("1 = 'x'", "unexpected 'x' at character 5; expected a column"),
        ("NOT NULL = 3", "NULL is not a value at character 5; write IS NULL or IS NOT NULL"),
        ("AND", "unexpected 'AND' at character 1; expected a column, a value, NOT or '('"),
        ("f(camera)", "unexpected '(' at character 2; " + OPERATORS),
        ("__import__('os')", "unexpected '(' at character 11; " + OPERATORS),
        ("camera; drop", "cannot read ';' at character 7; " + PARTS),
        ("camera\n= 3\0", "cannot read '�' at character 11; " + PARTS),
        ("camera=1or camera=2", "cannot read '1or' at character 8; " + PARTS),
        ("person = '''", "the text has no end at character 10; close it with '"),
        ('"" = 3', 'the column name has no end or is empty at character 1; close it with "'),
        ("person = '\ud800'", "half a character at character 11; remove it"),
        (
            "camera = 9223372036854775808",
            "9223372036854775808 is beyond int64 at character 10; write it as a float",
        ),
        ("camera < 1e999", "1e999 is beyond float64 at character 10; write a smaller number"),
    ],
)
def test_syntax_errors_show_their_place(text: str, message: str) -> None:
    with pytest.raises(WhereError) as caught:
        compile_where(text)
    assert_shows(caught.value, text, message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "camera = 3 AND CAMRA = 3",
            "unknown column 'CAMRA' at character 16 (did you mean 'camera'?); " + COLUMNS,
        ),
        (
            "attr.hat = velvet",
            "unknown column 'velvet' at character 12 (text goes in 'single quotes'); " + COLUMNS,
        ),
        (
            "camera = 'x'",
            "'x' does not fit column 'camera' (int32) at character 10; write a number such as 3",
        ),
        (
            "camera IN (1, TRUE)",
            "TRUE does not fit column 'camera' (int32) at character 15; write a number such as 3",
        ),
        (
            "3 < person",
            "3 does not fit column 'person' (string) at character 1; write text in 'single quotes'",
        ),
        (
            "in_store = 1",
            "1 does not fit column 'in_store' (bool) at character 12; write TRUE or FALSE",
        ),
        (
            "start > 2024",
            "2024 does not fit column 'start' (timestamp[us, tz=UTC]) at character 9; "
            "write a time in quotes, such as '2024-05-01T12:30'",
        ),
        ("start BETWEEN '2024-05-01' AND 'noon'", "'noon' is not a time at character 32; " + ISO),
        (
            "start > '0001-01-01T00:00+01:00'",
            "'0001-01-01T00:00+01:00' is not a time at character 9; " + ISO,
        ),
        (
            "tags > 'a'",
            "column 'tags' (list<{list_item}: string>) has no order at character 1; "
            "use =, != or IN",
        ),
        (
            "TRUE > in_store",
            "column 'in_store' (bool) has no order at character 8; use =, != or IN",
        ),
        (
            "box = 3",
            "column 'box' has type fixed_size_list<{list_item}: float>[4], which cannot be "
            "compared at character 1; use another column, or IS NULL",
        ),
        (
            "camera < person",
            "column 'person' (string) does not compare with column 'camera' (int32) at "
            "character 10; " + TWO,
        ),
        (
            "tags = tags",
            "column 'tags' (list<{list_item}: string>) does not compare with column 'tags' "
            "(list<{list_item}: string>) at character 8; " + TWO,
        ),
    ],
)
def test_misfits_show_their_place(text: str, message: str) -> None:
    where = compile_where(text)
    with pytest.raises(WhereError) as caught:
        where.mask(TABLE)
    named = message.format(list_item=TABLE["tags"].type.value_field.name)
    assert_shows(caught.value, text, named)


def test_a_long_expression_is_cut_around_the_place() -> None:
    with pytest.raises(WhereError) as caught:
        compile_where("camera = 3 OR " * 50 + "camera ? 3" + " OR camera = 3" * 50)
    shown, caret = str(caught.value).splitlines()[1:]
    assert shown[len(caret) - 1] == "?"
    assert (shown[:3], shown[-1], len(shown)) == ("  …", "…", 84)


def test_columns_are_listed_as_they_are_to_be_written() -> None:
    table = pa.table({"in": [1], "two\nwords": [1], 'a"b': [1], "my.Hat": [1]})
    with pytest.raises(WhereError) as caught:
        compile_where("my.hut = 1").mask(table)
    hint = '(did you mean \'my.Hat\'?); columns: "in", "two words", "a""b", my.Hat'
    assert hint in str(caught.value)


def test_of_attributes_only_attributes_are_listed() -> None:
    names = ["camera", "attr.hat", "attr.hat.confidence", "attr.hat.origin", "attr.a b"]
    table = pa.table({name: [1] for name in names})
    with pytest.raises(WhereError) as caught:
        compile_where("attr.hut = 'yes'").mask(table)
    hint = "(did you mean 'attr.hat'?); attributes: attr.hat, \"attr.a b\"\n"
    assert f"unknown column 'attr.hut' at character 1 {hint}" in str(caught.value)
    with pytest.raises(WhereError, match=r"'attr.hut' at character 1; attributes: none"):
        compile_where("attr.hut = 'yes'").mask(table.select(["camera"]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("(" * 10_000, EARLY + "10001; expected a column"),
        ("(" * 4_000 + "camera = 3" + ")" * 3_999, EARLY + "8010; expected AND, OR or"),
        ("camera = " + "9" * 9_000, "9… is beyond int64 at character 10;"),
        ("c" * 9_000 + " = 3 x", "unexpected 'x' at character 9006"),
        ("camera = 3" + " " * 9_991, "goes on at character 10001; shorten it to 10,000 characters"),
    ],
)
def test_excess_is_refused(text: str, message: str) -> None:
    with pytest.raises(WhereError, match=message) as caught:
        compile_where(text)
    assert len(str(caught.value)) < 400


def test_depth_needs_no_recursion() -> None:
    assert rows("(" * 4_900 + "camera = 3" + ")" * 4_900) == [2]
    assert rows("NOT " * 2_001 + "camera = 3") == [0, 1, 4]
    assert rows("camera = 1 OR (" * 500 + "camera = 3" + ")" * 500) == [0, 2]


def test_import_is_cheap() -> None:
    code = (
        "import sys, reid_index.filters.where; sys.exit(bool({'torch', 'lark'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])


# Below: expressions as trees, written out as text for the parser, and evaluated here row by row.

COMPARISONS = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "camera": st.sampled_from([1, 2, 3, -4, 2.5, 2.0]),
    "weight": st.sampled_from([0, 2, -1, 0.5, -0.0]),
    "person": st.sampled_from(["ann", "it's", "", "Zoë", "b"]),
    "attr.hat": st.sampled_from(["yes", "no", "x"]),
    "in_store": st.booleans(),
    "start": st.sampled_from([NOON, HALF_PAST]),
    "tags": st.sampled_from(["bag", "cap", "x"]),
}
PAIRS = [("camera", "other"), ("start", "end"), ("person", "attr.hat"), ("weight", "camera")]


@st.composite
def predicates(draw: st.DrawFn) -> tuple[Any, ...]:
    name = draw(st.sampled_from(sorted(VALUES)))
    operators = sorted(COMPARISONS) if name not in ("tags", "in_store") else ["=", "!="]
    shape = draw(st.sampled_from(["compare", "in", "null", "columns", "between"]))
    if shape == "null":
        return ("null", name)
    if shape == "in":
        return ("in", name, draw(st.lists(VALUES[name], min_size=1, max_size=3)))
    if shape == "columns":
        return (
            "columns",
            draw(st.sampled_from(sorted(COMPARISONS))),
            *draw(st.sampled_from(PAIRS)),
        )
    if shape == "between" and len(operators) > 2:
        return ("between", name, draw(VALUES[name]), draw(VALUES[name]))
    return ("compare", draw(st.sampled_from(operators)), name, draw(VALUES[name]))


EXPRESSIONS = st.recursive(
    predicates(),
    lambda inner: st.one_of(
        st.tuples(st.just("not"), inner), st.tuples(st.sampled_from(["and", "or"]), inner, inner)
    ),
    max_leaves=6,
)


def literal(value: Any) -> str:
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return f"'{value.isoformat()}'" if isinstance(value, datetime) else str(value)


def written(tree: tuple[Any, ...]) -> str:
    match tree:
        case "not", inner:
            return f"NOT ({written(inner)})"
        case ("and" | "or") as word, left, right:
            return f"({written(left)}) {word} ({written(right)})"
        case "null", name:
            return f"{name} IS NULL"
        case "in", name, values:
            return f"{name} IN ({', '.join(map(literal, values))})"
        case "columns", symbol, left, right:
            return f"{left} {symbol} {right}"
        case "between", name, low, high:
            return f"{name} BETWEEN {literal(low)} AND {literal(high)}"
        case _, symbol, name, value:
            return f"{name} {symbol} {literal(value)}"
    raise AssertionError(tree)


def compared(symbol: str, left: Any, right: Any) -> bool | None:
    if left is None or right is None:
        return None
    if isinstance(left, list):
        return (right in left) == (symbol == "=")
    return bool(COMPARISONS[symbol](left, right))


def both(left: bool | None, right: bool | None) -> bool | None:
    if left is False or right is False:
        return False
    return None if left is None or right is None else True


def negated(value: bool | None) -> bool | None:
    return None if value is None else not value


def either(left: bool | None, right: bool | None) -> bool | None:
    return negated(both(negated(left), negated(right)))


def truth(tree: tuple[Any, ...], row: dict[str, Any]) -> bool | None:
    match tree:
        case "not", inner:
            return negated(truth(inner, row))
        case "and", left, right:
            return both(truth(left, row), truth(right, row))
        case "or", left, right:
            return either(truth(left, row), truth(right, row))
        case "null", name:
            return row[name] is None
        case "in", name, values:
            found: bool | None = False
            for value in values:
                found = either(found, compared("=", row[name], value))
            return found
        case "columns", symbol, left, right:
            return compared(symbol, row[left], row[right])
        case "between", name, low, high:
            return both(compared(">=", row[name], low), compared("<=", row[name], high))
        case _, symbol, name, value:
            return compared(symbol, row[name], value)
    raise AssertionError(tree)


@settings(deadline=None, max_examples=300, derandomize=True, database=None)
@given(EXPRESSIONS)
def test_masks_agree_with_an_evaluator_of_single_rows(tree: tuple[Any, ...]) -> None:
    table_rows = TABLE.to_pylist()
    expected = [index for index, row in enumerate(table_rows) if truth(tree, row) is True]
    assert rows(written(tree)) == expected


# fmt: off
PIECES = [
    "camera", "person", "tags", "start", "box", "nosuch", "and", "or", "not", "in", "between", "is",
    "null", "true", "false", "(", ")", ",", "=", "!=", "<", ">=", "3", "-1.5",
    "1e5", "'a'", "'2024-05-01'", '"camera"', '"', "'", ";", "\0", "é", ".", "-",
]
# fmt: on


@settings(deadline=None, max_examples=300, derandomize=True, database=None)
@given(
    st.one_of(
        st.text(st.characters(exclude_categories=()), max_size=30),
        st.lists(st.sampled_from(PIECES), max_size=12).map(" ".join),
    )
)
@example("")
@example("camera = '\udfff'")
@example("camera = ٣")
@example("ıs = 3 ﬁ")
def test_any_text_gives_a_mask_or_a_where_error(text: str) -> None:
    try:
        mask = compile_where(text).mask(TABLE)
    except WhereError as error:
        message, shown, caret = str(error).splitlines()
        assert message.startswith("where: ")
        assert caret.strip() == "^"
        assert len(caret) <= len(shown) + 1
        assert "\0" not in message + shown
    else:
        assert mask.shape == (5,)
