"""What filtering by attributes keeps and drops, against loops over all pairs."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from judged_world import COLORS, drops, labels_of, people, predicted

from reid_index.errors import UsageError
from reid_index.evaluation.filter_quality import FilterQuality, code, dropped, filter_quality
from reid_index.evaluation.protocol import NOBODY, UNKNOWN
from reid_index.filters.agreement import Agreement, known_of

NAMES = ("hat", "gender", "sleeve", "upper_color")
ERRORS = {"hat": 0.3, "gender": 0.1, "sleeve": 0.2, "upper_color": 0.2}


def by_loops(queries, gallery, thresholds, *, same_item):
    """FilterQuality, and which pairs are dropped, from the definitions."""
    asked, searched = queries.to_pylist(), gallery.to_pylist()
    gone = np.array([[drops(q, g, thresholds) for g in searched] for q in asked])
    counts = [0, 0, 0, 0]
    for q, query in enumerate(asked):
        for g, item in enumerate(searched):
            match = query["person"] is not None and query["person"] == item["person"]
            if match and query["camera"] == item["camera"]:
                continue
            if match and same_item and query["item"] == item["item"]:
                continue
            counts[0] += 1
            counts[1] += gone[q, g]
            counts[2] += match
            counts[3] += match and gone[q, g]
    return FilterQuality(*map(int, counts)), gone


def named(items):
    return items.filter(pa.array([name is not None for name in items["person"].to_pylist()]))


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.9, 0.97])
@pytest.mark.parametrize("same_item", [False, True])
def test_shares_are_those_of_a_loop(rng, threshold, same_item) -> None:
    items = predicted(rng, people(rng, persons=12, crops=4, distractors=9), errors=ERRORS)
    queries = named(items)
    thresholds = dict.fromkeys(NAMES, threshold) | {"sleeve": None}
    expected, gone = by_loops(queries, items, thresholds, same_item=same_item)

    asked, searched = code(queries, items, NAMES)
    found = filter_quality(
        asked, searched, labels_of(queries), labels_of(items), thresholds, same_item=same_item
    )

    assert found == expected
    assert 0 < found.dropped < found.pairs
    np.testing.assert_array_equal(dropped(asked, searched, thresholds), gone)


CELLS = {
    "one": st.tuples(
        st.sampled_from([None, "a", "b", "c"]), st.sampled_from([None, 0.0, 0.7, 1.0])
    ),
    "several": st.tuples(
        st.none() | st.lists(st.sampled_from(COLORS), min_size=1, unique=True).map(sorted),
        st.sampled_from([None, 0.0, 0.7, 1.0]),
    ),
}


def table(cells):
    columns = {"item": np.arange(len(cells["one"]))}
    for name, told in cells.items():
        kind = (
            pa.list_(pa.string()) if name == "several" else pa.dictionary(pa.int32(), pa.string())
        )
        columns[f"attr.{name}"] = pa.array([value for value, _ in told], kind)
        columns[f"attr.{name}.confidence"] = pa.array(
            [None if value is None else sure for value, sure in told], pa.float32()
        )
    return pa.table(columns)


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_any_cells_and_thresholds_are_dropped_as_the_definition_has_it(data) -> None:
    sides = []
    for _ in range(2):
        count = data.draw(st.integers(1, 6))
        sides.append(
            table({
                name: data.draw(st.lists(cell, min_size=count, max_size=count))
                for name, cell in CELLS.items()
            })
        )  # fmt: skip
    number = st.sampled_from([None, 0.0, 0.7, 0.71, 1.0])
    by_word = st.dictionaries(st.sampled_from(["a", "b", "c", *COLORS, "never seen"]), number)
    thresholds = {name: data.draw(number | by_word) for name in CELLS}
    asked, searched = (side.to_pylist() for side in sides)
    expected = [[drops(q, g, thresholds) for g in searched] for q in asked]

    assert dropped(*code(*sides, tuple(CELLS)), thresholds).tolist() == expected


def test_words_beyond_what_one_number_holds() -> None:
    words = [f"w{number}" for number in range(150)]
    items = pa.table({"item": np.arange(150), "attr.coat": words})
    both = code(items, items, ["coat"])

    np.testing.assert_array_equal(dropped(*both, {"coat": 0.5}), ~np.eye(150, dtype=bool))

    some = dict.fromkeys(words[60:70], 0.5)
    expected = np.zeros((150, 150), bool)
    expected[60:70, 60:70] = ~np.eye(10, dtype=bool)
    np.testing.assert_array_equal(dropped(*both, {"coat": some}), expected)


def test_a_word_beside_a_set_is_a_set_of_one() -> None:
    words = pa.table({"attr.top": ["red", "blue"]})
    sets = pa.table({"attr.top": pa.array([["blue", "red"], ["white"]], pa.list_(pa.string()))})

    found = dropped(*code(words, sets, ["top"]), {"top": 1.0})

    assert found.tolist() == [[False, True], [False, True]]


def test_unknown_cameras_are_no_camera_and_nobody_matches_nobody() -> None:
    items = pa.table({
        "item": [0, 1, 2, 3, 4], "person": ["0", "0", "0", None, None],
        "camera": [1, UNKNOWN, UNKNOWN, 1, 2], "attr.hat": ["yes", "no", "no", "no", "no"],
    })  # fmt: skip
    labels = labels_of(items)
    assert labels.person.tolist() == [0, 0, 0, NOBODY, NOBODY]
    both = code(items.slice(0, 3), items, ["hat"])

    found = filter_quality(
        *both, labels_of(items.slice(0, 3)), labels, {"hat": 1.0}, same_item=True
    )

    # Each of the three has two matches, items 1 and 2 each other too, and both of nobody.
    assert found == FilterQuality(pairs=12, dropped=6, matches=6, missed=4)
    assert (found.dropped_share, found.kept_share) == (6 / 12, 1 - 4 / 6)


def test_an_attribute_that_one_side_lacks() -> None:
    items = pa.table({"item": [0], "attr.hat": ["yes"]})

    with pytest.raises(UsageError, match="items of the gallery have no attribute hat"):
        code(items, items.drop_columns(["attr.hat"]), ["hat"])


def test_shares_of_nothing() -> None:
    nothing = FilterQuality(pairs=0, dropped=0, matches=0, missed=0)

    assert (nothing.kept_share, nothing.dropped_share) == (1, 0)


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.9])
def test_what_is_dropped_is_what_a_search_drops(rng, threshold) -> None:
    items = predicted(rng, people(rng, persons=15, crops=4), errors=ERRORS)
    thresholds = {
        "hat": {"yes": 0.8, "no": 0.6},
        "sleeve": None,
        "upper_color": {"red": 0.55, "blue": 0.8, "black": 0.6},
    }
    used = dict.fromkeys(NAMES, threshold) | thresholds
    found = dropped(*code(items, items, NAMES), used)
    compared = 0
    for row in range(items.num_rows):
        target = known_of(items.slice(row, 1).to_pydict())
        if not target:
            assert not found[row].any()
            continue
        agreement = Agreement(target=target, threshold=threshold, thresholds=thresholds)
        np.testing.assert_array_equal(~found[row], agreement.keeps(items))
        compared += np.count_nonzero(found[row])
    assert compared > 100
