"""Calibration: which pairs count, thresholds against brute force, and what is kept of it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reid_index import Gallery, Metric, verify_gallery
from reid_index.errors import BadSource, CorruptGallery, NoCalibration, UsageError
from reid_index.evaluation import calibration
from reid_index.evaluation.calibration import (
    BINS,
    Calibration,
    Histograms,
    calibrate,
    pair_histograms,
    read_calibration,
    write_calibration,
)
from reid_index.evaluation.pairs import NEGATIVE, POSITIVE, labelled_pairs, sample, track_pairs
from reid_index.search.oracle import score
from reid_index.store.items import conform

MakeGallery = Callable[..., Gallery]

PEOPLE = [
    {"person": "a", "camera": 1},
    {"person": "a", "camera": 2},
    {"person": "a", "camera": 2},
    {"person": "b", "camera": 1},
    {"role": "distractor", "camera": 3},
    {"role": "distractor", "camera": 3},
    {"role": "junk", "person": "-1", "camera": 1},
    {"camera": 1},
    {"person": "b"},
]
"""Two people, two distractors, junk, nobody's label, and one of unknown camera."""


def kinds_of(relation: Any, count: int) -> dict[str, set[tuple[int, int]]]:
    kinds = relation.kinds(slice(0, count), slice(0, count))
    np.testing.assert_array_equal(kinds, kinds.T)
    return {
        name: {(int(i), int(j)) for i, j in np.argwhere(kinds == kind) if i < j}
        for name, kind in (("same", POSITIVE), ("different", NEGATIVE))
    }


def counted(histograms: Histograms) -> dict[str, dict[float, int]]:
    """Score that a bin begins at → pairs in it."""
    return {
        name: {float(histograms.limits[i]): int(counts[i]) for i in np.flatnonzero(counts)}
        for name, counts in (("same", histograms.positives), ("different", histograms.negatives))
    }


def table(rows: list[dict[str, Any]]) -> pa.Table:
    names = dict.fromkeys(name for row in rows for name in row)
    return conform(pa.table({name: [row.get(name) for row in rows] for name in names}))


def brute(vectors: np.ndarray, person: np.ndarray, metric: Metric) -> tuple[np.ndarray, np.ndarray]:
    """The scores of all pairs of one person, and of all pairs of two, as a search gives them."""
    scores = np.stack([score(vector, vectors, metric=metric) for vector in vectors])
    i, j = np.triu_indices(len(vectors), k=1)
    same = person[i] == person[j]
    return scores[i, j][same].astype(np.float64), scores[i, j][~same].astype(np.float64)


def scattered(
    rng: np.random.Generator, make_gallery: MakeGallery, metric: Metric, *, spread: float = 0.7
) -> tuple[Gallery, np.ndarray]:
    """A gallery of 12 people, 6 items each, scattered around a centre of their own; the people."""
    person = np.repeat(np.arange(12), 6)
    vectors = rng.normal(size=(12, 8))[person] + spread * rng.normal(size=(72, 8))
    gallery = make_gallery(str(metric), dim=8, metric=metric)
    gallery.add(vectors, [{"person": f"p{code:02}"} for code in person])
    return gallery, person


def test_which_pairs_labels_make() -> None:
    rows, relation = labelled_pairs(table(PEOPLE), same_camera=False)
    assert rows.tolist() == [0, 1, 2, 3, 4, 5, 8]
    different = {(i, j) for i in (0, 1, 2) for j in (3, 4, 5, 6)}
    different |= {(3, 4), (3, 5), (4, 6), (5, 6)}
    assert kinds_of(relation, 7) == {"same": {(0, 1), (0, 2), (3, 6)}, "different": different}
    # Two people, drawn whole, and two nobodies, drawn one by one.
    assert len(set(relation.groups.tolist())) == 4
    assert (relation.groups[:3] == relation.groups[0]).all()
    _, relation = labelled_pairs(table(PEOPLE), same_camera=True)
    same = {(0, 1), (0, 2), (1, 2), (3, 6)}
    assert kinds_of(relation, 7) == {"same": same, "different": different}


