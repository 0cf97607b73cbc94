"""Evaluating two sides: opened, labelled, scored, perhaps re-ranked or fused, measured."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from extractors import DEFAULT, open_extractor
from extractors.attributes import WithAttributes
from extractors.pictures import Source
from extractors.predictors import predictor_of
from reid_index import Metric, Reranking, rerank_joint
from reid_index.errors import UsageError
from reid_index.evaluation.evaluate import Evaluation, evaluate
from reid_index.evaluation.fusion import FusedScores
from reid_index.evaluation.parts_scores import parts_scores
from reid_index.evaluation.protocol import Labelled, get_protocol, label
from reid_index.evaluation.scores import MatrixScores, Scores, VectorScores
from reid_index.matcher import told
from reid_index.reranking.graph import Graph, make_graph
from reid_index.reranking.rerank_query import QueryReranking, QueryScores

from . import sides
from .aggregate_options import Aggregate
from .judge_filter import Filtering, make_filtering
from .judge_tracks import (
    asked_aggregate,
    asked_cut,
    frame_scores,
    refuse_with_tracks,
    refuse_without_tracks,
    vector_scores,
)
from .question import Question
from .sides import Side

if TYPE_CHECKING:
    from extractors.extractor import Extractor


@dataclass(frozen=True, kw_only=True)
class Judged:
    """An evaluation and what it was made of.

    gallery, queries: the rows that were kept; labelled: who these rows are. scores: what the final
    figures rank by; plain: what the vectors alone say, before parts, re-ranking and fusion.
    same_item: equal ids on both sides are one item. rerank: in words, None without. matcher: what
    compared the rows' parts or frames, in words; None where it was vectors alone. aggregate: how
    the segments of two tracklets became a score; None where a row is one vector. filtering: what
    takes items out of the lists of the final figures; None for nothing.
    """

    question: Question
    gallery: Side
    queries: Side
    labelled: Labelled
    scores: Scores
    plain: Scores
    final: Evaluation
    same_item: bool
    rerank: str | None
    matcher: str | None
    aggregate: Aggregate | None
    filtering: Filtering | None = None

    def unfiltered(self) -> Evaluation:
        """The evaluation without filtering by attributes."""
        return _measured(self.question, self.scores, self.labelled, self.same_item)

    def original(self, keys: NDArray[np.float32]) -> NDArray[np.float32]:
        """Similarities, or distances in a Euclidean gallery, from keys of `plain`."""
        if self.gallery.metric is not Metric.EUCLIDEAN:
            return -keys
        # Of segments, the distances are aggregated; of single vectors, keys are their squares.
        return keys if self.aggregate is not None else np.sqrt(np.maximum(keys, 0))

    def before(self) -> Evaluation:
        """The evaluation without parts, re-ranking and fusion, of GALLERY alone."""
        return _measured(self.question, self.plain, self.labelled, self.same_item)


def judge(question: Question) -> Judged:
    """Evaluate. Raises what the sides, the labels, re-ranking and the measures raise."""
    start = time.perf_counter()
    get_protocol(question.protocol)
    _refuse_needless(question)
    gallery, queries = _open(question)
    labelled = label(queries.items, gallery.items, unlabelled=question.unlabelled)
    gallery = _kept(gallery, labelled.gallery_rows)
    queries = _kept(queries, labelled.query_rows)
    labelled = replace(
        labelled,
        query_rows=np.arange(len(labelled.query)),
        gallery_rows=np.arange(len(labelled.gallery)),
    )
    same_item = _same_gallery(question.gallery, question.queries)
    opened = time.perf_counter()
    matcher = gallery.matcher
    aggregate = None
    exact = True
    plain: Scores
    scores: Scores
    if gallery.tracks is not None:
        aggregate = asked_aggregate(question)
        scores = plain = vector_scores(gallery, queries, aggregate)
        if matcher is not None:
            scores = frame_scores(gallery, queries, aggregate)
    else:
        vectors = plain = _plain(gallery, queries)
        scores, exact = _ranked_by(question, gallery, queries, labelled, vectors)
    filtering = None
    if question.auto_filter is not None:
        filtering = make_filtering(question.auto_filter, queries, gallery)
    ready = time.perf_counter()
    final = _measured(question, scores, labelled, same_item, filtering)
    return Judged(
        question=question,
        gallery=gallery,
        queries=queries,
        labelled=labelled,
        scores=scores,
        plain=plain,
        final=replace(
            final, seconds={"open": opened - start, "prepare": ready - opened, **final.seconds}
        ),
        same_item=same_item,
        matcher=None if matcher is None else told(matcher),
        aggregate=aggregate,
        filtering=filtering,
        rerank=None
        if question.rerank is None
        else f"{question.rerank} k1={question.reranking.k1} k2={question.reranking.k2} "
        f"lambda={question.reranking.lambda_:g}" + ("" if exact else ", approximate graph"),
    )


def _measured(
    question: Question,
    scores: Scores,
    labelled: Labelled,
    same_item: bool,
    filtering: Filtering | None = None,
) -> Evaluation:
    return evaluate(
        scores,
        labelled,
        protocol=get_protocol(question.protocol),
        ap_rule=question.ap_rule,
        unanswerable=question.unanswerable,
        at=question.at,
        same_item=same_item,
        drops=None if filtering is None else filtering.drops,
    )


def _same_gallery(gallery: Path, queries: Path) -> bool:
    """Whether both are one gallery or shard, or one is a shard of the other: ids are the same."""
    if "dataset" in (sides.kind_of(gallery), sides.kind_of(queries)):
        return False
    one, other = gallery.resolve(), queries.resolve()
    return one == other or one in other.parents or other in one.parents


def _refuse_needless(question: Question) -> None:
    """Raise UsageError for what says nothing about this question."""
    paths = (question.gallery, question.queries)
    folders = any(sides.kind_of(path) == "dataset" for path in paths)
    if question.device != "cpu" and not folders and question.rerank != "joint":
        raise UsageError("--device is for dataset folders and for --rerank joint")
    if question.attributes is not None:
        if question.auto_filter is None:
            raise UsageError("--attributes belongs to --auto-filter")
        if not folders:
            raise UsageError("--attributes is for dataset folders: galleries have theirs")
    if question.split_number and (question.split is not None or not folders):
        raise UsageError("--split-number is for dataset folders that have several splits")
    if question.auto_filter is not None and question.protocol in sides.VIDEO:
        raise UsageError("--auto-filter is for single crops: attributes are not of tracklets")


def _open(question: Question) -> tuple[Side, Side]:
    """Gallery and queries, of one extractor and metric; tracklets are pooled, or by track."""
    paths = {"gallery": question.gallery, "query": question.queries}
    folders = [part for part, path in paths.items() if sides.kind_of(path) == "dataset"]
    made = (question.extractor, question.weights, question.preprocess, question.weighting)
    if not folders and made != (None, None, None, None):
        raise UsageError("--extractor is for dataset folders: galleries and shards have vectors")
    both = {part: sides.stored_side(paths[part]) for part in paths if part not in folders}
    stored = list(both.values())
    by_track = question.aggregate is not None or any(side.of_segments for side in stored)
    if by_track:
        refuse_with_tracks(question, stored, folders=bool(folders))
    sources = _sources(question, {part: paths[part] for part in folders})
    extractor = _extractor(question, next(iter(stored), None)) if folders else None
    if not by_track and extractor is not None and extractor.segments.matcher is not None:
        by_track = True
        refuse_with_tracks(question, stored, folders=True)
    if not by_track:
        refuse_without_tracks(question)
    if extractor is not None:
        both |= _embedded(question, extractor, sources, stored, by_track=by_track)
    if question.global_only:
        if not question.others and all(side.matcher is None for side in both.values()):
            raise UsageError(
                "--global-only: both sides are compared by their vectors alone as it is; leave it "
                "out"
            )
        both = {part: side.by_vectors for part, side in both.items()}
    sides.check_comparable(both["gallery"], both["query"])
    _refuse_parts(question, both["gallery"], by_track=by_track)
    if question.split is not None:
        both = {part: sides.apply_split(both[part], question.split, part) for part in both}
    if by_track:
        both = {part: side.by_track for part, side in both.items()}
    elif question.protocol in sides.VIDEO:
        both = {part: sides.pooled(side) for part, side in both.items()}
    return both["gallery"], both["query"]


def _embedded(
    question: Question,
    extractor: "Extractor",
    sources: Mapping[str, Source],
    stored: Sequence[Side],
    *,
    by_track: bool,
) -> dict[str, Side]:
    """The sides that are dataset folders (part → source), comparable with the one that is stored,
    if any."""
    paths = {"gallery": question.gallery, "query": question.queries}
    metric = Metric.COSINE if not stored else stored[0].metric
    cut = asked_cut(question, stored) if by_track else None
    found = {}
    for part, source in sources.items():
        if stored:
            sides.check_extractor(paths[part], extractor.fingerprint, stored[0])
        found[part] = sides.dataset_side(paths[part], source, extractor, metric=metric, cut=cut)
    return found


def _refuse_parts(question: Question, gallery: Side, *, by_track: bool) -> None:
    """Raise UsageError where parts are to be compared and something goes by vectors alone."""
    if gallery.matcher is None or gallery.matcher.of_frames:
        return
    pools = question.protocol in sides.VIDEO and not by_track
    by_vectors = {
        "--rerank": question.rerank is not None,
        "--with": bool(question.others),
        f"--protocol {question.protocol}, which averages tracklets,": pools,
        "a comparison of tracklets by their segments": by_track,
    }
    for what, is_asked in by_vectors.items():
        if is_asked:
            raise UsageError(
                f"{what} goes by vectors alone, and {gallery.path} is compared by "
                f"{told(gallery.matcher)}, too: add --global-only"
            )


def _sources(question: Question, folders: Mapping[str, Path]) -> dict[str, Source]:
    """Which pictures of the dataset folders (part → folder) each side is made of."""
    split = question.split
    if split is not None:
        return {part: sides.split_pictures(path, split, part) for part, path in folders.items()}
    datasets = {
        path: sides.read_dataset(path, question.protocol, split=question.split_number)
        for path in dict.fromkeys(folders.values())
    }
    return {
        part: datasets[path].query if part == "query" else datasets[path].gallery
        for part, path in folders.items()
    }


def _extractor(question: Question, like: Side | None) -> "Extractor":
    """The gallery's, unless one is named."""
    if question.extractor is None and like is not None and like.gallery is not None:
        if question.preprocess is not None:
            raise UsageError("how crops are fed to a model belongs to --extractor; name it, too")
        if question.weighting is not None:
            raise UsageError("--weighting belongs to --extractor; name it, too")
        return sides.recipe_of(
            like.gallery,
            weights=question.weights,
            device=question.device,
            attributes=question.attributes,
            predict=question.auto_filter is not None,
        )
    extractor = open_extractor(
        question.extractor or DEFAULT,
        weights=question.weights,
        preprocess=question.preprocess,
        device=question.device,
        weighting=question.weighting,
    )
    if question.attributes is None:
        return extractor
    return WithAttributes(extractor, predictor_of(question.attributes, device=question.device))


