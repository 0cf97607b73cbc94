"""The report of `reid evaluate`: figures, curves, histograms, the best and the worst queries."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from reid_index import Metric
from reid_index.evaluation.evaluate import Evaluation, as_record
from reid_index.evaluation.protocol import UNKNOWN, get_protocol

from .judge import Judged
from .plots import before_after_figure, cmc_figure, histogram_figure, precision_recall_figure
from .report import Candidate, Picture, Strip, write_report
from .sheet import shrunk
from .sides import Side
from .strips import Shot, fetched, item_shots

_STRIPS = 6
"""Queries shown at each end."""

_SHOWN = 10
"""Gallery items shown of each."""

_BINS = 200


def write_judged(folder: Path, judged: Judged) -> None:
    """Write the report into a folder.

    Raises MissingExtra without matplotlib, OSError where a file cannot be written.
    """
    final = _name(judged)
    evaluations: dict[str, Evaluation] = {final: judged.final}
    if judged.scores is not judged.plain:
        evaluations = {"as extracted": judged.before(), **evaluations}
    pictures = [
        Picture(
            name="cmc",
            caption="The share of queries with a right answer among the first k.",
            figure=cmc_figure(evaluations),
        ),
        Picture(
            name="precision-recall",
            caption="Interpolated precision at each recall, the mean over queries.",
            figure=precision_recall_figure(evaluations),
        ),
        _histogram(judged),
    ]
    if len(evaluations) == 2:
        before, after = evaluations.values()
        pictures.append(
            Picture(
                name="before-after",
                caption=f"{after.ap_name} of each query, as extracted and {final}.",
                figure=before_after_figure(before, after),
            )
        )
    order = [
        row
        for row in np.argsort(judged.final.ap, kind="stable").tolist()
        if judged.final.ranks.relevant[row]
    ]
    write_report(
        folder,
        title=f"{judged.question.queries.absolute().name} in "
        f"{judged.question.gallery.absolute().name}",
        details=_details(judged),
        tables={name: _record(one, judged, name == final) for name, one in evaluations.items()},
        pictures=pictures,
        best=[_strip(judged, query) for query in order[::-1][:_STRIPS]],
        worst=[_strip(judged, query) for query in order[:_STRIPS]],
        notes=_notes(judged),
    )


def _name(judged: Judged) -> str:
    parts = [] if judged.matcher is None else [f"by {judged.matcher}"]
    parts += [] if judged.rerank is None else [f"re-ranked ({judged.question.rerank})"]
    parts += ["fused"] if judged.question.others else []
    return ", ".join(parts) or "as extracted"


def _record(evaluation: Evaluation, judged: Judged, is_final: bool) -> Mapping[str, Any]:
    record = as_record(evaluation, rerank=judged.rerank if is_final else None)
    del record["seconds"]
    return {name: "-" if value is None else value for name, value in record.items()}


def _details(judged: Judged) -> list[tuple[str, str]]:
    question, protocol = judged.question, get_protocol(judged.question.protocol)
    details = [
        ("gallery", str(question.gallery)),
        ("queries", str(question.queries)),
        ("protocol", protocol.name),
        ("extractor", judged.gallery.fingerprint.name),
        ("same person, same camera", "left out" if protocol.same_camera else "counted"),
        ("equal scores", "ordered by item id"),
    ]
    if judged.aggregate is not None:
        details.append(("score of two tracklets", judged.aggregate.rule))
    if question.others:
        others = ", ".join(str(gallery) for gallery, _ in question.others)
        details.append(("fused", f"with {others}, by {question.fusion.method}"))
    return details


def _notes(judged: Judged) -> list[str]:
    none = judged.final.queries - judged.final.answerable
    notes = []
    if none:
        means = "left out of the means" if judged.final.unanswerable == "skip" else "counted as 0"
        notes.append(f"{none} of {judged.final.queries} queries have no match; {means}.")
    if judged.rerank is not None:
        notes.append(
            "A re-ranked distance means nothing outside its own list: thresholds apply to the "
            "original scores."
        )
    return notes


def _histogram(judged: Judged) -> Picture:
    """Original scores of all pairs of query and gallery item that are considered."""
    euclidean = judged.gallery.metric is Metric.EUCLIDEAN
    bounded = judged.gallery.metric is Metric.COSINE and (
        judged.aggregate is None or judged.aggregate.how == "mean"
    )
    low, high = (-1.0, 1.0) if bounded else _range(judged)
    edges = np.linspace(low, high, _BINS + 1)
    counts = np.zeros((2, _BINS), np.int64)
    for start in range(0, judged.plain.queries, 256):
        stop = min(start + 256, judged.plain.queries)
        scores = judged.original(judged.plain.chunk(start, stop)[0])
        for row, query in enumerate(range(start, stop)):
            right, out = _relation(judged, query)
            for place, mask in enumerate((right & ~out, ~right)):
                counts[place] += np.histogram(np.clip(scores[row, mask], low, high), edges)[0]
    return Picture(
        name="histogram",
        caption="Original scores of pairs of one person (in different cameras) and of two people.",
        figure=histogram_figure(
            positives=counts[0],
            negatives=counts[1],
            edges=edges,
            thresholds={},
            score_name="distance" if euclidean else "similarity",
        ),
    )


def _range(judged: Judged) -> tuple[float, float]:
    ends = []
    for start in range(0, judged.plain.queries, 256):
        keys, _ = judged.plain.chunk(start, min(start + 256, judged.plain.queries))
        scores = judged.original(keys)
        ends += [float(scores.min()), float(scores.max())]
    return (min(ends), max(ends)) if max(ends) > min(ends) else (min(ends), min(ends) + 1)


def _relation(judged: Judged, query: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which gallery rows are of the query's person, and which of those do not count."""
    asked, searched = judged.labelled.query, judged.labelled.gallery
    right = searched.person == asked.person[query]
    out = np.zeros(len(right), np.bool_)
    if get_protocol(judged.question.protocol).same_camera:
        camera = asked.camera[query]
        out |= right & (searched.camera == camera) & (camera != UNKNOWN)
    if judged.same_item:
        out |= right & (searched.item == asked.item[query])
    return right, out