def test_which_pairs_tracks_make() -> None:
    def seen(track: str | None, frame: int | None, **more: Any) -> dict[str, Any]:
        return {"track": track, "frame_first": frame, "video": "v", "camera": 1} | more

    rows = [
        seen("1", 0),
        seen("1", 10),
        seen("2", 10),
        seen("2", 20),
        seen("3", 21),
        seen(None, 10),
        seen("1", 10, camera=2),
        seen("2", 10, video="w"),
        seen("4", None, start_s=0.0, end_s=50.0),
        seen("5", None, start_s=50.0, end_s=60.0),
        seen("6", None),
        seen("6", None),
        seen("7", 5, video=None, source="f/7/a.png"),
        seen("8", 5, video=None, source="f/7/b.png"),
        seen("7", 5, video=None, source="f/8/a.png"),
        seen("9", 5, camera=3, start_s=1.0),
        seen("10", 9, camera=3, start_s=1.0),
    ]
    found, relation = track_pairs(table(rows))
    assert sorted(found.tolist()) == [0, 1, 2, 3, 4, *range(6, 17)]
    kinds = kinds_of(relation, len(found))
    pairs = {
        name: {(min(i, j), max(i, j)) for i, j in found[np.array(sorted(chosen))].tolist()}
        for name, chosen in kinds.items()
    }
    # 1 and 2 are both there at frame 10; 3 comes when 2 has gone.
    crossing = {(i, j) for i in (0, 1) for j in (2, 3)}
    assert pairs == {
        "same": {(0, 1), (2, 3), (10, 11)},
        "different": crossing | {(8, 9), (12, 13)},
    }


@pytest.mark.parametrize("tile", [(512, 4096), (3, 5), (4, 4)])
def test_counts_by_hand(monkeypatch: pytest.MonkeyPatch, tile: tuple[int, int]) -> None:
    monkeypatch.setattr(calibration, "_TILE", tile)
    vectors = np.array(
        [[1, 0], [0, 1], [1, 0], [-1, 0], [0.6, 0.8], [0, -1], [0.28, 0.96]], np.float32
    )
    rows, relation = labelled_pairs(table(PEOPLE), same_camera=False)
    assert len(rows) == 7

    def bin_of(similarity: float) -> float:
        return float(np.floor(np.float64(np.float32(similarity)) * 2**15) / 2**15)

    # Persons a, a, a, b, -, -, b: what each of the different pairs is alike, in the same order.
    similarities = [-1, 0.6, 0, 0.28, 0, 0.8, -1, 0.96, -1, 0.6, 0, 0.28, -0.6, 0, 0.936, -0.96]
    expected: dict[float, int] = {}
    for similarity in similarities:
        at = bin_of(similarity)
        expected[at] = expected.get(at, 0) + 1
    found = counted(pair_histograms(vectors, relation, metric=Metric.COSINE))
    assert found["same"] == {0.0: 1, 1 - 2**-15: 1, bin_of(-0.28): 1}
    assert found["different"] == expected


@pytest.mark.parametrize(
    ("metric", "span", "same", "different"),
    [
        # In steps of 2⁻¹⁰ and 2⁻¹¹; the last bin ends at the distance 0.
        ("inner_product", 32.0, {25.0: 1}, {-25.0: 2, -9.0: 1, 9.0: 2}),
        (
            "euclidean",
            32.0,
            {2**-11: 1},
            {10.0: 2, 4.0: 2, float(np.ceil(52**0.5 * 2**11) / 2**11): 1},
        ),
    ],
)
def test_other_metrics_by_hand(
    make_gallery: MakeGallery,
    metric: str,
    span: float,
    same: dict[float, int],
    different: dict[float, int],
) -> None:
    gallery = make_gallery(dim=2, metric=metric)
    gallery.add([[3, 4], [3, 4], [-3, -4], [3, 0]], [{"person": p} for p in "aabc"])
    made = calibrate(gallery, false_match_rate=0.5)
    assert counted(made.histograms) == {"same": same, "different": different}
    assert made.histograms.span == span


def test_one_distant_vector_does_not_blur_the_others(
    rng: np.random.Generator, make_gallery: MakeGallery
) -> None:
    vectors = np.repeat(10 * rng.normal(size=(20, 8)), 3, axis=0) + rng.normal(size=(60, 8))
    people = [{"person": f"p{row // 3}", "camera": row % 3} for row in range(60)]
    near = make_gallery("near", dim=8, metric="euclidean")
    near.add(vectors, people)
    vectors[59] *= 1e5
    far = make_gallery("far", dim=8, metric="euclidean")
    far.add(vectors, people)
    expected = calibrate(near, false_match_rate=0.01).threshold(0.01)
    assert calibrate(far, false_match_rate=0.01).threshold(0.01) == pytest.approx(expected, rel=0.2)