def _kept(side: Side, rows: NDArray[np.int64]) -> Side:
    return side if len(rows) == side.items.num_rows else side.take(rows)


def _all(side: Side) -> NDArray[np.float32]:
    return side.matrix(np.arange(side.items.num_rows))


def _plain(gallery: Side, queries: Side) -> VectorScores:
    return VectorScores(_all(queries), gallery.blocks, metric=gallery.metric)


def _ranked_by(
    question: Question, gallery: Side, queries: Side, labelled: Labelled, plain: VectorScores
) -> tuple[Scores, bool]:
    """What the figures rank by, and whether re-ranking knew every neighbour."""
    scores: Scores = plain
    exact = True
    if gallery.matcher is not None:
        rows = np.arange(queries.items.num_rows)
        scores = parts_scores(
            gallery.matcher,
            plain,
            queries=queries.parts_of(rows),
            blocks=gallery.parts,
            visible=queries.visible_of(rows),
            shown=gallery.visible,
        )
    if question.rerank is not None:
        scores, exact = _reranked(question, gallery, queries, labelled)
    if not question.others:
        return scores, exact
    sources = [scores]
    alone = replace(
        question, split=None, extractor=None, weights=None, preprocess=None, weighting=None
    )
    for other_gallery, other_queries in question.others:
        both = _open(replace(alone, gallery=other_gallery, queries=other_queries))
        its_gallery = sides.same_rows(gallery, both[0])
        its_queries = sides.same_rows(queries, both[1])
        scores = _plain(its_gallery, its_queries)
        if question.rerank is not None:
            scores, its_exact = _reranked(question, its_gallery, its_queries, labelled)
            exact &= its_exact
        sources.append(scores)
    return FusedScores(sources, items=labelled.gallery.item, fusion=question.fusion), exact


