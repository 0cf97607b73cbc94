"""Galleries of every format version, each written once by the code of its time
(data/make_golden.py): they must stay readable, and of use."""

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import contents, ids
from dense_reranking import dense_reranking
from golden_world import (
    DATA,
    GOLDENS,
    HEAD,
    LABELLED,
    RATE,
    ROOT,
    Golden,
    frames,
    item,
    item_of_segment,
    parts,
    said_of,
    stored,
    vector,
)
from numpy.typing import NDArray
from test_aligned import local

from reid_index import (
    Fingerprint,
    Gallery,
    Matcher,
    Metric,
    Reranking,
    SegmentFrames,
    Shard,
    open_shard,
    verify_gallery,
)
from reid_index.evaluation.calibration import read_calibration
from reid_index.reranking import rerank_gallery
from reid_index.search import index_build, plan
from reid_index.store.manifest import Event
from reid_index.store.shard import FORMAT

FIRST = DATA / "format_v1"
FOLDERS = sorted(path.name for path in DATA.glob("format_*"))
PRESENT = [golden for golden in GOLDENS if golden.folder in FOLDERS]

DIRECTIONS = [[0, 0, 2, 4], [-4, -3, 3, 4], [-2, -2, 3, -1], [-2, 3, -2, -1], [1, 0, -4, -4]]

ITEMS: list[dict[str, Any]] = [
    {
        "item": 0,
        "source": "a/0001.png",
        "camera": 1,
        "person": "ann",
        "start": datetime(2024, 5, 1, 12, 0, 0, 250_000, tzinfo=UTC),
        "end": datetime(2024, 5, 1, 12, 0, 1, tzinfo=UTC),
        "box": [1, 2.5, 30, 60],
        "attr.hat": "yes",
        "attr.hat.confidence": 0.75,
        "in_store": True,
        "tags": ["bag", "cap"],
    },
    {
        "item": 1,
        "source": "a/0002.png",
        "camera": 2,
        "person": "Zoë",
        "track": "t7",
        "attr.hat": "no",
        "in_store": False,
        "tags": [],
    },
    {"item": 2},
    {
        "item": 10,
        "video": "v.mp4",
        "start_s": 1.5,
        "end_s": 2.0,
        "frame_first": 45,
        "frame_last": 60,
        "age": 33,
    },
    {"item": 12, "camera": 2},
]

FINGERPRINT = Fingerprint(
    name="golden",
    version="1",
    weights_sha256="0" * 64,
    height=256,
    width=128,
    interpolation="bilinear",
    color_order="RGB",
    scale=1 / 255,
    mean=(0.5, 0.25, 0.125),
    std=(0.5, 0.5, 0.25),
    flip=True,
    pooling="mean",
)

goldens = pytest.mark.parametrize("golden", PRESENT, ids=lambda golden: golden.folder)
folders = pytest.mark.parametrize("folder", FOLDERS)


@pytest.fixture
def first() -> Gallery:
    return Gallery.open(FIRST)


@pytest.fixture
def copy(tmp_path: Path, folder: str) -> Gallery:
    """Of the golden gallery of that name, to be written to."""
    shutil.copytree(DATA / folder, tmp_path / "g")
    return Gallery.open(tmp_path / "g")


def test_there_is_one_of_every_format() -> None:
    formats = {(1, 0), *(golden.format for golden in GOLDENS)}
    assert formats == {(1, minor) for minor in range(FORMAT[1] + 1)}
    assert sorted(golden.folder for golden in GOLDENS) == [n for n in FOLDERS if n != FIRST.name]


def test_no_byte_has_changed() -> None:
    lines = (DATA / "SHA256SUMS").read_text().splitlines()
    found = {
        str(path.relative_to(DATA)): hashlib.sha256(path.read_bytes()).hexdigest()
        for folder in FOLDERS
        for path in (DATA / folder).rglob("*")
        if path.is_file()
    }
    assert found == {path: digest for digest, path in (line.split("  ") for line in lines)}


@folders
def test_it_is_whole_and_reading_it_writes_nothing(copy: Gallery, folder: str) -> None:
    assert verify_gallery(copy) == []
    if has_frames(copy):
        copy.search_videos([1, 2, 3, 4], index=[1, 0, 0], where="camera = 2")
    else:
        copy.search([1, 2, 3, 4], where="camera = 2", parts=asked_parts(copy, 5000))
    assert contents(copy.path) == contents(DATA / folder)