@pytest.mark.parametrize("metric", list(Metric))
def test_a_threshold_keeps_its_promise_and_gives_nothing_away(
    rng: np.random.Generator, make_gallery: MakeGallery, metric: Metric
) -> None:
    gallery, person = scattered(rng, make_gallery, metric)
    made = calibrate(gallery, same_camera=True, false_match_rate=0.01)
    positives, negatives = brute(gallery.vectors(range(72)), person, metric)
    assert (made.positives, made.negatives) == (len(positives), len(negatives)) == (180, 2376)
    limits = made.histograms.limits
    step = limits[1] - limits[0]
    for rate in (1 / 2376, 0.001, 0.01, 0.2, 0.999):
        threshold = made.threshold(rate)
        better = np.greater_equal if metric.higher_is_better else np.less_equal
        assert better(negatives, threshold).mean() <= rate
        assert better(negatives, threshold - step).mean() > rate
        assert better(positives, threshold).mean() == made.true_match_rate(rate)
    threshold = made.threshold(0.01)
    matched = 0
    for row in range(72):
        found = gallery.search(gallery.vectors([row])[0], k=72, threshold=threshold)
        matched += sum(match.person != f"p{person[row]:02}" for match in found.matches)
    assert 0 < matched / 2 <= 0.01 * 2376


def test_eer_and_roc_against_sorted_scores(
    rng: np.random.Generator, make_gallery: MakeGallery
) -> None:
    gallery, person = scattered(rng, make_gallery, Metric.COSINE, spread=1.0)
    made = calibrate(gallery, same_camera=True, false_match_rate=0.01)
    same, different = (
        np.floor(scores * 2**15) / 2**15
        for scores in brute(gallery.vectors(range(72)), person, Metric.COSINE)
    )
    thresholds = np.unique(np.concatenate([same, different]))[::-1]
    wrong = np.array([0.0, *((different >= t).mean() for t in thresholds)])
    right = np.array([0.0, *((same >= t).mean() for t in thresholds)])
    # Along the ROC, false matches grow and missed ones shrink: where do the two lines cross?
    share = np.linspace(0, 1, 2001)[:, None]
    along = wrong[:-1] + share * np.diff(wrong)
    gap = np.abs(along - (1 - right[:-1] - share * np.diff(right)))
    expected = along.ravel()[gap.argmin()]
    assert 0.05 < expected < 0.4
    assert made.eer == pytest.approx(expected, abs=1e-5)
    roc = made.roc()
    assert 20 < len(roc) <= 101
    for threshold, false, true in roc:
        assert false == (different >= threshold).mean()
        assert true == (same >= threshold).mean()
    assert roc[0] == (made.threshold(1 / 2376), 1 / 2376, made.true_match_rate(1 / 2376))
    assert roc[-1] == (-1.0, 1.0, 1.0)
    assert [point[0] for point in roc] == sorted({point[0] for point in roc}, reverse=True)


def test_people_who_are_told_apart_without_fault(make_gallery: MakeGallery) -> None:
    gallery = make_gallery()
    gallery.add([[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 1, 0]], [{"person": p} for p in "aabb"])
    made = calibrate(gallery, false_match_rate=0.25)
    assert (made.positives, made.negatives, made.eer) == (2, 4, 0.0)
    assert made.threshold(0.25) == 2**-15
    assert made.reported() == [(0.25, 1.0, 2**-15), *((r, None, None) for r in (0.01, 0.001, 1e-4))]
    edges, positives, negatives = made.histograms.coarse()
    assert edges.tolist() == np.linspace(-1, 1, 257).tolist()
    assert (positives.nonzero()[0].tolist(), positives[255]) == ([255], 2)
    assert (negatives.nonzero()[0].tolist(), negatives[128]) == ([128], 4)