def _reranked(
    question: Question, gallery: Side, queries: Side, labelled: Labelled
) -> tuple[Scores, bool]:
    if gallery.metric is Metric.INNER_PRODUCT:
        raise UsageError("re-ranking needs distances: inner products are none")
    items, reranking = labelled.gallery.item, question.reranking
    asked, searched = _all(queries), _all(gallery)
    if question.rerank == "query":
        graph = _graph(gallery, searched, items, reranking)
        alone = QueryReranking(vectors=searched, items=items, graph=graph, reranking=reranking)
        return QueryScores(asked, alone), graph.exact
    if question.device == "cpu":
        return rerank_joint(asked, searched, items=items, reranking=reranking), True
    from reid_index.reranking.rerank_torch import joint_torch

    found = joint_torch(asked, searched, items=items, reranking=reranking, device=question.device)
    return MatrixScores(found.cpu().numpy()), True


def _graph(
    gallery: Side, vectors: NDArray[np.float32], items: NDArray[np.int64], reranking: Reranking
) -> Graph:
    """The graph that is kept with the gallery, where it is of just these rows and for these
    parameters; or one made now."""
    kept = None if gallery.gallery is None else gallery.gallery.graph
    if kept is not None and kept.fits(reranking):
        return kept
    return make_graph(vectors, items=items, reranking=reranking)
