"""Building an approximate index: which kind, with which parameters, and how well it searches."""

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UsageError
from ..metric import Metric
from .index import CLASSES, IndexFacts, import_faiss, new_index, write_index
from .index_tuning import MATCHES, Rows, tune

KINDS = ("auto", "flat", *CLASSES)
"""What an index can be asked for as; "flat" is none: every allowed row is compared."""

FLAT_ROWS = 50_000
"""Below, comparing every row takes a few milliseconds, and "auto" builds nothing."""

GRAPH_ROWS = 1_000_000
"""Up to so many rows "auto" takes a graph: it finds most under filters, but two cores need some
0.3 ms for each row of 512 dimensions to build it; cells need a third of that, and less by row."""

LEAST_ROWS = 1_000
"""With fewer there is nothing to train on, and nothing to gain."""

_FETCH = {"ivf": 1, "ivf-sq8": 2, "ivf-pq": 8, "hnsw": 1, "hnsw-sq8": 2}
"""Candidates for each wanted match: coarser codes need more, to be scored again."""

_LINKS = 32
_QUEUE = 80
_TRAINED = 40
"""Rows for each cell that k-means trains on; Faiss advises at least 39."""

_ADDED = 16384
"""Rows widened and added at a time: 32 MiB at 512 dimensions."""


@dataclass(frozen=True, kw_only=True)
class BuiltIndex:
    """An index that was built and not yet written. opened: Faiss's."""

    opened: Any
    facts: IndexFacts

    def write(self, folder: Path) -> None:
        """Write its files into an empty folder."""
        write_index(folder, self.opened, self.facts)

    def about(self, recall: float) -> dict[str, Any]:
        """For the manifest: kind, rows, wanted recall and the recall of the k best that tuning
        reached at each share of allowed rows, where it reached the wanted one."""
        reached: dict[str, dict[str, float]] = {f"at {k}": {} for k in MATCHES}
        for entry in self.facts.tuned:
            if entry.wanted == recall:
                at = reached[f"at {entry.k}"]
                at[f"{entry.share:g}"] = round(entry.effort.recall, 4)
        return {
            "kind": self.facts.kind,
            "rows": self.facts.rows,
            "recall_wanted": recall,
            "recall_reached": reached,
        }


def choose_kind(rows: int, dim: int, *, recall: float, memory: int) -> str:
    """What "auto" builds: "flat" below FLAT_ROWS; else the first of these that holds in `memory`
    bytes: "hnsw-sq8" up to GRAPH_ROWS rows; "ivf-sq8" if the wanted recall is above 0.95, which
    short codes may not reach; "ivf-pq"; or else "flat".

    Vectors at full precision are not copied into an index: scoring the candidates again with the
    gallery's own gives the same recall from a third of the memory, as fast.
    """
    if rows < FLAT_ROWS:
        return "flat"
    preferred = ["hnsw-sq8"] * (rows <= GRAPH_ROWS) + ["ivf-sq8"] * (recall > 0.95) + ["ivf-pq"]
    fitting = [kind for kind in preferred if index_bytes(kind, rows, dim) <= memory]
    return fitting[0] if fitting else "flat"


def index_bytes(kind: str, rows: int, dim: int) -> int:
    """About what an index of that kind takes, in memory while it is built and then on disk."""
    codes = {"sq8": dim, "pq": _codes(dim)}.get(kind.partition("-")[2], 4 * dim)
    if kind.startswith("hnsw"):
        return rows * (codes + 4 * 2 * _LINKS + 16)
    return rows * (codes + 8) + 4 * dim * (_cells(rows) + 256)  # and PQ's 256 centroids