@pytest.mark.parametrize(
    ("rows", "options", "words"),
    [
        ([{"camera": 1}], {}, "no item has a person label"),
        ([{"person": "a"}, {"person": "b"}], {}, "no person was seen by two cameras"),
        ([{"person": "a", "camera": 1}] * 2 + [{"person": "b"}], {}, "two cameras"),
        ([{"person": "a"}, {"person": "a"}], {}, "all labelled items are of one person"),
        ([{"person": "a"}], {"weak": True}, "no item has a track"),
        ([{"track": "1"}, {"track": "2"}], {"weak": True}, "no track has two items"),
        ([{"track": "1"}, {"track": "1"}], {"weak": True}, "are seen at the same time"),
        ([{"person": p} for p in "aab"], {}, r"2 pairs .* cannot tell .* 0\.001: .* is 0\.5"),
        ([{"person": p} for p in "aab"], {"false_match_rate": 0.0}, "above 0 and at most 1, got 0"),
        ([{"person": p} for p in "aab"], {"false_match_rate": float("nan")}, "got nan"),
        ([{"person": p} for p in "aab"], {"false_match_rate": 1.5}, r"got 1\.5"),
        (
            [{"person": p} for p in "aab"],
            {"false_match_rate": 0.5},
            "2 of 2 pairs of different people are as alike as can be",
        ),
    ],
)
def test_what_cannot_be_calibrated_is_one_line(
    make_gallery: MakeGallery, rows: list[dict[str, Any]], options: dict[str, Any], words: str
) -> None:
    gallery = make_gallery()
    gallery.add([[1, 0, 0]] * len(rows), rows)
    with pytest.raises((NoCalibration, UsageError), match=words) as caught:
        calibrate(gallery, **options)
    assert "\n" not in str(caught.value)


def test_of_many_items_whole_people_are_drawn(
    rng: np.random.Generator, make_gallery: MakeGallery
) -> None:
    gallery, person = scattered(rng, make_gallery, Metric.COSINE)
    drawn = sample(person, 20, seed=5)
    counts = np.bincount(person[drawn], minlength=12)
    assert (len(drawn), sorted(counts[counts > 0])) == (20, [2, 6, 6, 6])
    assert drawn.tolist() == sorted(drawn) == sample(person, 20, seed=5).tolist()
    assert drawn.tolist() != sample(person, 20, seed=4).tolist()
    made = calibrate(gallery, false_match_rate=0.1, max_rows=20, seed=5)
    assert (made.rows, made.usable, made.items, made.sampled) == (20, 72, 72, True)
    positives, negatives = brute(gallery.vectors(drawn.tolist()), person[drawn], Metric.COSINE)
    assert (made.positives, made.negatives) == (len(positives), len(negatives)) == (46, 144)
    better = negatives >= made.threshold(0.1)
    assert made.histograms.false_match_rates[made.histograms.limits == made.threshold(0.1)] == (
        better.mean()
    )


def test_it_is_kept_and_stays_of_use(rng: np.random.Generator, make_gallery: MakeGallery) -> None:
    gallery, _ = scattered(rng, make_gallery, Metric.EUCLIDEAN)
    assert read_calibration(gallery) is None
    made = calibrate(gallery, same_camera=True, false_match_rate=0.01)
    write_calibration(gallery, made)
    gallery.add(np.ones((1, 8)))
    opened = Gallery.open(gallery.path)
    assert verify_gallery(opened) == []
    kept = read_calibration(opened)
    write_calibration(gallery, made)
    assert gallery.is_stale("calibration")
    assert kept is not None
    assert (kept.generation, kept.items, len(opened)) == (1, 72, 73)
    assert opened.is_stale("calibration")
    assert kept.to_json() == made.to_json()
    assert kept.threshold(0.01) == made.threshold(0.01)
    folder = opened.attached("calibration")
    assert folder is not None
    told = json.loads((folder / "calibration.json").read_text())
    assert (told["metric"], told["origin"], told["same_camera"]) == ("euclidean", "labels", True)
    assert told["threshold"] == made.threshold(0.01)
    assert sum(told["histogram"]["negatives"]) == told["negatives"] == 2376
    assert told["histogram"]["edges"] == sorted(told["histogram"]["edges"])
    fine = [
        (limit, n)
        for limit, n in zip(made.histograms.limits, made.histograms.negatives, strict=True)
    ]
    below = sum(n for limit, n in fine if limit <= told["histogram"]["edges"][100])
    assert sum(told["histogram"]["negatives"][:100]) == below > 0


