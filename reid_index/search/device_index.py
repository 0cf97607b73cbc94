"""Approximate indexes of Faiss on a GPU, and what the Faiss installed here can do with them.

Most builds of Faiss for GPUs take a filter and ignore it without a word, and some ways of asking
crash the process. So nothing is believed here: each kind of index is tried in a process of its own,
with and without a filter, and every row that a search returns is checked again. Written from
Faiss's sources and documentation and never yet run on a GPU; the tests run its checks on Faiss's
indexes for the CPU.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DeviceFailed, DeviceTooSmall, UsageError
from ..metric import Metric
from .index import faiss_metric, import_faiss

KINDS = ("flat", "ivf", "ivf-sq8", "cagra")
"""The kinds of indexes that are tried on a GPU."""

_MOST, _MOST_CUVS = 2048, 16384
"""Matches and cells that a GPU index takes at most, in Faiss's own kernels and in cuVS's."""

_GOOD = 0.9
"""The share of the right rows that an index must find in the trial."""


@dataclass(frozen=True)
class Capabilities:
    """What Faiss can do on this machine's GPUs.

    gpus: how many it sees. cuvs: whether it was built with NVIDIA cuVS. searches: the kinds that
    found the right rows in the trial; filters: those that did so under a filter, too. most: matches
    that can be asked for at once.
    """

    gpus: int
    cuvs: bool
    searches: frozenset[str]
    filters: frozenset[str]
    most: int


def capabilities(*, timeout: float = 120) -> Capabilities:
    """Tries every kind, each in a process of its own that may take `timeout` seconds.

    Takes some seconds where there is a GPU: keep the answer. Raises MissingExtra without Faiss.
    """
    faiss = import_faiss()
    cuvs = "NVIDIA_CUVS" in faiss.get_compile_options()
    gpus = int(faiss.get_num_gpus()) if hasattr(faiss, "StandardGpuResources") else 0
    verdicts = {kind: _tried(kind, timeout=timeout) for kind in KINDS if gpus}
    return Capabilities(
        gpus=gpus,
        cuvs=cuvs,
        searches=frozenset(kind for kind, (searches, _) in verdicts.items() if searches),
        filters=frozenset(kind for kind, (_, filters) in verdicts.items() if filters),
        most=_MOST_CUVS if cuvs else _MOST,
    )


@dataclass(frozen=True)
class DeviceIndex:
    """An index on a GPU over the first `rows` rows of a gallery; searched by one thread at a time.

    held: Faiss's index; kept: what it needs alive. filters: whether it was seen to honour a filter.
    """

    held: Any
    kind: str
    rows: int
    filters: bool
    most: int
    kept: tuple[Any, ...] = ()

    def search(
        self,
        queries: NDArray[np.float32],
        want: int,
        *,
        effort: int,
        allowed: NDArray[np.bool_] | None = None,
    ) -> NDArray[np.int64]:
        """Up to `want` rows near each query, best first by the index's own score: int64 (Q, want),
        −1 where none was found; never one that is not allowed.

        queries: float32 (Q, D), finite. effort: cells visited (IVF), candidates kept (CAGRA).
        allowed: bool (rows,), or None for all. Raises UsageError for a filter where none is
        honoured and for want over `most`; DeviceFailed, DeviceTooSmall.
        """
        if allowed is not None and not self.filters:
            raise UsageError(f"{self.kind} on this GPU ignores filters: search on the CPU")
        if not 1 <= want <= self.most:
            raise UsageError(f"a GPU index finds 1 to {self.most:,} rows at once, not {want:,}")
        with _failures():
            labels = _search(
                self.held, self.kind, queries, want, effort=min(effort, self.most), allowed=allowed
            )
        return _checked(labels, rows=self.rows, allowed=allowed)


def to_device(opened: Any, kind: str, *, able: Capabilities, gpu: int = 0) -> DeviceIndex:
    """Copies Faiss's index of a gallery, of kind "ivf" or "ivf-sq8", to a GPU.

    Raises UsageError for a kind that did not pass the trial, DeviceFailed, DeviceTooSmall.
    """
    _check(kind, able, gpu)
    faiss = import_faiss()
    with _failures():
        resources = faiss.StandardGpuResources()
        held = faiss.index_cpu_to_gpu(resources, gpu, opened)
    return DeviceIndex(
        held, kind, int(opened.ntotal), kind in able.filters, able.most, kept=(resources,)
    )


def build_cagra(
    vectors: NDArray[np.float32], *, metric: Metric, able: Capabilities, gpu: int = 0
) -> DeviceIndex:
    """A CAGRA graph of all rows (N, D), built on the GPU from them. Raises as `to_device` does."""
    _check("cagra", able, gpu)
    with _failures():
        resources, held = _cagra(vectors, metric=metric, gpu=gpu)
    kept = (resources, vectors)
    return DeviceIndex(held, "cagra", len(vectors), "cagra" in able.filters, able.most, kept)


def _check(kind: str, able: Capabilities, gpu: int) -> None:
    if kind not in able.searches:
        raise UsageError(f"{kind} does not work on this machine's GPUs: search on the CPU")
    if not 0 <= gpu < able.gpus:
        raise UsageError(f"Faiss sees GPUs 0 to {able.gpus - 1}, not {gpu}")


def _cagra(vectors: NDArray[np.float32], *, metric: Metric, gpu: int) -> tuple[Any, Any]:
    faiss = import_faiss()
    resources, config = faiss.StandardGpuResources(), faiss.GpuIndexCagraConfig()
    config.device = gpu
    held = faiss.GpuIndexCagra(resources, vectors.shape[1], faiss_metric(metric), config)
    held.train(np.ascontiguousarray(vectors, np.float32))
    return resources, held


def _search(
    held: Any,
    kind: str,
    queries: NDArray[np.float32],
    want: int,
    *,
    effort: int,
    allowed: NDArray[np.bool_] | None,
) -> NDArray[np.int64]:
    """The labels as Faiss gives them, untrusted: int64 (Q, want)."""
    faiss = import_faiss()
    bits = selector = None  # Faiss keeps pointers to both until it has searched
    if allowed is not None:
        bits = np.packbits(allowed, bitorder="little")
        selector = faiss.IDSelectorBitmap(bits)
    # Any other class than the index's own is ignored, or, by CAGRA, takes the process down.
    if kind == "flat":
        parameters = faiss.SearchParameters(sel=selector)
    elif kind == "cagra":
        # With one random start clustered vectors, as persons' are, lose a third of the answers.
        parameters = faiss.SearchParametersCagra(
            itopk_size=max(effort, want), num_random_samplings=8, sel=selector
        )
    else:
        parameters = faiss.SearchParametersIVF(nprobe=min(effort, held.nlist), sel=selector)
    # cuVS may leave slots as they were where it finds fewer rows.
    labels = np.full((len(queries), want), -1, np.int64)
    scores = np.empty(labels.shape, np.float32)
    queries = np.ascontiguousarray(queries, np.float32)
    held.search(queries, want, params=parameters, D=scores, I=labels)
    return labels


def _checked(
    labels: NDArray[np.int64], *, rows: int, allowed: NDArray[np.bool_] | None
) -> NDArray[np.int64]:
    """Labels that are rows, and allowed, in their order, and −1 for each of the others after."""
    good = (labels >= 0) & (labels < rows)
    if allowed is not None:
        good[good] = allowed[labels[good]]
    order = np.argsort(~good, axis=1, kind="stable")
    sorted_labels = np.take_along_axis(np.where(good, labels, -1), order, axis=1)
    return np.asarray(sorted_labels)


def _tried(kind: str, *, timeout: float) -> tuple[bool, bool]:
    """Whether a kind searches, and honours a filter; neither where its process dies."""
    program = (
        "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
        "from reid_index.search.device_index import _trial; print(json.dumps(_trial(sys.argv[2])))"
    )
    words = [sys.executable, "-c", program, json.dumps(sys.path), kind]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        return False, False
    if done.returncode:
        return False, False
    searches, filters = json.loads(done.stdout.splitlines()[-1])
    return bool(searches), bool(filters)


def _trial(kind: str) -> tuple[bool, bool]:
    """The verdict on an index of that kind, made on the first GPU."""
    faiss = import_faiss()
    vectors = _vectors()
    dim = vectors.shape[1]
    resources = faiss.StandardGpuResources()
    if kind == "cagra":
        resources, held = _cagra(vectors, metric=Metric.EUCLIDEAN, gpu=0)
    elif kind == "flat":
        held = faiss.GpuIndexFlatL2(resources, dim)
        held.add(vectors)
    else:
        index = faiss.index_factory(dim, "IVF16,Flat" if kind == "ivf" else "IVF16,SQ8")
        index.train(vectors)
        index.add(vectors)
        held = faiss.index_cpu_to_gpu(resources, 0, index)
    return _verdict(held, kind, vectors)


def _vectors() -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal((4000, 32), dtype=np.float32)


def _verdict(held: Any, kind: str, vectors: NDArray[np.float32]) -> tuple[bool, bool]:
    """Whether an index of those vectors (N, D) by Euclidean distance finds the right rows; and
    whether it does so, and returns no other, under filters: half of the rows, a tenth, and three.
    Those are fewer than are asked for: what then fills the other places is not looked at."""
    queries = vectors[:40] + 0.01
    squared = (vectors**2).sum(axis=1) - 2 * queries @ vectors.T
    numbers = np.arange(len(vectors))
    masks = [None, numbers % 2 == 1, numbers % 10 == 7, (numbers > 6) & (numbers < 10)]
    passed = []
    for allowed in masks:
        try:
            labels = _search(held, kind, queries, 10, effort=128, allowed=allowed)
        except RuntimeError:  # a kind that says so does not take filters, but may search
            passed.append(False)
            continue
        outside = (labels >= len(vectors)) | (labels < -1)
        costs = squared
        if allowed is not None:
            outside |= ~allowed[np.clip(labels, 0, len(vectors) - 1)] & (labels >= 0)
            costs = np.where(allowed, squared, np.inf)
        right = min(10, len(vectors) if allowed is None else int(allowed.sum()))
        best = np.argsort(costs, axis=1)[:, :right]
        found = sum(len(np.intersect1d(*pair)) for pair in zip(best, labels, strict=True))
        strays = right == 10 and outside.any()
        passed.append(not strays and found >= _GOOD * best.size)
    return passed[0], all(passed)


@contextmanager
def _failures() -> Iterator[None]:
    """Faiss's errors on a GPU, as this project's."""
    try:
        yield
    except RuntimeError as error:
        line = (str(error).splitlines() or ["no reason given"])[-1]
        kind = DeviceTooSmall if "out of memory" in str(error).lower() else DeviceFailed
        raise kind(f"the GPU index failed, search on the CPU: {line}") from None