def available_memory() -> int:
    """Half of the memory that is free, or of all where the system does not say: bytes."""
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024 // 2
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def build_index(
    blocks: Sequence[NDArray[np.generic]],
    kind: str,
    *,
    metric: Metric,
    recall: float = 0.95,
    progress: Callable[[int], object] = lambda _rows: None,
) -> BuiltIndex:
    """Train, fill and tune an index of the rows of all blocks, in order.

    blocks: (n, D) float32 or float16 each. kind: one of CLASSES. recall: that efforts are to be
    found for, in (0, 1), beside those always tuned for. progress is told of rows as they are
    added, and of as many again while the index is tuned.

    Raises UsageError for another kind or recall, or fewer than LEAST_ROWS rows; MissingExtra.
    """
    check_request(kind, recall)
    rows = Rows(blocks)
    if kind not in CLASSES or len(rows) < LEAST_ROWS:
        raise UsageError(
            f"an index {kind!r} of {len(rows):,} rows cannot be built: it takes at least "
            f"{LEAST_ROWS:,} and one of the kinds {', '.join(CLASSES)}; without one every row is "
            "compared"
        )
    dim = blocks[0].shape[1]
    parameters = _parameters(kind, len(rows), dim)
    begin = time.perf_counter()
    opened = _filled(kind, rows, dim, metric=metric, parameters=parameters, progress=progress)
    built = time.perf_counter()
    facts = IndexFacts(
        kind=kind,
        rows=len(rows),
        dim=dim,
        metric=metric,
        parameters=parameters,
        tuned=(),
        batch_scan=1.0,
        build_seconds=round(built - begin, 3),
        tune_seconds=0.0,
        versions={"faiss": import_faiss().__version__},
    )
    tuned, batch_scan = tune(
        opened,
        rows,
        metric=metric,
        efforts=_efforts(kind, parameters),
        queues=kind.startswith("hnsw"),
        fetch=_FETCH[kind],
        recalls=[recall],
        progress=progress,
    )
    seconds = round(time.perf_counter() - built, 3)
    facts = replace(facts, tuned=tuned, batch_scan=batch_scan, tune_seconds=seconds)
    return BuiltIndex(opened=opened, facts=facts)


def check_request(kind: str, recall: float) -> None:
    """Raise UsageError unless kind is one of KINDS and recall in (0, 1)."""
    if kind not in KINDS:
        raise UsageError(f"there is no index {kind!r}; there are {', '.join(KINDS)}")
    if not 0 < recall < 1:
        raise UsageError(
            f"a recall of {recall:g} cannot be tuned for: between 0 and 1, please; without an "
            "index every answer is exact"
        )


def _parameters(kind: str, rows: int, dim: int) -> dict[str, int]:
    if kind.startswith("hnsw"):
        return {"links": _LINKS, "queue": _QUEUE}
    cells = {"cells": _cells(rows)}
    return {**cells, "codes": _codes(dim)} if kind == "ivf-pq" else cells


def _cells(rows: int) -> int:
    """About 4·√N, a power of two, and enough rows for each to train on."""
    return max(1, min(1 << round(math.log2(4 * rows**0.5)), rows // _TRAINED))


def _codes(dim: int) -> int:
    """Bytes a row of a product quantiser: one for each 8 dimensions, or the next that divides."""
    return next(codes for codes in range(max(1, dim // 8), 0, -1) if dim % codes == 0)


def _efforts(kind: str, parameters: dict[str, int]) -> list[int]:
    """What is tried: queues, or cells up to half of all, each twice the one before."""
    if kind.startswith("hnsw"):
        return [16, 32, 64, 128, 256, 512, 1024]
    return [2**power for power in range(11) if 2**power <= max(2, parameters["cells"] // 2)]


def _filled(
    kind: str,
    rows: Rows,
    dim: int,
    *,
    metric: Metric,
    parameters: dict[str, int],
    progress: Callable[[int], object],
) -> Any:
    opened = new_index(kind, dim=dim, metric=metric, parameters=parameters)
    if not opened.is_trained:
        want = max(_TRAINED * parameters.get("cells", 1), 20_000)
        rng = np.random.default_rng(0)
        sample = rng.choice(len(rows), min(want, len(rows)), replace=False)
        opened.train(rows.take(np.sort(sample)))
    for piece in rows.pieces(_ADDED):
        opened.add(piece)
        progress(len(piece))
    return opened
