"""Filtering by a target's attributes: equal to a plain loop over rows, and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from conftest import FINGERPRINT
from hypothesis import given, settings
from hypothesis import strategies as st

from reid_index import Agreement, Gallery, Reranking
from reid_index.errors import BadSource, FormatTooNew, UsageError
from reid_index.filters.agreement import known_of, read_thresholds, write_thresholds
from reid_index.filters.allowed import Filters
from reid_index.filters.columns import Columns
from reid_index.store.deletions import Live
from reid_index.store.items import conform

WORDS: dict[str, list[str]] = {
    "hat": ["yes", "no"],
    "age": ["young", "adult", "old"],
    "upper_color": ["red", "blue", "black", "white"],
}
SURE = [0.0, 0.5, 0.6999, 0.7, 0.70001, 0.9, 1.0, None, float("nan")]
THRESHOLDS = [0.0, 0.5, 0.7, 0.95, 1.0]
MORE = [*(word for words in WORDS.values() for word in words), "never seen"]
OF_WORDS = st.dictionaries(st.sampled_from(MORE), st.none() | st.sampled_from(THRESHOLDS))


def columns_of(rows: list[dict[str, tuple[Any, float | None]]]) -> pa.Table:
    """Rows of attribute → (value, confidence) as an item table, in one chunk."""
    columns: dict[str, Any] = {
        "item": list(range(len(rows))),
        "camera": [n % 3 for n, _ in enumerate(rows)],
    }
    for name in WORDS:
        kind = pa.list_(pa.string()) if name == "upper_color" else pa.string()
        columns[f"attr.{name}"] = pa.array([row[name][0] for row in rows], kind)
        columns[f"attr.{name}.confidence"] = pa.array([row[name][1] for row in rows], pa.float32())
    return conform(pa.table(columns))


def words_of(name: str) -> st.SearchStrategy[Any]:
    one = st.sampled_from(WORDS[name])
    return (
        st.lists(one, min_size=1, max_size=3, unique=True).map(sorted) if "color" in name else one
    )


ROW = st.fixed_dictionaries(
    {name: st.tuples(st.none() | words_of(name), st.sampled_from(SURE)) for name in WORDS}
)
TARGET = st.dictionaries(st.sampled_from(list(WORDS)), st.integers(), min_size=1).flatmap(
    lambda names: st.fixed_dictionaries(
        {
            name: st.tuples(words_of(name), st.sampled_from([0.2, 0.7, 0.9, 1.0, None]))
            for name in names
        }
    )
)
SOME = st.sampled_from(list(WORDS))


def disagrees(
    target: tuple[Any, float | None], row: tuple[Any, float | None], threshold: Any
) -> bool:
    """The rule, once more, for one attribute of one row."""
    if threshold is None or row[0] is None:
        return False
    sets = [{one} if isinstance(one, str) else set(one) for one in (target[0], row[0])]
    for words, sure in zip(sets, (target[1], row[1]), strict=True):
        for word in words:
            least = threshold.get(word) if isinstance(threshold, dict) else threshold
            if least is None:
                return False
            if sure is not None and not np.float32(sure) >= np.float32(least):
                return False
    return not sets[0] & sets[1]


@settings(deadline=None, max_examples=100)
@given(
    rows=st.lists(ROW, min_size=1, max_size=30),
    targets=st.lists(TARGET, min_size=1, max_size=3),
    threshold=st.none() | st.sampled_from(THRESHOLDS),
    own=st.dictionaries(SOME, st.none() | st.sampled_from(THRESHOLDS) | OF_WORDS),
    unused=st.sets(SOME, max_size=1),
    deleted=st.sets(st.integers(0, 29)),
    where=st.sampled_from([None, "camera != 1"]),
    not_camera=st.sampled_from([(), (2,)]),
)
def test_it_drops_what_a_loop_over_rows_drops(
    rows: list[dict[str, Any]],
    targets: list[dict[str, Any]],
    threshold: float | None,
    own: dict[str, Any],
    unused: set[str],
    deleted: set[int],
    where: str | None,
    not_camera: tuple[int, ...],
) -> None:
    table = columns_of(rows)
    gone = np.isin(np.arange(len(rows)), list(deleted))
    filters = Filters(Columns(table), Live([len(rows)], [gone if gone.any() else None]))
    for target in targets * 2:  # first, prepared, kept
        agreement = Agreement(target, threshold, own, unused)
        allowed = filters.allowed(where=where, not_camera=not_camera, agreement=agreement)
        others = [
            n
            for n in range(len(rows))
            if not gone[n] and not (where and n % 3 == 1) and n % 3 not in not_camera
        ]
        by = {
            name: {
                n
                for n in others
                if disagrees(
                    target[name],
                    rows[n][name],
                    None if name in unused else own.get(name, threshold),
                )
            }
            for name in target
        }
        dropped = set[int]().union(*by.values())
        assert allowed.listed.tolist() == [n for n in others if n not in dropped]
        assert allowed.agreed is not None
        assert (allowed.agreed.allowed, allowed.agreed.dropped) == (len(others), len(dropped))
        counts = {one.name: (one.dropped, one.only) for one in allowed.agreed.attributes}
        assert counts.keys() == WORDS.keys()
        for name in WORDS:
            mine = by.get(name, set())
            rest = set[int]().union(*(rows for other, rows in by.items() if other != name))
            assert counts[name] == (len(mine), len(mine - rest))
        if not (where or not_camera or gone.any()):
            assert np.flatnonzero(agreement.keeps(table)).tolist() == allowed.listed.tolist()


ITEMS = columns_of(
    [
        {"hat": ("no", 0.95), "age": (None, None), "upper_color": (["red"], 0.8)},
        {"hat": ("yes", None), "age": ("old", 0.2), "upper_color": (["blue"], 0.8)},
        {"hat": ("no", None), "age": ("adult", 0.9), "upper_color": (["black", "red"], 0.6)},
        {"hat": (None, 0.9), "age": ("adult", 0.7), "upper_color": (None, None)},
    ]
)


def test_why_an_attribute_is_not_used_is_said() -> None:
    agreement = Agreement(
        {"coat": ("yes", 0.9), "hat": ("yes", 0.9), "age": ("old", 0.69)}, unused=["upper_color"]
    )
    told = agreement.compared(ITEMS.schema)
    assert [(one.name, one.words, one.confidence, one.threshold, one.unused) for one in told] == [
        ("coat", ("yes",), 0.9, 0.7, "not in the gallery"),
        ("hat", ("yes",), 0.9, 0.7, None),
        ("age", ("old",), 0.69, 0.7, "not sure enough"),
        ("upper_color", (), None, None, "not known of the target"),
    ]
    assert agreement.keeps(ITEMS).tolist() == [False, True, False, True]
    put_down = Agreement({"hat": ("yes", 1), "age": ("old", 1)}, 0.9, {"age": None}, ["hat"])
    assert [one.unused for one in put_down.compared(ITEMS.schema)][:2] == ["not to be used"] * 2
    listed = Agreement({"hat": ("yes", 1), "age": ("old", 1)}, None, {"hat": 0.9})
    assert listed.compared(ITEMS.schema)[1].unused == "it has no threshold"
    assert listed.keeps(ITEMS).tolist() == [False, True, False, True]


def test_a_confidence_as_a_gallery_keeps_it_reaches_the_threshold_it_was_written_as() -> None:
    kept = float(np.float32(0.7))
    assert kept < 0.7
    agreement = Agreement({"age": ("old", kept)}, 0.7)
    assert agreement.keeps(ITEMS).tolist() == [True, True, False, False]


def test_each_side_has_to_reach_the_threshold_of_its_own_word() -> None:
    rows = [("no", 0.6), ("no", 0.5), ("yes", 0.1), ("maybe", 1.0), (None, None)]
    nothing = (None, None)
    items = columns_of([{"hat": row, "age": nothing, "upper_color": nothing} for row in rows])
    of_words = {"yes": 0.9, "no": 0.6, "maybe": None}
    sure = Agreement({"hat": ("yes", 0.9)}, thresholds={"hat": of_words})
    assert sure.keeps(items).tolist() == [False, True, True, True, True]
    assert sure.compared(items.schema)[0].threshold == 0.9
    assert Agreement({"hat": ("yes", 0.89)}, thresholds={"hat": of_words}).keeps(items).all()
    no = Agreement({"hat": ("no", 0.6)}, thresholds={"hat": {"yes": 0.1, "no": 0.6}})
    assert no.keeps(items).tolist() == [True, True, False, True, True]
    for word in ("maybe", "often"):
        never = Agreement({"hat": (word, 1)}, thresholds={"hat": of_words})
        assert never.compared(items.schema)[0].unused == f"{word} is not to be used"
        assert never.keeps(items).all()


def test_a_set_has_the_highest_threshold_of_its_words() -> None:
    told = {"red": 0.5, "blue": 0.8, "white": 0.0}
    sets = [["blue"], ["blue", "red"], ["red"], ["black", "red"]]
    nothing = (None, None)
    items = columns_of([{"hat": nothing, "age": nothing, "upper_color": (s, 0.7)} for s in sets])
    white = Agreement({"upper_color": ("white", 0)}, thresholds={"upper_color": told})
    assert white.keeps(items).tolist() == [True, True, False, True]
    both: dict[str, Any] = {"upper_color": (["blue", "white"], 0.7)}
    assert Agreement(both, thresholds={"upper_color": told}).keeps(items).all()
    assert not Agreement(both, thresholds={"upper_color": told | {"blue": 0.7}}).keeps(items)[2]
    unlisted: dict[str, Any] = {"upper_color": (["green", "white"], 1)}
    assert Agreement(unlisted, thresholds={"upper_color": told}).keeps(items).all()


def test_a_column_that_holds_no_words_is_not_used() -> None:
    table = pa.table({"attr.hat": [True], "attr.age": ["old"]})
    (hat, _) = Agreement({"hat": ("yes", 1)}).compared(table.schema)
    assert hat.unused == "no words in the gallery, but bool"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"target": {}}, "nothing is known of the target's attributes"),
        ({"target": {"hat": ("yes", 1.5)}}, "confidence of the target's hat .* 0 to 1, got 1.5"),
        ({"target": {"hat": ("yes", -0.1)}}, "got -0.1"),
        ({"target": {"hat": ("yes", float("nan"))}}, "got nan"),
        ({"target": {"hat": ("yes", True)}}, "got True"),
        ({"target": {"hat": ("yes", "0.9")}}, "got '0.9'"),
        ({"target": {"hat": (None, 0.9)}}, "hat is a word, .* leave out what is not known"),
        ({"target": {"hat": ((), 0.9)}}, "hat is a word"),
        ({"target": {"hat": (["red", None], 0.9)}}, "hat is a word"),
        ({"target": {"hat": (3, 0.9)}}, "hat is a word"),
        ({"threshold": 1.01}, "the threshold is a number from 0 to 1, got 1.01"),
        ({"threshold": float("nan")}, "got nan"),
        ({"thresholds": {"hat": -1}}, "the threshold of hat .* got -1"),
        ({"thresholds": {"hat": {"yes": 1.1}}}, "the threshold of hat, yes, .* got 1.1"),
        ({"thresholds": {"hat": {"yes": True}}}, "the threshold of hat, yes, .* got True"),
        ({"thresholds": {"hat": {3: 0.5}}}, "thresholds of hat are those of words, got 3"),
        ({"thresholds": {"hat": [0.5]}}, r"the threshold of hat .* got \[0.5\]"),
        ({"unused": "hat"}, "unused is a list of attributes, got 'hat'"),
    ],
)
def test_what_makes_no_sense_is_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Agreement(**({"target": {"hat": ("yes", 0.9)}} | values))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"thresholds": {"shoes": 0.9}}, "no attribute 'shoes'.*: hat, age, upper_color"),
        ({"thresholds": {"shoes": None}}, "no attribute 'shoes'"),
        ({"unused": ["hats"]}, "no attribute 'hats'.*: hat, age, upper_color"),
        ({"target": {"coat": ("yes", 1), "boots": ("no", 1)}}, r"none of .* \(coat, boots\); its"),
    ],
)
def test_attributes_that_the_gallery_has_not(values: dict[str, Any], words: str) -> None:
    agreement = Agreement(**({"target": {"hat": ("yes", 0.9)}} | values))
    with pytest.raises(UsageError, match=words):
        agreement.keeps(ITEMS)


def test_agreements_of_the_same_are_equal_and_kept_once() -> None:
    filters = Filters(Columns(ITEMS), Live([4], [None]))
    target: dict[str, Any] = {"upper_color": (["red", "black", "red"], 0.9)}
    one = Agreement(target, thresholds={"hat": 0.5})
    other = Agreement({"upper_color": ({"black", "red"}, 0.9)}, thresholds={"hat": 0.5})
    target["hat"] = ("yes", 1)  # a caller goes on with theirs
    assert (one, hash(one)) == (other, hash(other))
    words = {"yes": 0.5, "no": 0.9}
    by_word, again = (Agreement(target, thresholds={"hat": dict(words)}) for _ in range(2))
    words["no"] = 0.5
    assert (by_word, hash(by_word)) == (again, hash(again))
    assert by_word != Agreement(target, thresholds={"hat": words})
    first = filters.allowed(where=None, not_camera=[], agreement=one)
    assert filters.allowed(where=None, not_camera=[], agreement=other) is first
    assert filters.allowed(where=None, not_camera=[], agreement=Agreement(target)) is not first
    wrong: Any = target
    with pytest.raises(UsageError, match="agreement is an Agreement, got a dict"):
        filters.allowed(where=None, not_camera=[], agreement=wrong)


# In searches


@pytest.fixture
def gallery(tmp_path: Path, rng: np.random.Generator) -> Gallery:
    made = Gallery.create(tmp_path / "g", dim=4, fingerprint=FINGERPRINT)
    rows = [
        {
            "camera": n % 3,
            "track": str(n // 2),
            "attr.hat": ["yes", "no", None][n % 3],
            "attr.hat.confidence": [0.9, 0.75, None][n % 3],
            "attr.upper_color": [["red"], ["red", "blue"], ["black"], None][n % 4],
            "attr.upper_color.confidence": [0.9, 0.6, 0.8, None][n % 4],
        }
        for n in range(24)
    ]
    made.add(rng.standard_normal((24, 4)), rows)
    made.delete(items=[3, 4])
    return made


TOLD = Agreement({"hat": ("yes", 0.8), "upper_color": (["red"], 0.9)})


def test_every_way_to_search_leaves_out_what_disagrees(
    gallery: Gallery, rng: np.random.Generator
) -> None:
    queries = rng.standard_normal((3, 4))
    stays = {n for n in range(24) if n not in (3, 4) and n % 3 != 1 and n % 4 != 2 and n % 3 != 0}
    options: dict[str, Any] = {"k": 30, "not_camera": [0], "agreement": TOLD}
    for extra in ({}, {"rerank": Reranking(k1=3, k2=2)}, {"combine": "best"}):
        if extra.get("rerank"):
            extra["rerank_graph"] = "allowed"
        query = queries if extra.get("combine") == "best" else queries[0]
        result = gallery.search(query, **options, **extra)
        assert {match.item for match in result.matches} == stays
        assert result.allowed == len(stays)
        assert result.agreed is not None
        assert (result.agreed.allowed, result.agreed.dropped) == (15, 15 - len(stays))
    many = gallery.search_many(queries, **options | {"agreement": [TOLD, None, TOLD]})
    assert [len(one.matches) for one in many] == [len(stays), 15, len(stays)]
    assert many[0].agreed is many[2].agreed is not None
    assert many[1].agreed is None
    near = gallery.nearest(queries, **options)
    assert [len(one.rows) for one in near] == [len(stays)] * 3
    videos = gallery.search_videos(queries, **options)
    tracks = {str(n // 2) for n in stays}
    assert {one.track for one in videos.candidates} == tracks
    assert videos.agreed == many[0].agreed


def test_equal_answers_of_different_targets_each_have_their_own_counts(gallery: Gallery) -> None:
    red = Agreement({"upper_color": (["red"], 1)}, thresholds={"hat": None})
    both = Agreement({"upper_color": (["red"], 1), "hat": ("maybe", 0.1)})
    one, other = gallery.search_many(np.eye(4)[:2], k=3, agreement=[red, both])
    assert one.allowed == other.allowed
    assert one.agreed is not None
    assert other.agreed is not None
    assert [row.name for row in other.agreed.attributes] == ["upper_color", "hat"]
    assert [row.unused for row in one.agreed.attributes] == [None, "not known of the target"]
    assert [row.unused for row in other.agreed.attributes] == [None, "not sure enough"]


def test_as_many_agreements_as_queries(gallery: Gallery) -> None:
    with pytest.raises(UsageError, match="3 queries but 2 agreements: one for each"):
        gallery.search_many(np.eye(4)[:3], agreement=[TOLD, None])
    wrong: Any = 0.7
    with pytest.raises(UsageError, match="agreement is one Agreement, or one for each"):
        gallery.search_many(np.eye(4)[:3], agreement=wrong)


# What pictures tell together


@pytest.mark.parametrize(
    ("values", "confidences", "expected"),
    [
        (["yes"], [0.8], ("yes", 0.8)),
        (["yes"], [None], ("yes", 1.0)),
        (["yes"], None, ("yes", 1.0)),
        ([None, "no"], [0.9, 0.75], ("no", 0.75)),
        (["yes", "yes", "no", None], [0.75, 0.5, 1.0, None], ("yes", 1.25 / 3)),
        (["yes", "no"], [0.5, 0.5], ("yes", 0.25)),
        ([["red", "black"]], [0.75], (("black", "red"), 0.75)),
        (
            [["red", "black"], ["red"], ["black", "red"]],
            [0.5, 0.75, 0.5],
            (("black", "red"), 1 / 3),
        ),
        ([["red"], None, ["blue"]], [0.75, 1.0, 0.5], (("red",), 0.375)),
    ],
)
def test_the_word_with_the_largest_sum_counts(
    values: list[Any], confidences: list[Any] | None, expected: tuple[Any, float]
) -> None:
    columns: dict[str, list[Any]] = {"item": [1] * len(values), "attr.x": values}
    if confidences is not None:
        columns["attr.x.confidence"] = confidences
    assert known_of(columns) == {"x": expected}


def test_what_no_picture_tells_is_left_out() -> None:
    columns = {"attr.x": [None, None], "attr.x.confidence": [0.9, None], "attr.y": [True, 2]}
    assert known_of(columns) == {}
    with pytest.raises(UsageError, match=r"confidence of the target's x is .* got 2"):
        known_of({"attr.x": ["yes"], "attr.x.confidence": [2.0]})


# Files of thresholds


def test_thresholds_are_read_as_they_were_written(tmp_path: Path) -> None:
    told = {"hat": 0.95, "bag": None, "age": 1, "coat": {"yes": 0.5, "no": None, "Wörter": 1}}
    write_thresholds(tmp_path / "t.json", told, about={"kept": 0.98})
    assert read_thresholds(tmp_path / "t.json") == told
    content = json.loads((tmp_path / "t.json").read_text())
    assert content == {"format": 1, "thresholds": told, "about": {"kept": 0.98}}
    with pytest.raises(UsageError, match="the threshold of hat"):
        write_thresholds(tmp_path / "t.json", {"hat": 2}, about={})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "no thresholds of attributes can be read"),
        ("[]", "not an object"),
        ('{"thresholds": {}}', "its format is None, not 1"),
        ('{"format": true, "thresholds": {}}', "its format is True, not 1"),
        ('{"format": 1}', "other fields"),
        ('{"format": 1, "thresholds": {}, "more": 1}', "other fields"),
        ('{"format": 1, "thresholds": []}', "are objects"),
        ('{"format": 1, "thresholds": {}, "about": 3}', "are objects"),
        ('{"format": 1, "thresholds": {"hat": 1.5}}', "that of hat is 1.5"),
        ('{"format": 1, "thresholds": {"hat": NaN}}', "NaN is no number"),
        ('{"format": 1, "thresholds": {"hat": "0.5"}}', "that of hat is '0.5'"),
        ('{"format": 1, "thresholds": {"hat": {"yes": 1.5}}}', "that of hat, 'yes', is 1.5"),
        ('{"format": 1, "thresholds": {"hat": {"yes": "1"}}}', "that of hat, 'yes', is '1'"),
        ('{"format": 1, "thresholds": {"hat": {"yes": {"no": 1}}}}', "hat, 'yes', is a dict"),
        ('{"format": 1, "thresholds": {"hat": [0.5]}}', r"that of hat is \[0.5\]"),
        ('{"format": 1, "thresholds": {"hat": {"\\ud800": 1}}}', "surrogates not allowed"),
        ('{"format": 1, "thresholds": {"Hat": 0.5}}', "cannot be called 'Hat'"),
    ],
)
def test_damaged_files_of_thresholds_are_refused(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "t.json").write_text(content)
    with pytest.raises(BadSource, match=words) as raised:
        read_thresholds(tmp_path / "t.json")
    assert str(raised.value).startswith(f"{tmp_path / 't.json'}: ")


def test_newer_and_missing_files_of_thresholds(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text('{"format": 2, "other": 1}')
    with pytest.raises(FormatTooNew, match="thresholds of format 2; this version reads 1"):
        read_thresholds(tmp_path / "t.json")
    with pytest.raises(BadSource, match=r"nothing.json: .*No such file"):
        read_thresholds(tmp_path / "nothing.json")
