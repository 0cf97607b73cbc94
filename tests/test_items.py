"""The table of items: types, times, further columns, and what is refused."""

from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pyarrow as pa
import pytest

from reid_index.errors import BadItems
from reid_index.store.items import STANDARD, TIME, conform, stack


def test_missing_columns_come_as_nulls_first_and_in_order() -> None:
    table = conform(pa.table({"shop": ["a"], "camera": [4]}))
    assert table.column_names == [*STANDARD, "shop"]
    assert [table[name].type for name in STANDARD] == list(STANDARD.values())
    known = {name: value for name, value in table.to_pylist()[0].items() if value is not None}
    assert known == {"camera": 4, "shop": "a"}


@pytest.mark.parametrize(
    ("column", "values", "expected"),
    [
        ("camera", ["3", None], [3, None]),
        ("person", [7, 8], ["7", "8"]),
        ("start_s", ["1.5", None], [1.5, None]),
        ("box", [[1, 2, 3.5, 4], None], [[1, 2, 3.5, 4], None]),
        ("frame_first", [2.0, 3.0], [2, 3]),
        ("attr.hat", pa.array(["y", None]).dictionary_encode(), ["y", None]),
        ("attr.hat.confidence", [1, 0], [1.0, 0.0]),
        ("tags", [["a", "b"], []], [["a", "b"], []]),
        ("day", [date(2024, 5, 1), None], [datetime(2024, 5, 1, tzinfo=UTC), None]),
    ],
)
def test_values_take_the_type_of_their_column(column: str, values: Any, expected: Any) -> None:
    assert conform(pa.table({column: values}))[column].to_pylist() == expected


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        (pa.float32(), pa.float64()),
        (pa.int16(), pa.int64()),
        (pa.large_string(), pa.string()),
        (pa.time32("s"), pa.string()),
        (pa.dictionary(pa.int8(), pa.string()), pa.string()),
        (pa.timestamp("s"), TIME),
        (pa.bool_(), pa.bool_()),
    ],
)
def test_type_of_a_further_column(given: pa.DataType, stored: pa.DataType) -> None:
    assert conform(pa.table({"mine": pa.nulls(1, given)}))["mine"].type == stored


def test_attributes_are_dictionaries_of_text_with_small_confidences() -> None:
    table = conform(
        pa.table({"attr.hat": ["yes"], "attr.bag": ["no"], "attr.hat.confidence": [0.5]})
        .append_column("attr.bag.confidence", pa.nulls(1))
        .append_column("attr.bag.origin", pa.nulls(1))
    )
    for name in ("attr.hat", "attr.bag", "attr.bag.origin"):
        assert table[name].type == pa.dictionary(pa.int32(), pa.string())
    for name in ("attr.hat.confidence", "attr.bag.confidence"):
        assert table[name].type == pa.float32()


def test_an_attribute_of_which_nothing_is_known_is_neither_words_nor_sets() -> None:
    names = ("attr.color", "attr.color.confidence", "attr.color.origin")
    unknown = conform(pa.table({name: [None] for name in names}))
    assert not set(names) & set(unknown.column_names)
    known = conform(pa.table({"attr.color": [["red"]]}))
    assert stack([unknown, known])["attr.color"].to_pylist() == [None, ["red"]]


def test_times_with_and_without_a_zone_in_one_column() -> None:
    texts = ["2024-05-01T12:00:00+02:00", "2024-05-01 12:00", None, "2024-05-01T12:00:00.25Z"]
    noon = datetime(2024, 5, 1, 12, tzinfo=UTC)
    expected = [noon - timedelta(hours=2), noon, None, noon + timedelta(milliseconds=250)]
    assert conform(pa.table({"start": texts}))["start"].to_pylist() == expected


def test_time_in_another_zone_becomes_the_same_instant_in_utc() -> None:
    there = datetime(2024, 5, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    table = conform(pa.table({"end": [there]}))
    assert table["end"].type == TIME
    assert table["end"].to_pylist() == [datetime(2024, 5, 1, 10, tzinfo=UTC)]


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (pa.table({"camera": ["x"]}), ["'camera'", "int32", "'x'"]),
        (pa.table({"camera": [2**40]}), ["'camera'", "int32"]),
        (pa.table({"item": [1.5]}), ["'item'", "int64"]),
        (pa.table({"start": ["yesterday"]}), ["'start'", "yesterday"]),
        (pa.table({"box": [[1, 2, 3]]}), ["'box'"]),
        (pa.table({"mine": [b"bytes"]}), ["'mine'", "binary", "drop it"]),
        (pa.table([pa.array([1]), pa.array([2])], names=["a", "a"]), ["same name", "a, a"]),
    ],
)
def test_refused_with_the_column(table: pa.Table, words: list[str]) -> None:
    with pytest.raises(BadItems) as caught:
        conform(table)
    assert all(word in str(caught.value) for word in words)
    assert "\n" not in str(caught.value)


def test_stacked_tables_lack_what_one_of_them_lacks() -> None:
    first = conform(pa.table({"attr.hat": ["yes"], "age": [3]}))
    second = conform(pa.table({"attr.hat": ["no"], "shop": ["a"]}))
    table = stack([first, second])
    assert table["attr.hat"].to_pylist() == ["yes", "no"]
    assert table["age"].to_pylist() == [3, None]
    assert table["shop"].to_pylist() == [None, "a"]


def test_a_column_of_two_types_is_refused() -> None:
    with pytest.raises(BadItems, match="age"):
        stack([conform(pa.table({"age": [3]})), conform(pa.table({"age": ["old"]}))])


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("start", [1714560000], "ISO 8601 text or as timestamps"),
        ("end", pa.array([2**62], pa.timestamp("us")), "outside the years 1 to 9999"),
        ("box", [[1, None, 3, 4]], "four finite numbers"),
        ("box", [[1, 2, 3, float("nan")]], "four finite numbers"),
    ],
)
def test_values_that_would_be_misread_are_refused(name: str, values: Any, words: str) -> None:
    with pytest.raises(BadItems, match=words):
        conform(pa.table({name: values}))


def test_texts_of_every_arrow_kind_are_texts() -> None:
    for kind in (pa.large_string(), pa.string_view()):
        start = pa.array(["2024-05-01", "2024-05-01T12:00+02:00"], kind)
        table = conform(pa.table({"start": start, "zone": pa.array(["a", "b"], kind)}))
        assert [time.hour for time in table["start"].to_pylist()] == [0, 10]
        assert table["zone"].to_pylist() == ["a", "b"]


def test_a_column_without_a_value_has_no_type_yet() -> None:
    empty = conform(pa.table({"age": [None, None]}))
    assert "age" not in empty.column_names
    assert stack([empty, conform(pa.table({"age": [3]}))])["age"].to_pylist() == [None, None, 3]
