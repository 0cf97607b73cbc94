"""Evaluating tracklets by their segments: what the options ask for, and the scores of it."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from extractors.segmenting import Cut
from reid_index import Metric
from reid_index.errors import DimensionMismatch, UsageError
from reid_index.evaluation.video_scores import PairsOf, VideoScores
from reid_index.search.aggregate import Aggregation
from reid_index.search.coattention import FramePairs, own_codes
from reid_index.search.pairs import Pairs, VectorPairs

from .aggregate_options import Aggregate, parse_aggregate
from .question import Question
from .sides import Side
from .sources import gallery_cut

DEFAULT = "mean"
"""Of the best pairs. Sums grow with a tracklet's segments, and an evaluation has one order for
tracklets of all lengths."""


def asked_aggregate(question: Question) -> Aggregate:
    """How the pairs of two tracklets become a score. Raises UsageError."""
    said = parse_aggregate(question.aggregate, question.proportion, default=DEFAULT)
    if said.above is not None and said.above < 0:
        raise UsageError(
            f"--aggregate {question.aggregate}: an evaluation needs a threshold of 0 or more, or "
            "tracklets of which nothing counts would come before others"
        )
    return said


def asked_cut(question: Question, stored: Sequence[Side]) -> Cut:
    """How the tracklets of a dataset folder are cut: as the options say, or as the other side, if
    that is a gallery of segments, or by 8 and 4. Raises UsageError."""
    length, stride = question.segment, question.stride
    there = [gallery_cut(side.gallery) for side in stored if side.gallery is not None]
    like = next(filter(None, there), Cut())
    if length is None and stride is None:
        return like
    length = length or like.length
    try:
        return Cut.of(length, stride)
    except UsageError as error:
        raise UsageError(f"--segment, --stride: {error}") from None


def refuse_without_tracks(question: Question) -> None:
    """Raise UsageError where options are of segments, and no side is."""
    for name in ("proportion", "segment", "stride"):
        if getattr(question, name) is not None:
            raise UsageError(
                f"--{name} is of segments: say --aggregate mean, or name a gallery of segments"
            )


def refuse_with_tracks(question: Question, stored: Sequence[Side], *, folders: bool) -> None:
    """Raise UsageError where something is asked that has no answer for tracklets of segments.

    stored: the sides that are galleries or shards. folders: whether a side is a dataset folder,
    which is cut into segments.
    """
    said = asked_aggregate(question)
    if folders:
        asked_cut(question, stored)
    if question.rerank is not None or question.others:
        what = "--rerank compares" if question.rerank is not None else "--with fuses"
        raise UsageError(
            f"{what} items of one vector, not tracklets of segments: leave it out, or evaluate "
            "crops without --aggregate"
        )
    if (question.segment or question.stride) and not folders:
        raise UsageError("--segment, --stride are for dataset folders: galleries have theirs")
    of_segments = [side for side in stored if side.of_segments]
    if question.split is not None and (folders or of_segments):
        raise UsageError(
            "--split names files, and segments are of several: name a gallery for each side, or "
            "evaluate the list itself by --protocol csv"
        )
    for side in stored:
        if side.metric is Metric.EUCLIDEAN and said.above is not None:
            raise UsageError(
                f"--aggregate {question.aggregate} needs similarities: {side.path} has distances"
            )
        if side.metric is not Metric.COSINE and not side.of_segments and (folders or of_segments):
            raise UsageError(
                f"{side.path} compares crops by {side.metric}, and the other side has segments, "
                "means of unit vectors: build both as segments"
            )
    if len(stored) == 2:
        one, other = (side.path.resolve() for side in stored)
        if one in other.parents or other in one.parents:
            raise UsageError(
                "one side is a shard of the other, and may have parts of tracklets: evaluate the "
                "gallery with itself"
            )


def vector_scores(gallery: Side, queries: Side, aggregate: Aggregate) -> VideoScores:
    """Scores by the vectors of segments. Raises DimensionMismatch."""
    dims = {block.shape[1] for side in (gallery, queries) for block in side.blocks}
    if len(dims) > 1:
        raise DimensionMismatch(
            f"the queries and the gallery have vectors of {' and '.join(map(str, sorted(dims)))} "
            "dimensions: build both by the same extractor"
        )

    def pairs_of(rows: NDArray[np.int64]) -> Pairs:
        return VectorPairs(queries.matrix(rows), gallery.blocks, metric=gallery.metric)

    return _scores(gallery, queries, aggregate, pairs_of, dim=max(dims, default=1))


def frame_scores(gallery: Side, queries: Side, aggregate: Aggregate) -> VideoScores:
    """Scores by the frames of segments, as the queries' attend to the gallery's."""
    matcher = gallery.matcher
    assert matcher is not None

    def pairs_of(rows: NDArray[np.int64]) -> Pairs:
        asked = queries.frames_of(rows)
        # Those that are stored as vectors are of length 1.
        codes = own_codes(asked)
        return FramePairs(codes, asked.index.astype(np.float32), gallery.frames, matcher=matcher)

    # Some frames of each segment, with key and value.
    return _scores(gallery, queries, aggregate, pairs_of, dim=16 * len(matcher.head))


def _scores(
    gallery: Side, queries: Side, aggregate: Aggregate, pairs_of: PairsOf, *, dim: int
) -> VideoScores:
    assert gallery.tracks is not None
    assert queries.tracks is not None
    how = Aggregation(how=aggregate.how, top=aggregate.proportion, above=aggregate.above)
    return VideoScores(queries.tracks, gallery.tracks, pairs_of, dim=dim, aggregation=how)
