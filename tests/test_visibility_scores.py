"""Visibility-weighted distances of all pairs: within their bounds, and the same figures as a matrix
gives."""

import numpy as np
import pytest
from numpy.typing import NDArray
from test_aligned_scores import labels, unit

from reid_index.errors import DimensionMismatch
from reid_index.evaluation.parts_scores import parts_scores
from reid_index.evaluation.ranks import ranks_of_relevant
from reid_index.evaluation.scores import MatrixScores, Scores, VectorScores
from reid_index.evaluation.visibility_scores import VisibilityScores
from reid_index.matcher import Matcher
from reid_index.metric import Metric
from reid_index.search.oracle import score
from reid_index.search.visibility import visible_distances

Q, G, DIM = 70, 300, 24


class World:
    """Queries and two blocks of rows; some equal, some nearly, some parts of zeros, some items
    without a visible part."""

    def __init__(self, parts: int, dim: int, dtype: str, distance: str) -> None:
        rng = np.random.default_rng(7)
        self.distance = distance
        self.queries = unit(rng.normal(size=(Q, DIM)))
        self.rows = unit(rng.normal(size=(G, DIM)))
        self.parts = rng.normal(size=(Q, parts, dim)).astype(np.float32)
        self.visible = rng.integers(0, 2, size=(Q, parts)).astype(np.uint8)
        of_rows = rng.normal(size=(G, parts, dim))
        self.shown = rng.integers(0, 2, size=(G, parts)).astype(np.uint8)
        self.rows[:20], of_rows[:20] = self.queries[:20], self.parts[:20] * 3
        self.rows[20:40] = unit(self.queries[:20] + rng.normal(size=(20, DIM)) * 1e-3)
        of_rows[20:40] = self.parts[:20] + rng.normal(size=(20, parts, dim)) * 1e-3
        of_rows[40:60, 0] = 0
        of_rows[60:80] = self.parts[:20] * 3  # with other vectors
        self.shown[:40] = 1
        self.shown[100:110], self.visible[:4], self.visible[6] = 0, 1, 0
        self.parts[5, parts - 1] = 0
        self.rows_parts = of_rows.astype(dtype)
        self.vectors = VectorScores(self.queries, self.split(self.rows), metric=Metric.COSINE)
        self.scores: Scores = parts_scores(
            Matcher(name="visibility", distance=distance),
            self.vectors,
            queries=self.parts,
            blocks=self.split(self.rows_parts),
            visible=self.visible,
            shown=self.split(self.shown),
        )

    def split(self, array: NDArray[np.generic]) -> list[NDArray[np.generic]]:
        return [array[:130], array[130:]]

    def matrix(self) -> NDArray[np.float32]:
        """All distances, one query at a time."""
        return np.stack(
            [
                visible_distances(
                    parts,
                    visible,
                    self.rows_parts,
                    self.shown,
                    score(query, self.rows, metric=Metric.COSINE),
                    distance=self.distance,
                )
                for query, parts, visible in zip(
                    self.queries, self.parts, self.visible, strict=True
                )
            ]
        )


@pytest.fixture(
    params=[
        (1, 4, "float32", "cosine"),
        (6, 128, "float32", "cosine"),
        (6, 128, "float32", "euclidean"),
        (3, 16, "float16", "cosine"),
        (3, 16, "float16", "euclidean"),
    ]
)
def world(request: pytest.FixtureRequest) -> World:
    return World(*request.param)


def test_keys_are_within_their_bounds(world: World) -> None:
    matrix = world.matrix()
    for start, stop in ((0, Q), (0, 1), (3, 69)):
        keys, bounds = world.scores.chunk(start, stop)
        off = np.abs(keys.astype(np.float64) - matrix[start:stop])
        assert (off <= bounds[:, None]).all()
        # What a float32 sum of so many products may be off by, in whatever order (Higham, eq. 3.5).
        _, parts, dim = world.parts.shape
        assert bounds.min() >= (dim if world.distance == "euclidean" else parts * dim) * 2.0**-24
        assert bounds.max() < 2e-3
        assert np.median(off) < 1e-6


def test_exact_keys_are_those_of_a_search(world: World) -> None:
    rng = np.random.default_rng(1)
    queries, rows = rng.integers(0, Q, 500), rng.integers(0, G, 500)
    np.testing.assert_array_equal(world.scores.exact(queries, rows), world.matrix()[queries, rows])


@pytest.mark.parametrize("chunk", [1, 16, 1000])
def test_ranks_are_those_of_the_matrix(world: World, chunk: int) -> None:
    sides = labels(Q, 2), labels(G, 3)
    rules = {"same_camera": True, "same_item": False}
    found = ranks_of_relevant(world.scores, *sides, **rules, chunk=chunk)
    wanted = ranks_of_relevant(MatrixScores(world.matrix()), *sides, **rules)
    np.testing.assert_array_equal(found.ranks, wanted.ranks)
    np.testing.assert_array_equal(found.offsets, wanted.offsets)


def test_pieces_of_any_size_give_the_same(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    keys, bounds = (one.copy() for one in world.scores.chunk(0, Q))
    for name, size in (("_ROWS", 37), ("_QUERIES", 11)):
        monkeypatch.setattr(f"reid_index.evaluation.visibility_scores.{name}", size)
    again, _ = world.scores.chunk(0, Q)
    assert (np.abs(again - keys) <= 2 * bounds[:, None]).all()
    assert np.median(np.abs(again - keys)) < 1e-6


def test_parts_and_visible_must_be_of_one_shape_and_of_all_rows(world: World) -> None:
    for parts in (world.rows_parts[1:], world.rows_parts[:, :, 1:]):
        with pytest.raises(DimensionMismatch, match="one shape is needed, for 70 and 300"):
            VisibilityScores(
                world.vectors,
                world.parts,
                world.visible,
                [parts],
                [world.shown],
                distance="cosine",
            )
    for visible, shown in ((world.visible[:, 1:], world.shown), (world.visible, world.shown[1:])):
        with pytest.raises(DimensionMismatch, match="they must be the same"):
            VisibilityScores(
                world.vectors, world.parts, visible, [world.rows_parts], [shown], distance="cosine"
            )
