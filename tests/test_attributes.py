"""Attributes as item columns."""

import pyarrow as pa
import pytest

from reid_index.attributes import certainties, check_name, names_in, rank_of, vote
from reid_index.errors import UsageError
from reid_index.filters.agreement import known_of


def test_names_are_those_of_values() -> None:
    columns = ["item", "attr.hat", "attr.hat.confidence", "attr.hat.origin", "attr.upper_color"]

    assert names_in(columns) == ["hat", "upper_color"]


@pytest.mark.parametrize("name", ["", "Hat", "hat.confidence", "1hat", "a b", "a" * 64, None])
def test_a_name_that_no_filter_could_write_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="cannot be called"):
        check_name(name)


def test_a_person_counts_more_than_a_label_and_that_more_than_a_model() -> None:
    origins = ["model 0230 1 0123456789ab", None, "label", "person"]

    assert [rank_of(one) for one in origins] == [0, 1, 1, 2]


def test_what_somebody_said_is_certain_and_what_nobody_did_is_not() -> None:
    items = pa.table({"attr.hat": ["yes", "no", None], "attr.hat.confidence": [0.25, None, None]})

    assert certainties(items, "hat").tolist() == [0.25, 1, 0]
    assert certainties(items.select(["attr.hat"]), "hat").tolist() == [1, 1, 0]


def test_rows_vote_and_who_looked_is_not_outvoted() -> None:
    model = "model m 1 0123456789ab"
    of_model = [("yes", 0.9, model), ("no", 0.6, model), (None, None, None), ("yes", 0.6, model)]
    assert vote(of_model) == ("yes", pytest.approx(0.5), model)
    assert vote([*of_model, ("no", None, "person")]) == ("no", None, "person")
    assert vote([("no", None, None), ("yes", 0.5, "label")]) == ("no", 0.5, None)
    assert vote([(["red"], 0.5, model), (["blue"], 0.5, model)]) == (["red"], 0.25, model)
    assert vote([(None, None, None)]) == (None, None, None)


def test_a_target_is_what_its_pictures_say_together() -> None:
    columns = {
        "attr.hat": ["yes", "no"],
        "attr.hat.confidence": [0.9, 0.95],
        "attr.hat.origin": ["label", "model m 1 0123456789ab"],
    }
    assert known_of(columns) == {"hat": ("yes", 0.9)}