def test_the_properties_of_format_1_0(first: Gallery) -> None:
    assert (first.manifest.generation, first.manifest.next_item) == (2, 13)
    assert (first.metric, first.dim, first.manifest.dtype) == (Metric.COSINE, 4, "float32")
    assert first.manifest.recipe == {"extractor": "golden", "batch": 8}
    assert first.fingerprint == FINGERPRINT


def test_the_items_of_format_1_0(first: Gallery) -> None:
    assert known(first) == ITEMS
    assert [first.root_of(row) for row in range(5)] == ["/golden/crops"] * 3 + [""] * 2


def known(gallery: Gallery) -> list[dict[str, Any]]:
    """Its items, without what is unknown of them."""
    return [
        {name: value for name, value in entry.items() if value is not None}
        for entry in gallery.items.to_pylist()
    ]


def test_the_vectors_of_format_1_0(first: Gallery) -> None:
    lengths = np.linalg.norm(DIRECTIONS, axis=1, keepdims=True)
    assert first.vectors(range(5)).tolist() == (DIRECTIONS / lengths).astype(np.float32).tolist()


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (
            None,
            {
                0: 0.8981462121009827,
                1: 0.3872983455657959,
                2: -0.04303313419222832,
                10: -0.25819891691207886,
                12: -0.8581163287162781,
            },
        ),
        ("camera = 2", {1: 0.3872983455657959, 12: -0.8581163287162781}),
        ("\"attr.hat\" = 'yes'", {0: 0.8981462121009827}),
        ("start < '2024-05-01T12:00:01'", {0: 0.8981462121009827}),
        ("age > 30", {10: -0.25819891691207886}),
    ],
)
def test_the_answers_of_format_1_0(
    first: Gallery, where: str | None, expected: dict[int, float]
) -> None:
    matches = first.search([1, 2, 3, 4], where=where).matches
    assert [match.item for match in matches] == list(expected)
    similarities = [match.similarity for match in matches]
    np.testing.assert_allclose(similarities, list(expected.values()), rtol=0, atol=1e-7)


@goldens
def test_its_properties(golden: Golden) -> None:
    gallery = Gallery.open(golden.path)
    current = json.loads((golden.path / "CURRENT").read_bytes())
    assert tuple(current["format"]) == golden.format
    assert (gallery.manifest.generation, gallery.manifest.next_item) == (
        golden.generation,
        golden.added,
    )
    assert (gallery.metric, gallery.dim, gallery.manifest.dtype) == (golden.metric, 4, golden.dtype)
    assert gallery.manifest.recipe == {"extractor": "golden", "batch": 8}
    assert gallery.fingerprint == FINGERPRINT


@goldens
def test_its_items_and_vectors(golden: Golden) -> None:
    gallery = Gallery.open(golden.path)
    rows = range(len(golden.numbers))
    expected = [{"item": number} | golden.known(number) for number in golden.numbers]
    for entry in expected:
        if entry["attr.hat"] is None:
            del entry["attr.hat"]
    assert known(gallery) == expected
    assert {gallery.root_of(row) for row in rows} == {ROOT}
    assert [gallery.row_of(number) for number in golden.numbers] == list(rows)
    np.testing.assert_array_equal(gallery.vectors(rows), golden.vectors)


def asked_parts(gallery: Gallery, number: int) -> list[list[int]] | None:
    """Of a query, where the gallery compares parts."""
    return None if gallery.matcher is None or has_frames(gallery) else parts(number)


def has_frames(gallery: Gallery) -> bool:
    return gallery.matcher is not None and gallery.matcher.of_frames


def frames_of(numbers: Sequence[int]) -> SegmentFrames:
    """Of some rows, in single precision."""
    made = [frames(number) for number in numbers]
    return SegmentFrames(
        index=np.array([index for index, _, _ in made], np.float32),
        key=np.array([key for _, keys, _ in made for key in keys], np.float32),
        value=np.array([value for _, _, values in made for value in values], np.float32),
        offset=np.cumsum([0, *(len(keys) for _, keys, _ in made)]),
    )


def queries(count: int) -> NDArray[np.float32]:
    """Vectors that no golden gallery holds."""
    return np.array([vector(5000 + number) for number in range(count)], np.float32)


def scores(golden: Golden, query: NDArray[np.float32]) -> NDArray[np.float64]:
    """Similarities or distances of a query to all rows, in double precision."""
    rows = golden.vectors.astype(np.float64)
    wanted = query.astype(np.float64)
    if golden.metric == "euclidean":
        distances: NDArray[np.float64] = np.sqrt(((rows - wanted) ** 2).sum(axis=1))
        return distances
    similarities: NDArray[np.float64] = rows @ wanted / np.linalg.norm(wanted)
    return similarities


