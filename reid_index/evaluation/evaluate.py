"""An evaluation: scores and labels in, the field's figures out, for people and as JSON."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from ..errors import UsageError
from .measures import measure, single_shot_cmc
from .protocol import Labelled, Protocol, get_protocol, label
from .ranks import MISSED, Drops, Ranks, ranks_of_relevant, single_shot_ranks
from .scores import MatrixScores, Scores

_REPORTED = (1, 5, 10, 20)
"""The ranks of the CMC that a record holds."""


@dataclass(frozen=True)
class Evaluation:
    """The figures of one evaluation; fractions in [0, 1].

    mAP: of lists cut at rank `at`, which is then to be called mAP@k, or of whole lists where it is
    None. mINP: of whole lists. cmc: float64, cmc[0] is rank-1; 50 long, less when the gallery or
    the list is shorter. queries: all of them; answerable: those that have a match.
    gallery: its items, distractors included. ap_rule, unanswerable: see `measures.measure`.
    ranks: of every relevant item in the whole lists. ap, inp: float64 (queries,), 0 for a query
    without a match. seconds: stage → wall seconds.
    """

    mAP: float
    mINP: float
    cmc: NDArray[np.float64]
    queries: int
    answerable: int
    gallery: int
    ap_rule: str
    unanswerable: str
    at: int | None
    ranks: Ranks
    ap: NDArray[np.float64]
    inp: NDArray[np.float64]
    seconds: Mapping[str, float]

    @property
    def ap_name(self) -> str:
        """What a query's average precision is to be called: of a cut list, AP@k."""
        return "AP" if self.at is None else f"AP@{self.at}"


def evaluate(
    scores: Scores,
    labelled: Labelled,
    *,
    protocol: Protocol,
    ap_rule: str | None = None,
    unanswerable: str | None = None,
    at: int | None = None,
    same_item: bool = False,
    drops: Drops | None = None,
    seed: int = 0,
) -> Evaluation:
    """Evaluate the scores of the rows that `label` kept.

    ap_rule, unanswerable: in place of the protocol's. at: cut every list at that rank.
    same_item: equal ids on both sides are the same item (both were read from one gallery), and
    none answers itself. drops: what a filter takes out of each query's list; a true match among it
    is not found at all, so AP and INP count it as missed. seed: of the samplings of a protocol that
    has repeats; its CMC is then of one gallery item a person, its mAP and mINP of the whole
    gallery.

    Raises UsageError when no query has a match, when scores and labels differ in size, for an
    unknown rule, and for drops in a protocol that has repeats; what the scores raise.
    """
    start = time.perf_counter()
    sides = (scores, labelled.query, labelled.gallery)
    same_camera = protocol.same_camera
    if drops is not None and protocol.repeats:
        raise UsageError(
            f"{protocol.name} draws one gallery item a person for its CMC, which no filter by "
            "attributes can be judged by: take another protocol"
        )
    ranks = ranks_of_relevant(*sides, same_camera=same_camera, same_item=same_item, drops=drops)
    ranked = time.perf_counter()
    dividing = protocol.unanswerable if unanswerable is None else unanswerable
    rule = protocol.ap_rule if ap_rule is None else ap_rule
    measures = measure(ranks, ap_rule=rule, unanswerable=dividing, at=at)
    cmc = measures.cmc
    if protocol.repeats:
        single = single_shot_ranks(
            *sides,
            same_camera=same_camera,
            same_item=same_item,
            repeats=protocol.repeats,
            rng=np.random.default_rng(seed),
        )
        cmc = single_shot_cmc(single, unanswerable=dividing, length=len(cmc))
    end = time.perf_counter()
    return Evaluation(
        mAP=measures.mAP,
        mINP=measures.mINP,
        cmc=cmc,
        queries=len(labelled.query),
        answerable=measures.answerable,
        gallery=len(labelled.gallery),
        ap_rule=rule,
        unanswerable=dividing,
        at=at,
        ranks=ranks,
        ap=measures.ap,
        inp=measures.inp,
        seconds={"ranks": ranked - start, "measures": end - ranked},
    )


