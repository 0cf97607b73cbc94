"""Neighbour lists equal sorting all exact distances, on data that is meant to mislead them."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from reid_index.errors import NotFiniteError
from reid_index.reranking import neighbours
from reid_index.reranking.neighbours import (
    Neighbourhood,
    exact_neighbours,
    neighbourhood,
    pair_distances,
)

Rng = np.random.Generator
Vectors = NDArray[np.float32]


def unit(vectors: NDArray[np.floating]) -> Vectors:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def clustered(rng: Rng, rows: int) -> Vectors:
    """People of eight crops each, more or less."""
    centres = rng.normal(size=(rows // 8 + 1, 16))
    return unit(centres[rng.integers(0, len(centres), rows)] + 0.2 * rng.normal(size=(rows, 16)))


def duplicated(rng: Rng, rows: int) -> Vectors:
    """Three vectors again and again: far more equally near rows than candidates are kept."""
    return unit(rng.normal(size=(3, 16)))[rng.integers(0, 3, rows)]


def lengths(rng: Rng, rows: int) -> Vectors:
    """Lengths from 1e-3 to 1e3: the rounding of the product hides what lies near the origin."""
    return (rng.normal(size=(rows, 8)) * 10.0 ** rng.uniform(-3, 3, (rows, 1))).astype(np.float32)


KINDS: dict[str, Callable[[Rng, int], Vectors]] = {
    "random": lambda rng, rows: rng.normal(size=(rows, 16)).astype(np.float32),
    "clustered": clustered,
    "duplicated": duplicated,
    "tied": lambda rng, rows: rng.integers(0, 4, (rows, 2)).astype(np.float32),
    "hubs": lambda rng, rows: rng.normal(size=(rows, 2)).astype(np.float32),
    "equal": lambda rng, rows: np.full((rows, 16), 0.3, np.float32),
    "zero": lambda rng, rows: np.zeros((rows, 16), np.float32),
    "lengths": lengths,
    "a line": lambda rng, rows: rng.integers(0, 1000, (rows, 1)).astype(np.float32),
    # Their products are too small for float32, and so are some of their distances.
    "minute": lambda rng, rows: (rng.normal(size=(rows, 4)) * 2e-14).astype(np.float32),
    # Far from the origin and near to each other: the product in single precision knows nothing.
    "shifted": lambda rng, rows: (rng.normal(size=(rows, 8)) * 1e-2 + 100).astype(np.float32),
}


def all_squared(vectors: Vectors) -> NDArray[np.float32]:
    """‖x − y‖² of all pairs, summed in float64 and rounded once."""
    wide = vectors.astype(np.float64)
    return ((wide[:, None] - wide[None]) ** 2).sum(axis=2).astype(np.float32)


def assert_exact(found: Neighbourhood, vectors: Vectors, order: NDArray[np.int64], k: int) -> None:
    squared = all_squared(vectors)
    index = np.stack([np.lexsort((order, row))[:k] for row in squared])
    np.testing.assert_array_equal(found.index, index)
    nearest = np.take_along_axis(squared, index, axis=1)
    np.testing.assert_allclose(found.squared, nearest, rtol=2e-7, atol=1e-45)
    np.testing.assert_allclose(found.farthest, squared.max(axis=1), rtol=1e-6, atol=1e-45)
    assert found.index.dtype == np.int32
    assert found.squared.dtype == found.farthest.dtype == np.float32


@pytest.mark.parametrize("tile", [128, 2048])
@pytest.mark.parametrize("kind", KINDS)
def test_lists_are_those_of_a_sort_of_all_distances(
    kind: str, tile: int, rng: Rng, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours, "_TILE", tile)
    vectors = KINDS[kind](rng, 325)
    for order in (np.arange(325), np.arange(325)[::-1].copy(), rng.permutation(325) - 50):
        found = neighbourhood(vectors, order=order, k=9)
        assert_exact(found, vectors, order, 9)


@pytest.mark.parametrize("rows", [1, 2, 63, 64, 65, 129])
def test_every_row_can_be_asked_for(rows: int, rng: Rng, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "_TILE", 64)
    vectors, order = KINDS["tied"](rng, rows), rng.permutation(rows)
    assert_exact(neighbourhood(vectors, order=order, k=rows), vectors, order, rows)


def test_a_few_rows_by_hand() -> None:
    vectors = np.array([[0], [3], [1], [1]], np.float32)
    found = neighbourhood(vectors, order=np.array([0, 1, 3, 2]), k=3)
    assert found.index.tolist() == [[0, 3, 2], [1, 3, 2], [3, 2, 0], [3, 2, 0]]
    assert found.squared.tolist() == [[0, 1, 1], [0, 4, 4], [0, 0, 1], [0, 0, 1]]
    assert found.farthest.tolist() == [9, 9, 4, 4]


def test_a_row_of_a_longer_list_begins_with_the_shorter_one(rng: Rng) -> None:
    vectors, order = KINDS["clustered"](rng, 200), rng.permutation(200)
    short = neighbourhood(vectors, order=order, k=5)
    long = neighbourhood(vectors, order=order, k=60)
    np.testing.assert_array_equal(long.index[:, :5], short.index)
    np.testing.assert_array_equal(long.squared[:, :5], short.squared)


def test_of_given_candidates_the_nearest_are_kept(rng: Rng) -> None:
    vectors, order = KINDS["tied"](rng, 120), rng.permutation(120)
    candidates = np.stack([rng.permutation(120)[:30] for _ in range(120)]).astype(np.int32)
    farthest = rng.integers(0, 120, 120).astype(np.int32)
    found = exact_neighbours(vectors, candidates, farthest, order=order, k=7)
    squared = all_squared(vectors)
    for row, near in enumerate(candidates):
        best = near[np.lexsort((order[near], squared[row, near]))][:7]
        assert found.index[row].tolist() == best.tolist()
        assert found.squared[row].tolist() == squared[row, best].tolist()
        assert found.farthest[row] == squared[row, farthest[row]]


def test_distances_of_pairs_are_rounded_once() -> None:
    vectors = np.array([[1, 2**-13], [0, 0], [3, 4]], np.float32)
    # 1 + 2⁻²⁶ is 1 in float32; 4 + 16 − 2³·2⁻¹³ + 2⁻²⁶ = 19.99902…
    found = pair_distances(vectors, np.array([0, 1, 0, 2]), np.array([1, 2, 2, 2]))
    assert found.tolist() == [1, 25, np.float32(20 - 2**-10 + 2**-26), 0]


def test_vectors_whose_distances_overflow_are_refused() -> None:
    vectors = np.full((30, 4), 1e19, np.float32)
    vectors[::2] *= -1
    with pytest.raises(NotFiniteError, match=r"too long for re-ranking.*scale them down"):
        neighbourhood(vectors, order=np.arange(30), k=3)
    vectors *= np.float32(0.1)
    found = neighbourhood(vectors, order=np.arange(30), k=3)
    np.testing.assert_allclose(found.farthest, 16e36, rtol=1e-6)


def test_vectors_whose_distances_vanish_are_refused(rng: Rng) -> None:
    vectors = (rng.normal(size=(30, 4)) * 2e-22).astype(np.float32)
    with pytest.raises(NotFiniteError, match=r"too short for re-ranking.*scale them up"):
        neighbourhood(vectors, order=np.arange(30), k=3)
