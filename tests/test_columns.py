"""Prepared columns answer just as Where.mask does: every kind, every way, from many threads."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reid_index.errors import UsageError, WhereError
from reid_index.filters.columns import Columns, OfValues
from reid_index.filters.where import compile_where

TIME = pa.timestamp("us", tz="UTC")
TIMES = [datetime(1969, 12, 31, 23, 59, 59, 999_999, UTC) + timedelta(hours=i) for i in range(4)]
NAN = float("nan")
ODD = 2**53 + 1

KINDS: dict[str, tuple[pa.DataType, list[Any]]] = {
    "small": (pa.int8(), [-128, -1, 0, 3, 127]),
    "camera": (pa.int32(), [-(2**31), -1, 0, 2, 3, 2**31 - 1]),
    "plain": (pa.uint32(), [0, 1, 3, 2**32 - 1]),
    "item": (pa.int64(), [-(2**63), -ODD, 2**53, ODD, ODD + 1, 2**63 - 1, 3]),
    "weight": (pa.float32(), [0.9, 3.0, -0.0, 0.0, NAN, float("inf"), -1e-45]),
    "start_s": (pa.float64(), [0.9, 3.0, -0.0, 0.0, NAN, float("-inf"), float(2**53)]),
    "person": (pa.string(), ["", "a", "A", "b", "é", "\ufffd", "\U0001f600"]),
    "long": (pa.large_string(), ["", "a", "aa", "b"]),
    "attr.hat": (pa.dictionary(pa.int32(), pa.string()), ["a", "b", "c", "é"]),
    "in_store": (pa.bool_(), [False, True]),
    "start": (TIME, TIMES),
    "end": (TIME, TIMES),
    "tags": (pa.list_(pa.string()), [[], ["a"], ["a", "b"], [None], ["b", None, "b"], ["c"]]),
    "box": (pa.list_(pa.float32(), 4), [[1, 2, 3, 4]]),
}
ORDERED = [name for name in KINDS if name not in ("in_store", "tags", "box")]
PAIRS = [
    *[(left, right) for left in ORDERED[:6] for right in ORDERED[:6]],
    *[("start", "end"), ("person", "attr.hat"), ("long", "long"), ("in_store", "in_store")],
]
NUMBERS = ["-2147483648", "-1", "0", "2", "3", "127", "300", "5000000000", "9007199254740993"]
NUMBERS += ["9223372036854775807", "-9223372036854775808", "2.5", "3.0", "-0.0", "0.9", "1e300"]
NUMBERS += ["9007199254740992.0", "-1e-46"]
LITERALS = {
    "number": NUMBERS,
    "text": ["''", "'a'", "'aa'", "'b'", "'é'", "'\ufffd'", "'\U0001f600'", "'zz'"],
    "time": [f"'{time.isoformat()}'" for time in TIMES] + ["'0001-01-01'", "'9999-12-31'"],
    "boolean": ["TRUE", "FALSE"],
}
KIND_OF = {"in_store": "boolean", "start": "time", "end": "time"} | dict.fromkeys(
    ("person", "long", "attr.hat", "tags"), "text"
)


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    """Rows of KINDS, each up to 40 times, so that some numbers repeat and some do not; in one
    chunk or several; some columns in order, some without null."""
    rows = draw(st.integers(0, 12))
    times = draw(st.sampled_from([1, 1, 3, 40]))
    columns = {}
    for name, (kind, values) in KINDS.items():
        some = draw(st.sampled_from([values, [*values, None], [None]]))
        drawn = draw(st.lists(st.sampled_from(some), min_size=rows, max_size=rows))
        if draw(st.booleans()) and name not in ("tags", "box"):
            drawn.sort(key=lambda one: (one is None, one != one, one))
        if rows and draw(st.integers(0, 3)) == 0 and name in ORDERED:
            drawn = [values[0]] * rows
        columns[name] = pa.array([one for one in drawn for _ in range(times)], kind)
    table = pa.table(columns)
    cut = draw(st.integers(0, table.num_rows))
    if draw(st.booleans()):
        table = pa.concat_tables([table.slice(cut), table.slice(0, cut)])
    return table.slice(draw(st.integers(0, min(3, table.num_rows))))


@st.composite
def predicates(draw: st.DrawFn) -> str:
    name = draw(st.sampled_from([*KINDS, "tags", "start", "camera"]))
    shape = draw(st.sampled_from(["compare", "compare", "in", "in", "between", "null", "columns"]))
    is_ordered = name in ORDERED
    value = st.sampled_from(LITERALS[KIND_OF.get(name, "number")])
    if shape == "columns":
        left, right = draw(st.sampled_from(PAIRS))
        operators = ["=", "!="] if left == "in_store" else ["=", "!=", "<", "<=", ">", ">="]
        return f"{left} {draw(st.sampled_from(operators))} {right}"
    if shape == "null" or name == "box":
        return f"{name} IS {draw(st.sampled_from(['', 'NOT ']))}NULL"
    if shape == "in":
        return f"{name} IN ({', '.join(draw(st.lists(value, min_size=1, max_size=12)))})"
    if shape == "between" and is_ordered:
        return f"{name} BETWEEN {draw(value)} AND {draw(value)}"
    operators = ["=", "!=", "<", "<=", ">", ">="] if is_ordered else ["=", "!="]
    return f"{name} {draw(st.sampled_from(operators))} {draw(value)}"


EXPRESSIONS = st.recursive(
    predicates(),
    lambda inner: st.one_of(
        inner.map(lambda one: f"NOT ({one})"),
        st.builds("({}) {} ({})".format, inner, st.sampled_from(["AND", "OR"]), inner),
    ),
    max_leaves=5,
)


def prepared(table: pa.Table) -> Columns:
    """Columns that have all been asked about, so that every new predicate is answered by them."""
    columns = Columns(table)
    for name in table.column_names:
        kind = KIND_OF.get(name, "number")
        if name != "box":
            columns.mask(compile_where(f"{name} = {LITERALS[kind][1]}"))
    return columns


def assert_same(columns: Columns, text: str, table: pa.Table) -> None:
    where = compile_where(text)
    expected, mask = where.mask(table), columns.mask(where)
    assert mask.dtype == np.bool_
    assert mask.tolist() == expected.tolist(), text
    mask[:] = True  # what comes back is the caller's
    assert columns.mask(where).tolist() == expected.tolist()


@settings(deadline=None, max_examples=60, derandomize=True, database=None)
@given(tables(), st.lists(EXPRESSIONS, min_size=1, max_size=6))
def test_every_answer_is_that_of_the_plain_way(table: pa.Table, texts: list[str]) -> None:
    fresh, asked = Columns(table), prepared(table)
    for _ in range(2):
        for text in texts:
            assert_same(fresh, text, table)
            assert_same(asked, text, table)


@pytest.mark.parametrize("times", [1, 40], ids=["all differ", "all repeat"])
@pytest.mark.parametrize("shape", ["as listed", "in order", "with null", "one value", "null"])
def test_each_operator_with_each_value(shape: str, times: int) -> None:
    for name, (kind, values) in KINDS.items():
        some = {"with null": [*values, None], "one value": values[-3:-2], "null": [None] * 3}
        listed = some.get(shape, values)
        if shape == "in order" and name in ORDERED:
            listed = sorted((one for one in values if one == one), key=lambda one: one)
        table = pa.table({name: pa.array([one for one in listed for _ in range(times)], kind)})
        if name == "box":
            continue
        literals = LITERALS[KIND_OF.get(name, "number")]
        operators = ["=", "!=", "<", "<=", ">", ">="] if name in ORDERED else ["=", "!="]
        columns = Columns(table)
        columns.mask(compile_where(f"{name} IN ({literals[0]})"))
        for operator in operators:
            for literal in literals:
                assert_same(columns, f"{name} {operator} {literal}", table)
                assert_same(columns, f"NOT {name} {operator} {literal}", table)
        assert_same(columns, f"{name} IN ({', '.join(literals)})", table)
        assert_same(columns, f"NOT {name} IN ({', '.join(literals[1:3])})", table)


def test_sets_within_values() -> None:
    sets = [[], ["a"], ["a", "b"], [None], ["b", None], ["c", "c"], None, ["b"]] * 3
    table = pa.table({"tags": pa.array(sets, pa.list_(pa.string()))})
    columns = Columns(table)
    for values in [("a",), ("b", "a"), ("zz",), (), ("c", "b", "a")] * 2:  # plain, prepared, kept
        expected = [None if one is None else set(one) <= set(values) for one in sets]
        predicate = OfValues("tags", "WITHIN", values, pa.string())
        assert predicate.known(table).to_pylist() == expected
        true, false = map(columns.unpacked, columns.answer([predicate]))
        assert true.tolist() == [one is True for one in expected]
        assert false.tolist() == [one is False for one in expected]


def test_many_rows_and_many_values() -> None:
    """Several blocks, the last one short; codes of 1, 2 and 4 bytes; numbers that repeat or do not,
    in order or not; a lookup of many values."""
    rows = 200_003
    rng = np.random.default_rng(0)
    hidden = rng.random(rows) < 0.1
    table = pa.table(
        {
            "camera": pa.array(rng.integers(0, 200, rows), pa.int32(), mask=hidden),
            "track": pa.array([str(number) for number in rng.integers(0, 3_000, rows)]),
            "source": pa.array([str(number) for number in rng.permutation(rows)]),
            "item": np.arange(rows),
            "start_s": pa.array(rng.random(rows), mask=hidden),
            "in_row": pa.array(np.arange(rows), pa.int32(), mask=rng.random(rows) < 1e-5),
            "tags": pa.array([[str(row % 7), str(row % 300)] for row in range(rows)]),
        }
    )
    columns = Columns(table)
    many = ", ".join(f"'{number}'" for number in range(0, 3_000, 7))
    for text in [
        "camera = 3 AND track = '5' AND source > 'a' AND item = 0 AND start_s > 1 AND in_row = 1",
        *(f"camera {operator} 77" for operator in ("=", "!=", "<", "<=", ">", ">=")),
        f"camera IN ({', '.join(str(2 * number) for number in range(60))})",
        f"track IN ({many}) AND NOT source IN ({many})",
        "track >= '2' AND track < '3' OR source <= '17'",
        *(f"item BETWEEN {low} AND {low + 8}" for low in range(65_530, 65_540)),
        "item IN (0, 7, 8, 200002, 200003, 9.0)",
        "start_s BETWEEN 0.25 AND 0.75 OR start_s IN (0.1, 0.2)",
        "in_row < 70000.5 AND NOT in_row IN (5, 6)",
        "tags = '3'",
        "tags IN ('2', '299') AND tags != '4'",
    ]:
        assert_same(columns, text, table)


def test_the_first_expression_about_a_column_prepares_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    table = pa.table({"camera": [1, 2, 3], "track": ["a", "b", None]})
    made: list[pa.DataType] = []
    from reid_index.filters import columns as module

    prepare = module._prepare
    monkeypatch.setattr(
        module, "_prepare", lambda column: made.append(column.type) or prepare(column)
    )
    columns = Columns(table)
    for _ in range(3):
        columns.mask(compile_where("camera BETWEEN 1 AND 2 OR camera = 3"))
    assert made == []
    columns.mask(compile_where("camera = 2 AND track = 'a' AND camera IS NULL"))
    assert made == [pa.int64()]
    columns.mask(compile_where("track = 'b'"))
    columns.mask(compile_where("track = 'c' AND camera < 3"))
    assert made == [pa.int64(), pa.string()]
    columns = Columns(table)
    columns.not_camera([1])
    assert len(made) == 2
    columns.not_camera([2])
    assert len(made) == 3


def test_a_lookup_of_many_numbers_finds_both_zeros() -> None:
    table = pa.table({"start_s": pa.array([-0.0, 0.0, *range(1, 12), None] * 40, pa.float64())})
    columns = prepared(table)
    assert_same(columns, "start_s IN (0, 1, 2, 3, 4, 5, 6, 7, 8, 9)", table)


def test_equal_numbers_of_two_types_are_two_predicates() -> None:
    table = pa.table({"item": [ODD, 2**53]})
    columns = Columns(table)
    for _ in range(2):
        assert columns.mask(compile_where("item = 9007199254740992")).tolist() == [False, True]
        assert columns.mask(compile_where("item = 9007199254740992.0")).tolist() == [True, True]
        assert columns.mask(compile_where("item IN (9007199254740993, 7)")).tolist() == [
            True,
            False,
        ]


@pytest.mark.parametrize(
    "text",
    [
        "nosuch = 1",
        "nosuch IS NULL",
        "camera = 'x'",
        "tags < 'a'",
        "box = 3",
        "camera = start",
        "start = 'noon'",
    ],
)
def test_errors_are_those_of_the_plain_way_at_their_place(text: str) -> None:
    table = pa.table({name: pa.array(values[:1], kind) for name, (kind, values) in KINDS.items()})
    columns = prepared(table)
    for whole in (text, f"camera = 3 AND {text}", f"camera = 1 OR {text}", text):
        with pytest.raises(WhereError) as expected:
            compile_where(whole).mask(table)
        with pytest.raises(WhereError) as caught:
            columns.mask(compile_where(whole))
        assert str(caught.value) == str(expected.value)


def test_errors_of_the_syntax_are_raised_each_time() -> None:
    for _ in range(2):
        with pytest.raises(WhereError, match="ends too early at character 9"):
            compile_where("camera =")
    assert compile_where("camera = 1") is compile_where("camera = 1")
    assert compile_where("camera = 1") != compile_where("camera = 2")


def test_not_camera_keeps_unknown_cameras() -> None:
    table = pa.table({"camera": pa.array([3, None, 1, 3, 2], pa.int32())})
    columns = Columns(table)
    for _ in range(2):
        assert columns.not_camera([3]).tolist() == [False, True, True, False, True]
        assert columns.not_camera([2, np.int64(1), 2]).tolist() == [True, True, False, True, False]
        assert columns.not_camera([]).tolist() == [True] * 5
        assert columns.mask(compile_where("NOT camera = 3")).tolist() == [
            *(False, False, True, False, True)
        ]
    for wrong in ([2**31], [1.5], ["3"]):
        with pytest.raises(UsageError, match="not_camera must hold whole numbers of 32 bits"):
            columns.not_camera(wrong)  # type: ignore[arg-type]


def test_threads_share_columns() -> None:
    rng = np.random.default_rng(1)
    table = pa.table({"camera": rng.integers(0, 5, 20_000), "start_s": rng.random(20_000)})
    texts = [f"camera = {n % 5} AND NOT start_s < {n / 300}" for n in range(300)]
    expected = [compile_where(text).mask(table) for text in texts]
    columns = Columns(table)
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda text: columns.mask(compile_where(text)), texts))
    assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))


def test_columns_go_with_their_last_user() -> None:
    """No cycle keeps the items of a generation until a collection."""
    import gc
    import weakref

    columns = Columns(pa.table({"camera": [1, 2]}))
    columns.mask(compile_where("camera = 1"))
    columns.mask(compile_where("camera = 2"))
    gone = weakref.ref(columns)
    gc.disable()
    try:
        del columns
        assert gone() is None
    finally:
        gc.enable()


def test_words_of_a_dictionary_that_has_one_twice_and_a_null() -> None:
    words = pa.array(["yes", "no", "yes", None])
    column = pa.DictionaryArray.from_arrays(pa.array([0, 2, 1, 3, None, 1], pa.int32()), words)
    table = pa.table({"attr.hat": pa.chunked_array([column, column[:2]])})
    columns = Columns(table)

    for text in ("attr.hat = 'yes'", "attr.hat != 'yes'", "attr.hat IN ('no', 'never')"):
        where = compile_where(text)
        assert columns.mask(where).tolist() == where.mask(table).tolist()
    assert columns.mask(compile_where("attr.hat = 'yes'")).tolist() == [1, 1, 0, 0, 0, 0, 1, 1]
