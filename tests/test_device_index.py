"""Indexes on a GPU: what is checked about them, on indexes of Faiss for the CPU; where Faiss has a
GPU, the trials themselves."""

import json
from typing import Any

import faiss
import numpy as np
import pytest
from numpy.typing import NDArray

from reid_index.errors import DeviceFailed, DeviceTooSmall, UsageError
from reid_index.search import device_index
from reid_index.search.device_index import Capabilities, DeviceIndex, capabilities, to_device

GPUS = faiss.get_num_gpus() if hasattr(faiss, "StandardGpuResources") else 0
NONE = Capabilities(0, False, frozenset(), frozenset(), 2048)


def flat(vectors: NDArray[np.float32]) -> Any:
    index = faiss.IndexFlatL2(vectors.shape[1])
    index.add(vectors)
    return index


def ivf(vectors: NDArray[np.float32]) -> Any:
    index = faiss.index_factory(vectors.shape[1], "IVF16,Flat")
    index.train(vectors)
    index.add(vectors)
    return index


def shards(vectors: NDArray[np.float32]) -> Any:
    """Faiss applies a filter to each shard's own numbers: others come back, without a word."""
    index = faiss.IndexShards(vectors.shape[1], False, True)
    for half in np.split(vectors, 2):
        index.add_shard(flat(half))
    return index


class Stray:
    """An index that puts any row where it finds none and, if told, into every tenth answer."""

    def __init__(self, held: Any, *, strays: bool) -> None:
        self.held, self.strays = held, strays

    def search(self, queries: Any, k: int, *, D: Any, I: Any, **options: Any) -> None:  # noqa: E741
        self.held.search(queries, k, D=D, I=I, **options)
        I[I < 0] = 0
        if self.strays:
            I[::10, -1] = 0


class Unfiltered:
    """An index that says that it takes no filter."""

    def __init__(self, held: Any) -> None:
        self.held = held

    def search(self, queries: Any, k: int, *, params: Any, **options: Any) -> None:
        if params.sel is not None:
            raise RuntimeError("Error in search: 'sel' is not supported")
        self.held.search(queries, k, params=params, **options)


def test_the_verdict_on_indexes_that_honour_filters_and_one_that_does_not() -> None:
    vectors = device_index._vectors()
    # An odd half, so that a filter by number means another set of rows in the second shard.
    odd = vectors[:3990]
    assert device_index._verdict(flat(vectors), "flat", vectors) == (True, True)
    assert device_index._verdict(ivf(vectors), "ivf", vectors) == (True, True)
    assert device_index._verdict(shards(odd), "flat", odd) == (True, False)
    strays = Stray(flat(vectors), strays=True)
    assert device_index._verdict(strays, "flat", vectors) == (True, False)
    padded = Stray(flat(vectors), strays=False)
    assert device_index._verdict(padded, "flat", vectors) == (True, True)
    unfiltered = Unfiltered(flat(vectors))
    assert device_index._verdict(unfiltered, "flat", vectors) == (True, False)
    # The right rows, but of other vectors.
    assert device_index._verdict(flat(vectors[::-1].copy()), "flat", vectors) == (False, False)


def test_labels_are_not_believed() -> None:
    labels = np.array([[5, -1, 2, 7, 0], [9, 1, 2**62, -(2**62), 3]])
    allowed = np.array([True, True, False, True, False, True, False, True])
    checked = device_index._checked(labels, rows=8, allowed=allowed)
    np.testing.assert_array_equal(checked, [[5, 7, 0, -1, -1], [1, 3, -1, -1, -1]])
    checked = device_index._checked(labels, rows=8, allowed=None)
    np.testing.assert_array_equal(checked, [[5, 2, 7, 0, -1], [1, 3, -1, -1, -1]])


def test_searching_never_returns_what_is_not_allowed(rng: np.random.Generator) -> None:
    vectors = device_index._vectors()
    allowed = rng.random(len(vectors)) < 0.1
    queries = vectors[:30]
    exact = np.flatnonzero(allowed)[
        ((queries[:, None] - vectors[allowed]) ** 2).sum(axis=2).argsort(axis=1)[:, :12]
    ]
    honest = DeviceIndex(ivf(vectors), "ivf", len(vectors), True, 2048)
    found = honest.search(queries, 12, effort=5000, allowed=allowed)
    np.testing.assert_array_equal(found, exact)
    np.testing.assert_array_equal(honest.search(queries, 1, effort=1)[:, 0], np.arange(30))
    # Believed to honour filters, it does not.
    odd = vectors[:3990]
    false = DeviceIndex(shards(odd), "flat", len(odd), True, 2048)
    found = false.search(queries, 12, effort=1, allowed=allowed[:3990])
    assert (found == -1).any()
    assert allowed[found[found >= 0]].all()


def test_what_is_refused() -> None:
    vectors = device_index._vectors()
    index = DeviceIndex(flat(vectors), "flat", len(vectors), False, 2048)
    with pytest.raises(UsageError, match="flat on this GPU ignores filters"):
        index.search(vectors[:2], 5, effort=1, allowed=np.ones(len(vectors), bool))
    with pytest.raises(UsageError, match="1 to 2,048 rows at once, not 2,049"):
        index.search(vectors[:2], 2049, effort=1)
    with pytest.raises(UsageError, match="ivf does not work on this machine's GPUs"):
        to_device(ivf(vectors), "ivf", able=NONE)
    able = Capabilities(1, False, frozenset({"ivf"}), frozenset(), 2048)
    with pytest.raises(UsageError, match="GPUs 0 to 0, not 1"):
        to_device(ivf(vectors), "ivf", able=able, gpu=1)


@pytest.mark.parametrize(
    ("message", "raised"),
    [
        ("Error in f at a.cu:3\nCUDA error 700 an illegal memory access", DeviceFailed),
        (
            "Error: StandardGpuResources: alloc fail … cudaMalloc error out of memory",
            DeviceTooSmall,
        ),
    ],
)
def test_what_becomes_of_faiss_errors(message: str, raised: type[Exception]) -> None:
    with pytest.raises(raised, match="search on the CPU") as caught, device_index._failures():
        raise RuntimeError(message)
    assert type(caught.value) is raised
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.skipif(GPUS > 0, reason="Faiss sees a GPU")
def test_a_trial_that_dies_or_hangs_passes_nothing() -> None:
    assert device_index._tried("flat", timeout=60) == (False, False)
    assert device_index._tried("flat", timeout=0.001) == (False, False)
    able = capabilities()
    assert (able.gpus, able.searches, able.filters) == (0, frozenset(), frozenset())


@pytest.mark.skipif(GPUS == 0, reason="Faiss sees no GPU")
def test_trials_on_a_gpu() -> None:
    able = capabilities()
    print(json.dumps({"searches": sorted(able.searches), "filters": sorted(able.filters)}))
    assert {"flat", "ivf", "ivf-sq8"} <= able.searches
    assert ("cagra" in able.searches) == able.cuvs
    assert able.filters <= able.searches
    if not able.cuvs:
        assert able.filters == frozenset()
    vectors = device_index._vectors()
    held = to_device(ivf(vectors), "ivf", able=able)
    np.testing.assert_array_equal(held.search(vectors, 1, effort=16)[:, 0], np.arange(len(vectors)))
