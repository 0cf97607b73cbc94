"""Rows and queries whose rounding matters, and what candidates for them must be."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from reid_index.metric import Metric
from reid_index.search.exact import Block, Candidates

ROWS, DIM, QUERIES = 1500, 37, 40
CUDA = pytest.param(
    "cuda",
    marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device"),
)
WORLDS = ("random", "near ties", "copies", "tiny", "long", "one long")


def world(name: str, rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Rows (ROWS, DIM) and queries (QUERIES, DIM) that make rounding matter."""
    rows = rng.normal(size=(ROWS, DIM))
    queries = rng.normal(size=(QUERIES, DIM))
    if name == "near ties":
        # All differ by less than single precision tells apart in a sum, or half in a number.
        rows = rng.normal(size=DIM) + 1e-7 * rng.normal(size=(ROWS, DIM))
    elif name == "copies":
        rows = rows[rng.integers(0, 5, ROWS)]
    elif name == "tiny":
        # Below what float16 holds as normal numbers.
        rows *= 1e-6
    elif name == "long":
        rows, queries = 1000 * rows, 300 * queries
    elif name == "one long":
        rows[7] *= 500
    # Nothing but the rounding of norms is left of its Euclidean keys.
    queries[0] = 0
    return rows.astype(np.float32), queries.astype(np.float32)


def blocks_of(rows: NDArray[Any]) -> list[Block]:
    """Three blocks of unequal size, with the largest norm of each."""
    cuts = np.split(rows, [len(rows) // 5, len(rows) // 2])
    return [
        Block(cut, float(np.nextafter(np.linalg.norm(cut.astype(np.float64), axis=1).max(), 1e9)))
        for cut in cuts
    ]


def exact_keys(
    rows: NDArray[Any], queries: NDArray[np.float32], metric: Metric
) -> NDArray[np.float64]:
    wide = rows.astype(np.float64)
    keys = queries.astype(np.float64) @ wide.T
    return keys - (wide**2).sum(axis=1) / 2 if metric is Metric.EUCLIDEAN else keys


def assert_best(
    found: Candidates, keys: NDArray[np.float64], want: int, allowed: NDArray[np.bool_] | None
) -> None:
    """found are allowed rows, all different; their keys are within the bound of the exact ones; and
    no row that was left out has an exact key above the worst of them and the bound."""
    count = keys.shape[1] if allowed is None else int(allowed.sum())
    assert found.rows.shape == found.keys.shape == (len(keys), min(want, count))
    assert (found.rows.dtype, found.keys.dtype) == (np.int64, np.float32)
    assert (found.bound.shape, found.bound.dtype) == ((len(keys),), np.float64)
    for at in range(len(keys)):
        rows = found.rows[at]
        assert len(set(rows.tolist())) == len(rows)
        assert np.abs(found.keys[at] - keys[at][rows]).max() <= found.bound[at]
        left = np.ones(keys.shape[1], bool) if allowed is None else allowed.copy()
        assert left[rows].all()
        left[rows] = False
        if left.any():
            assert keys[at][left].max() <= found.keys[at].min() + found.bound[at]
