"""Search without a target: the items and their confidence, equal to a plain evaluation of each."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from conftest import FINGERPRINT
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reid_index import Gallery, Result
from reid_index.errors import UsageError, WhereError
from reid_index.filters.columns import Columns
from reid_index.filters.confidence import confidences
from reid_index.filters.where import compile_where

Row = dict[str, Any]
Judged = tuple[bool | None, float]
Node = tuple[Any, ...]

SURE = [0.25, 0.5, 0.75, 1.0, None]


def atom(text: str) -> st.SearchStrategy[Node]:
    return st.just(("atom", text))


ATOMS = {
    "attr.hat = 'yes'": lambda row: (row["attr.hat"], lambda v: v == "yes", "attr.hat"),
    "attr.hat != 'yes'": lambda row: (row["attr.hat"], lambda v: v != "yes", "attr.hat"),
    "attr.color = 'red'": lambda row: (row["attr.color"], lambda v: "red" in v, "attr.color"),
    "attr.color IN ('red', 'blue')": lambda row: (
        row["attr.color"],
        lambda v: bool({"red", "blue"} & set(v)),
        "attr.color",
    ),
    "camera = 1": lambda row: (row["camera"], lambda v: v == 1, None),
}
EXPRESSIONS = st.recursive(
    st.sampled_from([*ATOMS, "attr.hat IS NULL", "attr.color IS NOT NULL"]).flatmap(atom)
    | st.just(("atom", "attr.hat.confidence >= 0.5"))
    | st.just(("atom", "attr.hat = attr.age")),
    lambda inner: (
        st.tuples(st.just("not"), inner) | st.tuples(st.sampled_from(["and", "or"]), inner, inner)
    ),
    max_leaves=6,
)


def text_of(node: Node) -> str:
    if node[0] == "atom":
        return str(node[1])
    if node[0] == "not":
        return f"NOT ({text_of(node[1])})"
    return f"({text_of(node[1])}) {node[0]} ({text_of(node[2])})"


def sureness(row: Row, name: str) -> float:
    told = row[f"{name}.confidence"]
    return 1.0 if told is None else float(told)


def judge(node: Node, row: Row) -> Judged:
    """True, false or unknown (None) by Kleene, and how sure: the rule, once more, by cases."""
    if node[0] == "not":
        truth, sure = judge(node[1], row)
        return (None if truth is None else not truth), sure
    if node[0] == "atom":
        return judge_atom(node[1], row)
    (a, sure_a), (b, sure_b) = judge(node[1], row), judge(node[2], row)
    decisive = node[0] == "or"  # one side with this truth decides
    deciding = [sure for truth, sure in ((a, sure_a), (b, sure_b)) if truth is decisive]
    if deciding:
        return decisive, max(deciding)
    if a is None or b is None:
        return None, 0.0
    return not decisive, min(sure_a, sure_b)


def judge_atom(text: str, row: Row) -> Judged:
    if text == "attr.hat IS NULL":
        return row["attr.hat"] is None, 1.0
    if text == "attr.color IS NOT NULL":
        return row["attr.color"] is not None, 1.0
    if text == "attr.hat.confidence >= 0.5":
        told = row["attr.hat.confidence"]
        return (None if told is None else told >= 0.5), 1.0
    if text == "attr.hat = attr.age":
        if row["attr.hat"] is None or row["attr.age"] is None:
            return None, 0.0
        sure = min(sureness(row, "attr.hat"), sureness(row, "attr.age"))
        return row["attr.hat"] == row["attr.age"], sure
    value, test, name = ATOMS[text](row)
    if value is None:
        return None, 0.0
    return test(value), 1.0 if name is None else sureness(row, name)


def valued(values: list[Any]) -> st.SearchStrategy[Any]:
    return st.sampled_from([*values, None])


ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "camera": valued([1, 2]),
            "attr.hat": valued(["yes", "no"]),
            "attr.hat.confidence": st.sampled_from(SURE),
            "attr.age": valued(["yes", "old"]),
            "attr.age.confidence": st.sampled_from(SURE),
            "attr.color": valued([["red"], ["blue", "red"], ["black"]]),
            "attr.color.confidence": st.sampled_from(SURE),
        }
    ),
    min_size=1,
    max_size=12,
)
KINDS = {
    "camera": pa.int32(),
    "attr.hat": pa.string(),
    "attr.hat.confidence": pa.float32(),
    "attr.age": pa.string(),
    "attr.age.confidence": pa.float32(),
    "attr.color": pa.list_(pa.string()),
    "attr.color.confidence": pa.float32(),
}


def table_of(rows: list[Row], ids: list[int]) -> pa.Table:
    columns = {name: pa.array([row[name] for row in rows], kind) for name, kind in KINDS.items()}
    return pa.table({"item": ids, **columns})


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    rows=ROWS,
    nodes=st.lists(EXPRESSIONS, min_size=1, max_size=6),
    k=st.integers(1, 13),
    threshold=st.none() | st.sampled_from([0.0, 0.5, 0.6, 1.0]),
    deleted=st.integers(0, 11),
    seed=st.integers(0, 99),
)
@pytest.mark.usefixtures("quick_disk")
def test_items_and_confidences_are_those_of_a_plain_evaluation(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[Row],
    nodes: list[Node],
    k: int,
    threshold: float | None,
    deleted: int,
    seed: int,
) -> None:
    ids = np.random.default_rng(seed).permutation(len(rows)).tolist()  # not in the rows' order
    gallery = Gallery.create(tmp_path_factory.mktemp("g") / "g", dim=1, fingerprint=FINGERPRINT)
    gallery.add(np.ones((len(rows), 1)), table_of(rows, ids))
    if deleted < len(rows):
        gallery.delete(items=[ids[deleted]])
    for node in nodes:
        judged = {
            item: judge(node, row)
            for place, (item, row) in enumerate(zip(ids, rows, strict=True))
            if place != deleted
        }
        true = {item: sure for item, (truth, sure) in judged.items() if truth}
        passing = {i: sure for i, sure in true.items() if threshold is None or sure >= threshold}
        best = sorted(passing.items(), key=lambda one: (-one[1], one[0]))[:k]
        result = gallery.select(text_of(node), k=k, threshold=threshold)
        assert [(match.item, match.confidence) for match in result.matches] == best
        assert [match.rank for match in result.matches] == list(range(1, len(best) + 1))
        assert result.allowed == len(true)
        assert result.rows == len(judged)
        assert result.exact


@pytest.fixture
def gallery(tmp_path: Path) -> Gallery:
    made = Gallery.create(tmp_path / "g", dim=2, fingerprint=FINGERPRINT)
    rows = [
        {"camera": 1, "attr.hat": "yes", "attr.hat.confidence": 0.75},
        {"camera": 2, "attr.hat": "yes", "attr.hat.confidence": None},
        {"camera": 1, "attr.hat": "no", "attr.hat.confidence": 0.5},
        {"camera": 3, "attr.hat": "yes", "attr.hat.confidence": 0.75},
        {"camera": 3, "attr.hat": None, "attr.hat.confidence": None},
    ]
    made.add(np.eye(2)[[0, 1, 0, 1, 0]], rows)
    return made


def listed(result: Result) -> list[tuple[int, float | None]]:
    return [(match.item, match.confidence) for match in result.matches]


def test_the_surest_come_first_and_equal_ones_by_item(gallery: Gallery) -> None:
    result = gallery.select("attr.hat = 'yes'")
    assert listed(result) == [(1, 1.0), (0, 0.75), (3, 0.75)]
    assert {(one.similarity, one.distance) for one in result.matches} == {(None, None)}
    assert result.matches[1].extra == {"attr.hat": "yes", "attr.hat.confidence": 0.75}
    assert result.note == "only 3 match: 3 of 5 items are allowed"
    assert listed(gallery.select("attr.hat = 'yes'", k=2)) == [(1, 1.0), (0, 0.75)]
    assert listed(gallery.select("attr.hat = 'yes'", not_camera=[2])) == [(0, 0.75), (3, 0.75)]
    over = gallery.select("attr.hat = 'yes'", threshold=0.8)
    assert (listed(over), over.note) == (
        [(1, 1.0)],
        "only 1 match: the others are beyond the threshold 0.8",
    )
    nobody = gallery.select("camera = 9")
    assert (nobody.matches, nobody.note) == ((), "only 0 match: 0 of 5 items are allowed")


def test_a_threshold_is_what_a_gallery_keeps_of_it(tmp_path: Path) -> None:
    gallery = Gallery.create(tmp_path / "g", dim=1, fingerprint=FINGERPRINT)
    gallery.add([[1]], [{"attr.hat": "yes", "attr.hat.confidence": 0.7}])
    assert len(gallery.select("attr.hat = 'yes'", threshold=0.7).matches) == 1


def test_a_confidence_that_is_no_number_counts_as_none() -> None:
    """Versions before 1.6 let such into galleries."""
    items = pa.table({"attr.hat": ["yes"] * 2, "attr.hat.confidence": [float("nan"), 0.5]})
    where = compile_where("attr.hat = 'yes'")
    found = confidences(where, Columns(items), items, np.arange(2))
    assert found.tolist() == [0, 0.5]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"where": None}, "a description is text .* got None: say what to look for"),
        ({"k": 0}, "k must be a whole number from 1 up"),
        ({"threshold": 1.5}, r"the threshold of a confidence is from 0 to 1, got 1\.5"),
        ({"threshold": float("nan")}, "got nan"),
        ({"not_camera": 3}, "not_camera is a list"),
    ],
)
def test_what_makes_no_sense_is_refused(
    gallery: Gallery, values: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        gallery.select(**({"where": "camera = 1"} | values))


def test_an_attribute_that_the_gallery_has_not(gallery: Gallery) -> None:
    with pytest.raises(WhereError, match=r"unknown column 'attr\.bag'.*; attributes: attr\.hat\n"):
        gallery.select("attr.bag = 'yes'")


def test_a_match_of_a_search_has_no_confidence(gallery: Gallery) -> None:
    (first, *_) = gallery.search([1, 0], where="attr.hat = 'yes'").matches
    assert first.confidence is None
    assert replace(first, confidence=0.5).similarity == 1