def evaluate_distances(
    distance: ArrayLike,
    query_persons: ArrayLike,
    gallery_persons: ArrayLike,
    query_cameras: ArrayLike,
    gallery_cameras: ArrayLike,
    *,
    protocol: str = "market1501",
) -> Evaluation:
    """Evaluate a matrix of distances (Q, G), lower is better.

    persons: (Q,) and (G,), whole numbers or text; -1 is junk and left out. cameras: (Q,) and
    (G,), whole numbers; -1 is unknown, equal to no camera. Equal distances are ordered by column.
    Raises what `label`, `MatrixScores` and `evaluate` raise.
    """
    matrix = np.asarray(distance)
    scores = MatrixScores(matrix)
    queries = _side(query_persons, query_cameras, "query", rows=scores.queries)
    gallery = _side(gallery_persons, gallery_cameras, "gallery", rows=scores.gallery)
    labelled = label(queries, gallery)
    if len(labelled.query) < scores.queries or len(labelled.gallery) < scores.gallery:
        scores = MatrixScores(matrix[np.ix_(labelled.query_rows, labelled.gallery_rows)])
    return evaluate(scores, labelled, protocol=get_protocol(protocol))


def _side(persons: ArrayLike, cameras: ArrayLike, side: str, *, rows: int) -> pa.Table:
    names, numbers = np.asarray(persons), np.asarray(cameras)
    for what, values in (("persons", names), ("cameras", numbers)):
        if values.shape != (rows,):
            raise UsageError(
                f"{side} {what} have the shape {values.shape}, the distances want ({rows},)"
            )
    if names.dtype.kind == "f":  # 3.0 on one side and 3 on the other would not be one person
        raise UsageError(f"{side} persons must be whole numbers or text, got {names.dtype}")
    if numbers.dtype.kind not in "iu":
        raise UsageError(f"{side} cameras must be whole numbers, got {numbers.dtype}")
    texts = [None if name is None else str(name) for name in names.tolist()]
    return pa.table({"person": pa.array(texts, pa.string()), "camera": numbers.astype(np.int64)})


def as_record(evaluation: Evaluation, *, rerank: str | None) -> dict[str, Any]:
    """A JSON object: mAP, mINP, rank1, rank5, rank10, rank20 (fractions), queries, answerable,
    gallery, ap_rule, rerank, seconds. For lists cut at k it has mAP@k instead of mAP, no mINP, and
    no rank beyond k. A CMC shorter than a rank stands at its last value there."""
    at = evaluation.at
    means = {"mAP": evaluation.mAP, "mINP": evaluation.mINP}
    if at is not None:
        means = {f"mAP@{at}": evaluation.mAP}
    cmc = evaluation.cmc
    shown = [rank for rank in _REPORTED if at is None or rank <= at]
    return {
        **means,
        **{f"rank{rank}": float(cmc[min(rank, len(cmc)) - 1]) for rank in shown},
        "queries": evaluation.queries,
        "answerable": evaluation.answerable,
        "gallery": evaluation.gallery,
        "ap_rule": evaluation.ap_rule,
        "rerank": rerank,
        "seconds": dict(evaluation.seconds),
    }


def per_query(evaluation: Evaluation, labelled: Labelled, query_items: pa.Table) -> pa.Table:
    """A row for each query that was evaluated, in order.

    Columns: item, source, person, camera as in query_items (item: row number where it has none);
    relevant: matches there are; ap, inp, first_rank, last_rank: of the whole list, save that
    ap is called ap@k and cut where the evaluation was; null for a query without a match, ranks
    also for a match that a filter dropped.
    """
    rows = pa.array(labelled.query_rows)
    ranks, counts = evaluation.ranks, evaluation.ranks.relevant
    none = counts == 0
    ends = np.zeros((2, len(counts)), np.int64)
    ends[:, ~none] = ranks.ranks[[ranks.offsets[:-1][~none], ranks.offsets[1:][~none] - 1]]
    kinds = {"source": pa.string(), "person": pa.string(), "camera": pa.int32()}
    known = {
        name: query_items[name].take(rows)
        if name in query_items.column_names
        else pa.nulls(len(rows), kind)
        for name, kind in kinds.items()
    }
    return pa.table(
        {
            "item": labelled.query.item,
            **known,
            "relevant": counts,
            evaluation.ap_name.lower(): pa.array(evaluation.ap, mask=none),
            "inp": pa.array(evaluation.inp, mask=none),
            "first_rank": pa.array(ends[0], mask=none | (ends[0] == MISSED)),
            "last_rank": pa.array(ends[1], mask=none | (ends[1] == MISSED)),
        }
    )