def ranking(golden: Golden, query: NDArray[np.float32]) -> list[int]:
    """All rows from the most to the least alike by their vectors; equal ones by their order, which
    is that of their ids."""
    found = scores(golden, query)
    keys = found if golden.metric == "euclidean" else -found
    return np.argsort(keys, kind="stable").tolist()


@goldens
@pytest.mark.parametrize(
    ("where", "passes"),
    [
        (None, lambda _: True),
        ("\"attr.hat\" = 'yes'", lambda known: known["attr.hat"] == "yes"),
        ("camera IN (1, 3)", lambda known: known["camera"] != 2),
        ("person = 'p3'", lambda known: known.get("person") == "p3"),
        ("\"attr.hat\" = 'no' AND age >= 20", lambda k: k["attr.hat"] == "no" and k["age"] >= 20),
        ("start >= '2024-05-01T12:00:01'", lambda known: known["start"].second >= 1),
    ],
)
def test_its_answers(
    golden: Golden, where: str | None, passes: Callable[[dict[str, Any]], bool]
) -> None:
    if golden.weight is not None or golden.bias is not None:
        return  # see test_its_matched_answers, test_its_answers_to_a_video
    gallery = Gallery.open(golden.path)
    deleted = np.array([vector(700), vector(1015)], np.float32)  # where anything is
    for query in (*queries(3), *deleted):
        best = [row for row in ranking(golden, query) if passes(golden.known(golden.numbers[row]))]
        best = best[:9]
        matches = gallery.search(query, k=9, where=where).matches
        assert [match.item for match in matches] == [golden.numbers[row] for row in best]
        euclidean = golden.metric == "euclidean"
        found = [match.distance if euclidean else match.similarity for match in matches]
        np.testing.assert_allclose(found, scores(golden, query)[best], rtol=3e-7, atol=1e-7)


@goldens
@pytest.mark.parametrize("where", [None, "camera = 2"])
def test_its_matched_answers(golden: Golden, where: str | None) -> None:
    """By vectors and parts together, where it has parts."""
    if golden.weight is None:
        return
    gallery = Gallery.open(golden.path)
    for number, query in enumerate(queries(3), start=5000):
        of_parts = [local(np.array(parts(number)), np.array(parts(n))) for n in golden.numbers]
        expected = np.sqrt(2 - 2 * scores(golden, query)) + golden.weight * np.array(of_parts)
        best = [
            row
            for row in np.argsort(expected, kind="stable")
            if where is None or item(golden.numbers[row])["camera"] == 2
        ]
        matches = gallery.search(query, parts=parts(number), k=30, where=where).matches
        assert [match.item for match in matches] == [golden.numbers[row] for row in best]
        found = [match.matched_distance for match in matches]
        np.testing.assert_allclose(found, expected[best], rtol=0, atol=1e-6)


