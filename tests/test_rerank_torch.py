"""Re-ranking through torch equals the plain oracle: distances and order, on what makes it hard."""

import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from dense_reranking import dense_reranking, ranked
from numpy.typing import NDArray

from reid_index.errors import DimensionMismatch, MissingExtra, NotFiniteError, UsageError
from reid_index.reranking import rerank_torch
from reid_index.reranking.rerank import Reranking
from reid_index.reranking.rerank_torch import joint_torch, joint_torch_from_squared

QUERIES, NODES, DIM = 30, 150, 9
WORLDS = ("random", "clustered", "duplicated", "tied", "zero", "far from 0")
PARAMETERS = ((20, 6, 0.3), (50, 15, 0.3), (7, 1, 0.5), (5, 12, 0.0), (1, 2, 1.0))
CUDA = pytest.param(
    "cuda",
    marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device"),
)


def world(name: str, rng: np.random.Generator) -> NDArray[np.float32]:
    """Vectors (NODES, DIM); some in it are queries and gallery rows at once."""
    if name == "random":
        vectors = rng.normal(size=(NODES, DIM))
    elif name == "clustered":
        vectors = rng.normal(size=(15, DIM))[rng.integers(0, 15, NODES)]
        vectors += 0.5 * rng.normal(size=(NODES, DIM))
    elif name == "duplicated":
        # More copies of each than any list or any first look holds.
        vectors = rng.normal(size=(2, DIM))[rng.integers(0, 2, NODES)]
    elif name == "tied":
        vectors = rng.integers(0, 2, (NODES, DIM))
    elif name == "zero":
        vectors = np.zeros((NODES, DIM))
    else:
        # Single precision keeps nothing of the distances in ‖x‖² + ‖y‖² − 2·x·y.
        vectors = 3000 + rng.normal(size=(NODES, DIM))
    vectors = vectors.astype(np.float32)
    vectors.setflags(write=False)
    return vectors