def _strip(judged: Judged, query: int) -> Strip:
    right, out = _relation(judged, query)
    rows = np.flatnonzero(~out)
    keys = judged.scores.exact(np.full(len(rows), query), rows)
    order = np.lexsort((judged.labelled.gallery.item[rows], keys))[:_SHOWN]
    best, beside = rows[order], [""] * len(order)
    if judged.question.others:
        beside = [f", fused {-key:.4g}" for key in keys[order]]
    elif judged.rerank is not None:
        beside = [f", re-ranked {key:.3f}" for key in keys[order]]
    elif judged.matcher is not None and judged.aggregate is not None:
        beside = [f", by frames {-key:.3f}" for key in keys[order]]
    elif judged.matcher is not None:
        beside = [f", matched {key:.3f}" for key in keys[order]]
    euclidean = judged.gallery.metric is Metric.EUCLIDEAN
    plain = judged.original(judged.plain.exact(np.full(len(best), query), best).astype(np.float32))
    name = "distance" if euclidean else "similarity"
    images = _images(judged.gallery, best)
    labels = _labels(judged.gallery, best)
    (image,) = _images(judged.queries, [query])
    (label,) = _labels(judged.queries, [query])
    return Strip(
        image=image,
        label=label,
        ap=float(judged.final.ap[query]),
        ap_name=judged.final.ap_name,
        candidates=[
            Candidate(
                rank=rank,
                image=shown,
                label=text,
                right=bool(right[row]),
                score=f"{name} {value:.3f}{more}",
            )
            for rank, (row, shown, text, value, more) in enumerate(
                zip(best, images, labels, plain, beside, strict=True), start=1
            )
        ],
    )


def _images(side: Side, rows: Sequence[int] | NDArray[np.int64]) -> list[Image.Image | None]:
    shots = _shots(side, rows)
    found = {shot: None if image is None else shrunk(image) for shot, image in fetched(shots)}
    return [found[shot] for shot in shots]


def _labels(side: Side, rows: Sequence[int] | NDArray[np.int64]) -> list[str]:
    return [
        f"{shot.text or record['item']}"
        + ("" if record["camera"] is None else f", camera {record['camera']}")
        for record, shot in zip(_records(side, rows), _shots(side, rows), strict=True)
    ]


def _shots(side: Side, rows: Sequence[int] | NDArray[np.int64]) -> list[Shot]:
    """The picture of each row; of a segment its middle frame."""
    shots = []
    for row, record in zip(rows, _records(side, rows), strict=True):
        box = record["box"]
        frames = item_shots(
            record.get("frames"),
            source=record["source"] or "",
            video=record.get("video"),
            box=None if box is None else (box[0], box[1], box[2], box[3]),
            root=str(side.roots[row]),
        )
        shots.append(frames[len(frames) // 2])
    return shots


def _records(side: Side, rows: Sequence[int] | NDArray[np.int64]) -> list[dict[str, Any]]:
    names = ["item", "source", "camera", "box"]
    names += [name for name in ("video", "frames") if name in side.items.column_names]
    columns = side.items.select(names)
    records: list[dict[str, Any]] = columns.take(pa.array(np.asarray(rows))).to_pylist()
    return records