@goldens
def test_its_graph(golden: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fresh one re-ranks, none being made for the query; a stale one is known to be stale, and
    the answers are those of the graph that the present rows have."""
    gallery = Gallery.open(golden.path)
    if golden.k1 is None:
        assert (gallery.graph, gallery.attached("graph")) == (None, None)
        return
    assert gallery.is_stale("graph") is not golden.fresh
    if golden.fresh:
        assert gallery.graph is not None
        assert (gallery.graph.k1, gallery.graph.exact) == (golden.k1, True)
        monkeypatch.setattr(rerank_gallery, "make_graph", None)
    reranking = Reranking(k1=golden.k1, k2=golden.k2)
    for query in queries(2):
        expected = reranked(golden, query)
        matches = gallery.search(query, k=5, rerank=reranking).matches
        best = np.argsort(expected, kind="stable")[:5]
        assert [match.item for match in matches] == [golden.numbers[row] for row in best]
        found = [match.reranked_distance for match in matches]
        np.testing.assert_allclose(found, expected[best], rtol=0, atol=2e-6)


def reranked(golden: Golden, query: NDArray[np.float32]) -> NDArray[np.float64]:
    """Re-ranked distances of a query, alone with the gallery in one graph."""
    assert golden.k1 is not None
    nodes = np.concatenate([query[None], golden.vectors]).astype(np.float64)
    if golden.metric == "cosine":
        nodes[0] /= np.linalg.norm(nodes[0])
    squared = ((nodes[:, None] - nodes) ** 2).sum(axis=2).astype(np.float32)
    order = np.arange(len(nodes))
    return dense_reranking(squared, queries=1, order=order, k1=golden.k1, k2=golden.k2)[0]


@goldens
def test_its_index(golden: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked to, it finds the wanted share of the right rows, those among them that it does not
    know of."""
    gallery = Gallery.open(golden.path)
    if golden.index is None:
        assert gallery.index is None
        return
    assert gallery.index is not None
    about = next(entry.about for entry in gallery.manifest.attached if entry.kind == "index")
    for kind, rows in ((gallery.index.kind, gallery.index.rows), (about["kind"], about["rows"])):
        assert (kind, rows) == (golden.index, golden.indexed)
    assert about["recall_wanted"] == 0.9
    monkeypatch.setattr(plan, "_index", lambda *_, **__: 0.0)  # what asking it costs
    asked = queries(40)
    answers = gallery.search_many(asked, k=10, recall=0.9)
    assert sum("index" in answer.plan for answer in answers) >= 20
    found = [{match.item for match in answer.matches} for answer in answers]
    right = [{golden.numbers[row] for row in ranking(golden, query)[:10]} for query in asked]
    assert sum(len(a & b) for a, b in zip(found, right, strict=True)) >= 0.9 * 10 * len(asked)
    late = {number for number in golden.numbers if number >= golden.late}
    assert {number for some in found for number in some & late} == {
        number for some in right for number in some & late
    }


@goldens
def test_its_calibration(golden: Golden) -> None:
    """`threshold` is the least strict one by which no more than RATE of the pairs of two people
    match."""
    calibration = read_calibration(Gallery.open(golden.path))
    assert calibration is not None
    numbers = [number for number in golden.numbers if number < LABELLED]
    rows = stored(numbers, metric=golden.metric, dtype=golden.dtype).astype(np.float64)
    persons, cameras = (
        np.array([item(number)[name] for number in numbers]) for name in ("person", "camera")
    )
    pairs = np.triu_indices(len(numbers), k=1)
    same = (persons[:, None] == persons)[pairs]
    apart = (cameras[:, None] != cameras)[pairs]
    if golden.metric == "euclidean":
        kept = -np.linalg.norm(rows[:, None] - rows, axis=2)[pairs]
    else:
        kept = (rows @ rows.T)[pairs]
    assert (calibration.rows, calibration.sampled, calibration.origin) == (
        len(numbers),
        False,
        "labels",
    )
    assert (calibration.positives, calibration.negatives) == ((same & apart).sum(), (~same).sum())
    sign = -1 if golden.metric == "euclidean" else 1
    threshold = sign * calibration.threshold(RATE)
    step = calibration.histograms.limits
    looser = threshold - abs(step[1] - step[0])
    assert (kept[~same] >= threshold).mean() <= RATE < (kept[~same] >= looser).mean()
    share = (kept[same & apart] >= threshold).mean()
    assert calibration.true_match_rate(RATE) == pytest.approx(share)


WITH_MATCHER = [
    Event(what="create"),
    Event(what="add", rows=14),
    Event(what="add", rows=10),
    Event(what="attach", kind="calibration"),
    Event(what="delete", rows=2),
    Event(what="compact", rows=2),
    Event(what="attach", kind="calibration"),
    Event(what="add", rows=5),
    Event(what="delete", rows=1),
]

EVENTS = {
    (1, 3): [
        Event(what="create"),
        Event(what="add", rows=1000),
        Event(what="add", rows=12),
        Event(what="attach", kind="calibration"),
        Event(what="attach", kind="index"),
        Event(what="delete", rows=8),
        Event(what="compact", rows=8),
        Event(what="attach", kind="calibration"),
        Event(what="attach", kind="index"),
        Event(what="add", rows=8),
        Event(what="delete", rows=2),
        Event(what="attach", kind="graph"),
    ],
    (1, 4): WITH_MATCHER,
    (1, 5): WITH_MATCHER,
    (1, 6): [
        *WITH_MATCHER[:4],
        Event(what="attributes", rows=12),
        *WITH_MATCHER[4:8],
        Event(what="attributes", rows=3),
        Event(what="attributes", rows=6),
        WITH_MATCHER[8],
    ],
}


@goldens
def test_what_was_said_later(golden: Golden) -> None:
    """Colours are sets, and are only in what was said."""
    if not golden.said:
        return
    gallery = Gallery.open(golden.path)
    assert len(gallery.manifest.overlays) == 3
    query = queries(1)[0]
    red = gallery.search(query, k=30, where="attr.upper_color = 'red'").matches
    assert {match.item for match in red} == {
        number for number in golden.numbers if "red" in said_of(number).get("attr.upper_color", ())
    }
    assert red


@goldens
def test_its_parts(golden: Golden) -> None:
    gallery = Gallery.open(golden.path)
    if golden.weight is None:
        assert gallery.matcher is None or golden.bias is not None
        return
    assert gallery.matcher == Matcher(name="aligned", weight=golden.weight)
    blocks = [shard.arrays["parts"] for shard in open_shards(golden)]
    kept = [number for number in range(golden.added) if number not in golden.compacted]
    assert np.concatenate(blocks).tolist() == [parts(number) for number in kept]


@goldens
def test_its_frames(golden: Golden) -> None:
    gallery = Gallery.open(golden.path)
    if golden.bias is None:
        assert gallery.frame_blocks is None
        return
    assert gallery.matcher == Matcher(name="coattention", head=HEAD, bias=golden.bias)
    found, expected = gallery.frames(range(len(gallery))), frames_of(golden.numbers)
    for name, array in expected.arrays.items():
        np.testing.assert_array_equal(found.arrays[name], array)
    kept = [number for number in range(golden.added) if number not in golden.compacted]
    blocks = [shard.arrays["frame_key"] for shard in open_shards(golden)]
    np.testing.assert_array_equal(np.concatenate(blocks), frames_of(kept).key)


@goldens
@pytest.mark.parametrize("where", [None, "camera = 2"])
def test_its_answers_to_a_video(golden: Golden, where: str | None) -> None:
    """Of three segments, that no golden gallery holds."""
    if golden.bias is None:
        return
    asked = frames_of([5000, 5001, 5002])
    pairs = np.array(
        [
            [probability(golden.bias, asked, target, n) for target in range(3)]
            for n in golden.numbers
        ]
    )
    expected = {}
    for track in {number // 3 for number in golden.numbers}:
        rows = [
            row
            for row, n in enumerate(golden.numbers)
            if n // 3 == track and (where is None or item(n)["camera"] == 2)
        ]
        groups: dict[Any, list[int]] = {}
        for row in rows:
            known = item_of_segment(golden.numbers[row])
            key = tuple(known.get(name) for name in ("video", "camera", "track", "person"))
            groups.setdefault(key, []).append(row)
        for some in groups.values():
            best = np.sort(pairs[some].reshape(-1))[::-1]
            count = max(1, int(np.ceil(0.2 * len(best) - 1e-9)))
            expected[golden.numbers[some[0]]] = best[:count].sum()
    result = Gallery.open(golden.path).search_videos(
        own_codes_by_numpy(asked), index=asked.index, k=100, where=where, exact=True
    )
    found = {
        min(winner.match.item for winner in one.winners): one.score for one in result.candidates
    }
    assert len(result.candidates) == len(expected)
    np.testing.assert_allclose(
        [one.score for one in result.candidates], sorted(expected.values())[::-1], atol=1e-6
    )
    assert set(found) <= set(golden.numbers)


def softmax(values: NDArray[np.float64]) -> NDArray[np.float64]:
    odds = np.exp(values - values.max())
    return odds / odds.sum()


def code(index: NDArray[np.generic], frames: SegmentFrames, at: int) -> NDArray[np.float64]:
    """Of one of some segments, for an index vector."""
    here = slice(frames.offset[at], frames.offset[at + 1])
    shares = softmax(frames.key[here].astype(np.float64) @ index.astype(np.float64))
    return shares @ frames.value[here].astype(np.float64)


def own_codes_by_numpy(asked: SegmentFrames) -> NDArray[np.float64]:
    return np.array([code(asked.index[at], asked, at) for at in range(len(asked))])


def probability(bias: float, asked: SegmentFrames, target: int, number: int) -> float:
    """The equations of coattention.py, plainly."""
    own = code(asked.index[target], asked, target).astype(np.float32)
    its = code(asked.index[target], frames_of([number]), 0)
    return float(1 / (1 + np.exp(-(bias + (np.array(HEAD) * (own - its) ** 2).sum()))))


def open_shards(golden: Golden) -> list[Shard]:
    return [open_shard(golden.path / name) for name in Gallery.open(golden.path).manifest.folders]


@goldens
def test_its_history(golden: Golden) -> None:
    """Kept through a compaction; formats before 1.3 do not say what made a generation."""
    gallery = Gallery.open(golden.path)
    history = gallery.history()
    assert [past.generation for past in history] == list(range(golden.generation + 1))
    assert [past.rows for past in history[:2]] == [0, golden.shards[0]]
    assert history[-1].rows == len(golden.numbers)
    unknown = [Event(what="unknown")] * len(history)
    assert [past.event for past in history] == EVENTS.get(golden.format, unknown)
    assert gallery.has_added("the second night") is (golden.format >= (1, 3))


def answered(gallery: Gallery) -> list[list[tuple[int, float]]]:
    """What some queries find in all of it: items and scores."""
    if has_frames(gallery):
        return [
            list(zip(np.array(ids(gallery))[one.rows].tolist(), one.scores.tolist(), strict=True))
            for one in gallery.nearest(queries(4), k=len(gallery) or 1)
        ]
    asked = None if gallery.matcher is None else [parts(5000 + number) for number in range(4)]
    found = gallery.search_many(queries(4), k=len(gallery) or 1, parts=asked)
    return [
        [
            (match.item, match.matched_distance or match.similarity or match.distance or 0.0)
            for match in answer.matches
        ]
        for answer in found
    ]


@folders
def test_rows_can_be_added_to_it(copy: Gallery, folder: str) -> None:
    before, given = contents(copy.path), copy.manifest.next_item
    wanted = answered(copy)
    asked = asked_parts(copy, 7000)
    copy.add(
        [vector(7000)],
        [{"camera": 7, "age": 5}],
        parts=None if asked is None else [asked],
        frames=frames_of([7000]) if has_frames(copy) else None,
    )
    again = Gallery.open(copy.path)
    assert verify_gallery(again) == []
    assert ids(again)[-1] == given
    assert again.nearest([vector(7000)], k=1)[0].rows.tolist() == [len(again) - 1]
    assert [[pair for pair in answer if pair[0] != given] for answer in answered(again)] == wanted
    after = contents(copy.path)
    assert json.loads(after["CURRENT"])["format"] == list(FORMAT)
    assert {name for name in before if after.get(name) != before[name]} == {"CURRENT"}


@folders
def test_items_can_be_deleted_from_it(copy: Gallery, folder: str) -> None:
    before, wanted, there = contents(copy.path), answered(copy), ids(copy)
    cameras = copy.items["camera"].to_pylist()
    assert copy.delete(items=there[:1]) == 1
    assert copy.delete(where="camera = 2") == cameras[1:].count(2) > 0
    gone = {there[0], *(i for i, camera in zip(there, cameras, strict=True) if camera == 2)}
    again = Gallery.open(copy.path)
    assert verify_gallery(again) == []
    assert ids(again) == [number for number in there if number not in gone]
    assert answered(again) == [[pair for pair in one if pair[0] not in gone] for one in wanted]
    after = contents(copy.path)
    assert {name for name in before if after.get(name) != before[name]} == {"CURRENT"}


@folders
def test_it_can_be_compacted(copy: Gallery, folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that was touched is then of the present format, and what was attached is made again."""
    monkeypatch.setattr(index_build, "tune", lambda *_, **__: ((), 1.0))  # it takes seconds
    kinds = {entry.kind for entry in copy.manifest.attached}
    past = [(one.generation, one.rows) for one in copy.history()]
    before = contents(copy.path)
    assert copy.delete(items=ids(copy)[:1]) == 1
    wanted, there = answered(copy), sorted(ids(copy))
    done = copy.compact()
    assert (done.rows, done.pending, done.dropped) == (len(there), (), ())
    assert set(done.remade) == kinds
    again = Gallery.open(copy.path)
    assert verify_gallery(again) == []
    assert (sorted(ids(again)), answered(again)) == (there, wanted)
    assert not any(again.is_stale(kind) for kind in kinds)
    written = {name: raw for name, raw in contents(copy.path).items() if name not in before}
    told = [json.loads(raw) for name, raw in written.items() if name.endswith(".json")]
    assert {tuple(one["format"]) for one in told if "format" in one} == {FORMAT}
    assert not any("manifest" in name for name in contents(copy.path).keys() - written.keys())
    history = [(one.generation, one.rows) for one in again.history()]
    assert history[: len(past)] == past
    assert [generation for generation, _ in history] == list(range(again.manifest.generation + 1))
    assert [one.event.what for one in again.history()][len(past) :][:2] == ["delete", "compact"]