def squared_of(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    wide = vectors.astype(np.float64)
    return np.stack([((wide - row) ** 2).sum(axis=1) for row in wide]).astype(np.float32)


def shuffled(rng: np.random.Generator) -> NDArray[np.int64]:
    """Item ids that are neither consecutive nor in order."""
    return 7 + 3 * rng.permutation(NODES - QUERIES).astype(np.int64)


def order_of(items: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([np.arange(-QUERIES, 0), items])


def assert_same(
    distances: torch.Tensor, expected: NDArray[np.float64], items: NDArray[np.int64]
) -> None:
    assert distances.dtype == torch.float32
    found = distances.cpu().numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-7)
    # Where sets are equal the oracle's sums in another order may leave 1e-16 of what is 0.
    order = ranked(expected.round(12).astype(np.float32), items)
    np.testing.assert_array_equal(ranked(found, items), order)


@pytest.fixture(params=WORLDS)
def vectors(request: pytest.FixtureRequest, rng: np.random.Generator) -> NDArray[np.float32]:
    return world(request.param, rng)


@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.parametrize(("k1", "k2", "lambda_"), PARAMETERS)
def test_equals_the_oracle(
    vectors: NDArray[np.float32],
    k1: int,
    k2: int,
    lambda_: float,
    device: str,
    rng: np.random.Generator,
) -> None:
    items = shuffled(rng)
    order = order_of(items)
    squared = squared_of(vectors)
    expected = dense_reranking(squared, queries=QUERIES, order=order, k1=k1, k2=k2, lambda_=lambda_)
    reranking = Reranking(k1=k1, k2=k2, lambda_=lambda_)
    found = joint_torch(
        vectors[:QUERIES], vectors[QUERIES:], items=items, reranking=reranking, device=device
    )
    assert_same(found, expected, items)
    given = joint_torch_from_squared(
        squared, queries=QUERIES, order=order, reranking=reranking, device=device
    )
    assert_same(given, expected, items)


@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_does_not_depend_on_how_much_is_done_at_once(
    vectors: NDArray[np.float32],
    device: str,
    rng: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sides = np.split(vectors, [QUERIES])
    items = shuffled(rng)
    whole = joint_torch(*sides, items=items, reranking=Reranking(), device=device)
    # So few rows have more than one group of columns only if these are small.
    monkeypatch.setattr(rerank_torch, "_STRIDES", 3)
    monkeypatch.setattr(rerank_torch, "_ROOM", 2**16)
    monkeypatch.setattr(rerank_torch, "_CACHE", 2**10)
    pieces = joint_torch(*sides, items=items, reranking=Reranking(), device=device, rows=40)
    assert torch.equal(whole, pieces)


@pytest.fixture
def low_precision() -> Iterator[None]:
    """Float32 products may be made in TF32, on a CPU in bfloat16."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.usefixtures("low_precision")
@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_low_precision_neither_matters_nor_is_forbidden(
    device: str, rng: np.random.Generator
) -> None:
    # Wide enough for the faster, coarser product to be taken where the processor has one.
    vectors = rng.normal(size=(NODES, 64)).astype(np.float32)
    expected = dense_reranking(
        squared_of(vectors), queries=QUERIES, order=order_of(np.arange(NODES - QUERIES))
    )
    found = joint_torch(*np.split(vectors, [QUERIES]), reranking=Reranking(), device=device)
    assert_same(found, expected, np.arange(NODES - QUERIES))
    assert torch.get_float32_matmul_precision() == "medium"
    sides = (torch.tensor(part) for part in np.split(vectors, [QUERIES]))
    products = rerank_torch._Products.of(rerank_torch._Vectors.of(*sides))
    assert products.columns.dtype == torch.float64


@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_autocast_and_gradients_play_no_part(device: str, rng: np.random.Generator) -> None:
    vectors = rng.normal(size=(NODES, 64)).astype(np.float32)
    expected = dense_reranking(
        squared_of(vectors), queries=QUERIES, order=order_of(np.arange(NODES - QUERIES))
    )
    sides = [torch.tensor(part, requires_grad=True) for part in np.split(vectors, [QUERIES])]
    with torch.autocast(device, dtype=torch.bfloat16):
        found = joint_torch(*sides, reranking=Reranking(), device=device)
        assert torch.is_autocast_enabled(device)
    assert not found.requires_grad
    assert_same(found, expected, np.arange(NODES - QUERIES))


@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_a_copy_is_at_distance_0(device: str, rng: np.random.Generator) -> None:
    vectors = world("far from 0", rng)
    reranking = Reranking(lambda_=1.0)
    found = joint_torch(vectors[:QUERIES], vectors, reranking=reranking, device=device)
    np.testing.assert_array_equal(found.cpu().numpy() == 0, np.eye(QUERIES, NODES, dtype=bool))


def test_without_item_ids_the_rows_are_numbered(rng: np.random.Generator) -> None:
    vectors = world("tied", rng)
    sides = vectors[:QUERIES], vectors[QUERIES:]
    numbered = joint_torch(
        *sides, items=np.arange(NODES - QUERIES), reranking=Reranking(), device="cpu"
    )
    assert torch.equal(joint_torch(*sides, reranking=Reranking(), device="cpu"), numbered)
    backwards = -np.arange(NODES - QUERIES)
    other = joint_torch(*sides, items=backwards, reranking=Reranking(), device="cpu")
    assert not torch.equal(other, numbered)


def test_one_side_may_be_empty() -> None:
    some, none = np.eye(25, dtype=np.float32), np.empty((0, 25), np.float32)
    assert joint_torch(none, some, reranking=Reranking(), device="cpu").shape == (0, 25)
    assert joint_torch(some, none, reranking=Reranking(), device="cpu").shape == (25, 0)


def test_bad_input() -> None:
    good = np.eye(30, dtype=np.float32)
    bad = good.copy()
    bad[3, 4] = np.nan
    with pytest.raises(NotFiniteError, match="NaN"):
        joint_torch(good, bad, reranking=Reranking(), device="cpu")
    with pytest.raises(NotFiniteError, match="scale the vectors down"):
        joint_torch(good * 1e20, good, reranking=Reranking(), device="cpu")
    with pytest.raises(DimensionMismatch, match=r"\(30, 30\) and \(30, 29\)"):
        joint_torch(good, good[:, :29], reranking=Reranking(), device="cpu")
    with pytest.raises(UsageError, match="at least 61 items"):
        joint_torch(good, good, reranking=Reranking(k1=60), device="cpu")
    with pytest.raises(UsageError, match="not on 'mps'"):
        joint_torch(good, good, reranking=Reranking(), device="mps")
    with pytest.raises(NotFiniteError, match="distances hold NaN"):
        joint_torch_from_squared(
            bad, queries=9, order=np.arange(30), reranking=Reranking(), device="cpu"
        )


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch finds a CUDA device")
def test_no_cuda_device() -> None:
    some = np.eye(30, dtype=np.float32)
    with pytest.raises(UsageError, match="no CUDA device"):
        joint_torch(some, some, reranking=Reranking())


def test_torch_is_imported_when_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import sys, reid_index.reranking.rerank_torch; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
    some = np.eye(30, dtype=np.float32)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtra, match="pip install torch"):
        joint_torch(some, some, reranking=Reranking())
