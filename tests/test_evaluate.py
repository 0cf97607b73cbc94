"""Whole evaluations against loops written from the descriptions of the protocols."""

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from reid_index.errors import BadItems, NotFiniteError, UsageError
from reid_index.evaluation.evaluate import (
    Evaluation,
    as_record,
    evaluate,
    evaluate_distances,
    per_query,
)
from reid_index.evaluation.protocol import Labelled, Protocol, get_protocol, label
from reid_index.evaluation.scores import MatrixScores, VectorScores
from reid_index.metric import Metric


def by_loops(
    distance: NDArray[Any],
    persons: tuple[NDArray[Any], NDArray[Any]],
    cameras: tuple[NDArray[Any], NDArray[Any]],
    *,
    trapezoid: bool,
    divide_by_all: bool,
) -> tuple[float, float, list[float], int]:
    """mAP, mINP, CMC of 50 ranks and answerable queries; person -1 is junk."""
    aps, inps, firsts = [], [], []
    for row, person, camera in zip(distance, persons[0], cameras[0], strict=True):
        order = np.argsort(row, kind="stable")
        junk = (persons[1] == -1) | ((persons[1] == person) & (cameras[1] == camera))
        hits = (persons[1] == person)[order[~junk[order]]]
        good, ap = hits.sum(), 0.0
        if good == 0:
            continue
        for i, r in enumerate(np.flatnonzero(hits)):
            old = 1.0 if r == 0 else i / r
            now = (i + 1) / (r + 1)
            ap += ((old + now) / 2 if trapezoid else now) / good
        aps.append(ap)
        inps.append(good / (np.flatnonzero(hits)[-1] + 1))
        firsts.append(np.flatnonzero(hits)[0] + 1)
    count = len(distance) if divide_by_all else len(aps)
    cmc = [sum(first <= k for first in firsts) / count for k in range(1, 51)]
    return sum(aps) / count, sum(inps) / count, cmc, len(aps)


def some(rng: np.random.Generator) -> dict[str, NDArray[Any]]:
    """40 queries × 300 gallery items: ties, junk, distractors (0), persons without a match."""
    return {
        "distance": rng.integers(0, 200, (40, 300)) / 7,
        "query_persons": rng.integers(1, 18, 40),
        "gallery_persons": rng.integers(-1, 15, 300),
        "query_cameras": rng.integers(1, 4, 40),
        "gallery_cameras": rng.integers(1, 4, 300),
    }


@pytest.mark.parametrize("protocol", ["market1501", "mars-official", "mars-torchreid"])
def test_protocols_against_loops(rng: np.random.Generator, protocol: str) -> None:
    data = some(rng)
    found = evaluate_distances(**data, protocol=protocol)
    official = protocol == "mars-official"
    mean_ap, mean_inp, cmc, answerable = by_loops(
        data["distance"],
        (data["query_persons"], data["gallery_persons"]),
        (data["query_cameras"], data["gallery_cameras"]),
        trapezoid=official,
        divide_by_all=official,
    )
    assert found.mAP == pytest.approx(mean_ap, rel=1e-12)
    assert found.mINP == pytest.approx(mean_inp, rel=1e-12)
    assert found.cmc == pytest.approx(cmc)
    assert 0 < answerable == found.answerable < found.queries == 40
    assert found.gallery == np.count_nonzero(data["gallery_persons"] != -1) < 300
    rules = ("trapezoid", "zero") if official else ("standard", "skip")
    assert (found.ap_rule, found.unanswerable) == rules


def test_distractors_count_and_junk_does_not() -> None:
    def one(persons: list[Any]) -> float:
        cameras = [2] * len(persons)
        found = evaluate_distances([np.arange(len(persons))], ["a"], persons, [1], cameras)
        return found.mAP

    assert one(["a", "b"]) == 1
    assert one(["0", "a"]) == 1 / 2
    assert one(["-1", "a"]) == 1
    with pytest.raises(BadItems, match="0 of 1 queries and 1 of 2 gallery items"):
        one([None, "a"])


def vectors() -> tuple[VectorScores, Labelled, pa.Table]:
    """Three queries, the last without a match; the first two are items of the gallery."""
    angles = np.radians([0, 50, 90, 10, 20, 95])
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    items = pa.table(
        {
            "item": pa.array([5, 6, 7, 8, 9, 10]),
            "source": [f"{item}.jpg" for item in "abcdef"],
            "person": ["x", "y", "z", "x", "y", "y"],
            "camera": pa.array([1, 1, 1, 2, 2, 1], pa.int32()),
        }
    )
    queries = items.slice(0, 3)
    gallery = items.filter(pa.array([True, True, False, True, True, True]))
    scores = VectorScores(rows[:3], [rows[[0, 1, 3, 4, 5]]], metric=Metric.COSINE)
    return scores, label(queries, gallery), queries


def test_a_query_of_the_gallery_never_answers_itself() -> None:
    scores, labelled, _ = vectors()
    csv = get_protocol("csv")
    plain = evaluate(scores, labelled, protocol=csv)
    assert plain.ranks.ranks.tolist() == [1, 1]  # the same camera is removed, itself included
    every = Protocol(name="every", same_camera=False)
    itself = evaluate(scores, labelled, protocol=every)
    assert itself.ranks.ranks.tolist() == [1, 2, 1, 2, 4]
    others = evaluate(scores, labelled, protocol=every, same_item=True)
    assert others.ranks.ranks.tolist() == [1, 1, 3]
    assert others.ranks.considered.tolist() == [4, 4, 5]
    assert others.mAP == pytest.approx((1 + (1 + 2 / 3) / 2) / 2)


