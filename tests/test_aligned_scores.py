"""Matched distances of all pairs: within their bounds, and the same figures as a matrix gives."""

import numpy as np
import pytest
from numpy.typing import NDArray

from reid_index.errors import DimensionMismatch
from reid_index.evaluation.aligned_scores import AlignedScores
from reid_index.evaluation.protocol import Labels
from reid_index.evaluation.ranks import ranks_of_relevant
from reid_index.evaluation.scores import MatrixScores, VectorScores
from reid_index.metric import Metric
from reid_index.search.aligned import local_distances, matched_distances
from reid_index.search.oracle import score

Q, G, DIM = 70, 300, 24


def unit(vectors: NDArray[np.float64]) -> NDArray[np.float32]:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


class World:
    """Queries and two blocks of rows; some equal, some nearly, some stripes of zeros."""

    def __init__(self, stripes: int, dim: int, dtype: str) -> None:
        rng = np.random.default_rng(7)
        self.queries = unit(rng.normal(size=(Q, DIM)))
        self.rows = unit(rng.normal(size=(G, DIM)))
        self.parts = rng.normal(size=(Q, stripes, dim)).astype(np.float32)
        parts = rng.normal(size=(G, stripes, dim))
        self.rows[:20], parts[:20] = self.queries[:20], self.parts[:20] * 3
        self.rows[20:40] = unit(self.queries[:20] + rng.normal(size=(20, DIM)) * 1e-3)
        parts[20:40] = self.parts[:20] + rng.normal(size=(20, stripes, dim)) * 1e-3
        parts[40:60, 0] = 0
        parts[60:80] = self.parts[:20] * 3  # with other vectors
        self.parts[5, stripes - 1] = 0
        self.rows_parts = parts.astype(dtype)
        self.weight = 0.7
        vectors = VectorScores(self.queries, self.split(self.rows), metric=Metric.COSINE)
        blocks = self.split(self.rows_parts)
        self.scores = AlignedScores(vectors, self.parts, blocks, weight=self.weight)

    def split(self, array: NDArray[np.generic]) -> list[NDArray[np.generic]]:
        return [array[:130], array[130:]]

    def matrix(self) -> NDArray[np.float32]:
        """All matched distances, one query at a time."""
        return np.stack(
            [
                matched_distances(
                    score(query, self.rows, metric=Metric.COSINE),
                    local_distances(parts, self.rows_parts),
                    weight=self.weight,
                )
                for query, parts in zip(self.queries, self.parts, strict=True)
            ]
        )


@pytest.fixture(params=[(1, 4, "float32"), (8, 128, "float32"), (3, 16, "float16")])
def world(request: pytest.FixtureRequest) -> World:
    return World(*request.param)


def test_keys_are_within_their_bounds(world: World) -> None:
    matrix = world.matrix()
    for start, stop in ((0, Q), (0, 1), (3, 69)):
        keys, bounds = world.scores.chunk(start, stop)
        off = np.abs(keys.astype(np.float64) - matrix[start:stop])
        assert (off <= bounds[:, None]).all()
        assert bounds.max() < 2e-3
        assert np.median(off) < 1e-5


def test_exact_keys_are_those_of_a_search(world: World) -> None:
    rng = np.random.default_rng(1)
    queries, rows = rng.integers(0, Q, 500), rng.integers(0, G, 500)
    np.testing.assert_array_equal(world.scores.exact(queries, rows), world.matrix()[queries, rows])


def labels(rows: int, seed: int) -> Labels:
    rng = np.random.default_rng(seed)
    return Labels(
        person=rng.integers(0, 9, rows), camera=rng.integers(0, 3, rows), item=np.arange(rows)
    )


@pytest.mark.parametrize("chunk", [1, 16, 1000])
def test_ranks_are_those_of_the_matrix(world: World, chunk: int) -> None:
    sides = labels(Q, 2), labels(G, 3)
    rules = {"same_camera": True, "same_item": False}
    found = ranks_of_relevant(world.scores, *sides, **rules, chunk=chunk)
    wanted = ranks_of_relevant(MatrixScores(world.matrix()), *sides, **rules)
    np.testing.assert_array_equal(found.ranks, wanted.ranks)
    np.testing.assert_array_equal(found.offsets, wanted.offsets)


def test_parts_must_be_of_one_shape_and_of_all_rows(world: World) -> None:
    vectors = VectorScores(world.queries, [world.rows], metric=Metric.COSINE)
    for parts in (world.rows_parts[1:], world.rows_parts[:, :, 1:]):
        with pytest.raises(DimensionMismatch, match="one shape is needed, for 70 and 300"):
            AlignedScores(vectors, world.parts, [parts], weight=1.0)