@pytest.mark.parametrize(
    "change",
    [{"bins": []}, {"bins": [[1, 2]]}, {"bins": [[BINS, 1, 1]]}, {"metric": "x"}, None, "cut"],
)
def test_a_damaged_file_is_named(
    make_gallery: MakeGallery, change: dict[str, Any] | str | None
) -> None:
    gallery = make_gallery()
    gallery.add([[1, 0, 0], [1, 0, 0], [0, 1, 0]], [{"person": p} for p in "aab"])
    write_calibration(gallery, calibrate(gallery, false_match_rate=0.5))
    folder = gallery.attached("calibration")
    assert folder is not None
    path = folder / "calibration.json"
    data = json.loads(path.read_text())
    assert isinstance(Calibration.from_json(data), Calibration)
    texts = {None: "[]", "cut": path.read_text()[:50]}
    path.write_text(json.dumps(data | change) if isinstance(change, dict) else texts[change])
    with pytest.raises(CorruptGallery, match=r"calibration\.json: cannot be read") as caught:
        read_calibration(gallery)
    assert "\n" not in str(caught.value)


@pytest.fixture
def listed(make_gallery: MakeGallery) -> Gallery:
    gallery = make_gallery()
    vectors = [[1, 0, 0], [0.6, 0.8, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1]]
    items = [{"item": 10 + row, "source": f"{row}.png"} for row in range(4)]
    gallery.add(vectors, [*items, {"item": 14, "source": "3.png"}])
    return gallery


@pytest.mark.parametrize("form", ["ids", "sources", "parquet"])
def test_pairs_of_a_list(listed: Gallery, tmp_path: Path, form: str) -> None:
    path = tmp_path / f"pairs.{'parquet' if form == 'parquet' else 'csv'}"
    if form == "ids":
        path.write_text("same,a,b,note\n1,11,10,x\n0,10,12,\n0,12,13,\n1,14,13,\n")
    elif form == "sources":
        path.write_text("a,b,same\n1.png,0.png,True\n0.png,2.png,0\n")
    else:
        columns = {"a": [11, 10, 12, 14], "b": [10, 12, 13, 13], "same": [True, False, False, True]}
        pq.write_table(pa.table(columns), path)
    made = calibrate(listed, listed=path, false_match_rate=1.0)
    at = float(np.floor(np.float32(0.6) * 2**15) / 2**15)
    same = {at: 1} if form == "sources" else {at: 1, 1 - 2**-15: 1}
    expected = {"same": same, "different": {0.0: 1 if form == "sources" else 2}}
    assert counted(made.histograms) == expected
    rows = 3 if form == "sources" else 5
    assert (made.origin, made.rows, made.usable, made.items) == ("pairs", rows, rows, 5)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b\n10,11\n", "not 'same'"),
        ("a,b,same\n10,,1\n", "column 'b' has an empty cell"),
        ("a,b,same\n10,11,1\n10,99,0\n", "pair 2 names 99, no item of the gallery"),
        ("a,b,same\n0.png,9.png,0\n", "pair 1 names '9.png', no source of the gallery"),
        ("a,b,same\n0.png,3.png,0\n", "several items have the source '3.png'"),
        ("a,b,same\n10,11,2\n", "pair 1: same is '2', not 1 or 0"),
        ("a,b,same\n10,11,0\n11,11,1\n", "pair 2 is an item and itself"),
        ("a,b,same\n1,2\n", "cannot be read as a list of pairs"),
        (None, "cannot be read as a list of pairs"),
        ("a,b,same\n10,11,1\n", "has no pair of two people"),
        ("a,b,same\n10,11,0\n", "has no pair of one person"),
    ],
)
def test_a_list_that_is_refused(
    listed: Gallery, tmp_path: Path, text: str | None, words: str
) -> None:
    path = tmp_path / "pairs.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises((BadSource, NoCalibration, UsageError), match=words) as caught:
        calibrate(listed, listed=path, false_match_rate=1.0)
    assert "\n" not in str(caught.value)


def test_distances_of_a_list(make_gallery: MakeGallery, tmp_path: Path) -> None:
    gallery = make_gallery(dim=2, metric="euclidean")
    gallery.add([[3, 4], [0, 0], [3, 0]])
    (tmp_path / "pairs.csv").write_text("a,b,same\n0,1,0\n1,2,1\n2,0,1\n")
    made = calibrate(gallery, listed=tmp_path / "pairs.csv", false_match_rate=1.0)
    assert counted(made.histograms) == {"same": {3.0: 1, 4.0: 1}, "different": {5.0: 1}}