def test_rules_can_be_named() -> None:
    scores, labelled, _ = vectors()
    found = evaluate(
        scores,
        labelled,
        protocol=get_protocol("csv"),
        ap_rule="trapezoid",
        unanswerable="zero",
        at=1,
    )
    assert (found.ap_rule, found.unanswerable, found.at) == ("trapezoid", "zero", 1)
    assert (found.queries, found.answerable, found.gallery) == (3, 2, 5)
    assert found.mAP == pytest.approx(2 / 3)
    with pytest.raises(UsageError, match="no AP rule ''"):
        evaluate(scores, labelled, protocol=get_protocol("csv"), ap_rule="")


def test_the_record_is_json_with_the_agreed_names(rng: np.random.Generator) -> None:
    found = evaluate_distances(**some(rng))
    record = json.loads(json.dumps(as_record(found, rerank="joint"), allow_nan=False))
    assert list(record) == [
        "mAP",
        "mINP",
        "rank1",
        "rank5",
        "rank10",
        "rank20",
        "queries",
        "answerable",
        "gallery",
        "ap_rule",
        "rerank",
        "seconds",
    ]
    assert record["mAP"] == found.mAP
    assert record["rank5"] == found.cmc[4]
    assert record["rerank"] == "joint"
    assert set(record["seconds"]) == {"ranks", "measures"}


def test_the_record_of_cut_and_of_short_lists() -> None:
    scores, labelled, _ = vectors()
    csv = get_protocol("csv")
    cut = as_record(evaluate(scores, labelled, protocol=csv, at=5), rerank=None)
    assert [name for name in cut if name[:4] in ("mAP@", "mAP", "mINP", "rank")] == [
        "mAP@5",
        "rank1",
        "rank5",
    ]
    assert cut["rerank"] is None
    short = as_record(evaluate(scores, labelled, protocol=csv), rerank=None)
    assert short["rank20"] == 1


def test_the_table_of_queries() -> None:
    scores, labelled, queries = vectors()
    found = evaluate(scores, labelled, protocol=get_protocol("cuhk03-np-labeled"))
    assert per_query(found, labelled, queries).to_pydict() == {
        "item": [5, 6, 7],
        "source": ["a.jpg", "b.jpg", "c.jpg"],
        "person": ["x", "y", "z"],
        "camera": [1, 1, 1],
        "relevant": [1, 1, 0],
        "ap": [1, 1, None],
        "inp": [1, 1, None],
        "first_rank": [1, 1, None],
        "last_rank": [1, 1, None],
    }
    bare = per_query(found, labelled, queries.select(["person"]))
    assert bare["source"].to_pylist() == [None, None, None]


def test_the_table_leaves_out_the_rows_that_were_left_out() -> None:
    queries = pa.table({"person": ["-1", "b"], "source": ["junk.jpg", "b.jpg"]})
    labelled = label(queries, pa.table({"person": ["a", "b"]}))
    scores = MatrixScores(np.array([[0.0, 1.0]]))
    found = evaluate(scores, labelled, protocol=get_protocol("csv"))
    table = per_query(found, labelled, queries)
    assert table.select(["item", "source", "first_rank"]).to_pylist() == [
        {"item": 1, "source": "b.jpg", "first_rank": 2}
    ]


def test_classic_cuhk03_averages_single_shots() -> None:
    """One match among three of another person: drawn alone, that one is closer 1 time in 3; so
    rank-1 is about 2/3, while mAP is of the whole gallery."""
    persons, cameras = ["a", "b", "b", "b"], [2, 2, 2, 2]
    data: tuple[Any, ...] = (np.array([[2, 1, 3, 4]] * 60), ["a"] * 60, persons, [1] * 60, cameras)
    found = evaluate_distances(*data, protocol="cuhk03-classic")
    assert found.mAP == 1 / 2
    assert found.cmc[0] == pytest.approx(2 / 3, abs=0.08)
    assert found.cmc[1] == pytest.approx(1)
    assert found.cmc.tolist() == evaluate_distances(*data, protocol="cuhk03-classic").cmc.tolist()


def change(**values: Any) -> dict[str, Any]:
    data = {
        "distance": np.ones((1, 2)),
        "query_persons": [1],
        "gallery_persons": [1, 2],
        "query_cameras": [1],
        "gallery_cameras": [2, 2],
    }
    return data | values


@pytest.mark.parametrize(
    ("data", "kind", "message"),
    [
        (change(gallery_persons=[3, 2]), UsageError, "no query has a match"),
        (change(gallery_cameras=[1, 1]), UsageError, "no query has a match"),
        (change(gallery_persons=[1]), UsageError, r"persons have the shape \(1,\), .* \(2,\)"),
        (change(query_persons=[1.0]), UsageError, "persons must be whole numbers or text"),
        (change(query_cameras=["1"]), UsageError, "cameras must be whole numbers"),
        (change(query_persons=[-1]), UsageError, "queries: nothing to evaluate"),
        (change(distance=[[1, np.nan]]), NotFiniteError, "NaN"),
        (change(protocol="mars"), UsageError, "there are market1501"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(
    data: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message) as caught:
        evaluate_distances(**data)
    assert "\n" not in str(caught.value)


def test_an_evaluation_holds_no_nan(rng: np.random.Generator) -> None:
    found: Evaluation = evaluate_distances(**some(rng))
    assert np.isfinite([found.mAP, found.mINP, *found.cmc, *found.ap, *found.inp]).all()
