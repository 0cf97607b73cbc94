"""What comparing costs on this machine: measured once, kept with the user's caches, used to choose
between ways that lead to the same answer."""

import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from ..files import write_json
from ..metric import Metric
from ..threads import cores
from .exact import Block, candidates

_ROWS, _DIM = 2**15, 512
"""Of the matrix that is measured: 64 MiB, more than the caches that matter."""

_WORTHWHILE = 2**25
"""Numbers to compare from which a wrong choice costs milliseconds, so that measuring, half a
second once, pays."""


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Seconds: `start_*` for each search; per number of a row (D numbers a row) for reading it;
    `*_query` per number and query for multiplying. See exact.py for scan and product.

    listed: rows of a list, here and there; ordered: one after the other. widened: float16.
    """

    start_scan: float
    scan_listed: float
    scan_ordered: float
    scan_query: float
    start_product: float
    product_listed: float
    product_ordered: float
    product_widened: float
    product_query: float
    machine: str
    measured: str

    def scan(self, rows: int, dim: int, queries: int, *, listed: bool) -> float:
        """Seconds for comparing all queries with float32 rows where they lie."""
        read = self.scan_listed if listed else self.scan_ordered
        return self.start_scan + rows * dim * (read + queries * self.scan_query)

    def product(self, rows: int, dim: int, queries: int, *, listed: bool, half: bool) -> float:
        """Seconds for comparing all queries with rows by products; half: of float16."""
        read = self.product_listed if listed else self.product_ordered
        read = self.product_widened if half else read
        return self.start_product + rows * dim * (read + queries * self.product_query)


def present_costs(numbers: int) -> Costs:
    """The costs of this machine: those kept, or measured now if so many numbers (rows × D) are to
    be compared that it pays; else those of a typical machine. An unusable file is as none."""
    path = costs_file()
    if path not in _known:
        _known[path] = kept_costs()
    kept = _known[path]
    if kept is not None:
        return kept
    if numbers < _WORTHWHILE:
        return _typical()
    with _measuring:  # others may be about to, or have done so meanwhile
        return _known[path] or _measured(path)


def measured_costs() -> Costs:
    """Measure this machine, a second, and keep the result, for other processes too where the
    folder can be written to."""
    with _measuring:
        return _measured(costs_file())


def _measured(path: Path | None) -> Costs:
    costs = _measure()
    _known[path] = costs
    if path is not None:
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, asdict(costs))
    return costs


def costs_file() -> Path | None:
    """Where the costs are kept: reid-index/costs.json in $XDG_CACHE_HOME or ~/.cache; None where
    the user has no home."""
    return _file_below(os.environ.get("XDG_CACHE_HOME"))


@cache
def _file_below(caches: str | None) -> Path | None:
    try:
        folder = Path(caches) if caches else Path.home() / ".cache"
    except RuntimeError:
        return None
    return folder / "reid-index" / "costs.json"


@cache
def this_machine() -> str:
    """What costs depend on: processor, cores that this process may use, the libraries."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = (line.split(":", 1) for line in info.read_text().splitlines() if ":" in line)
        model = next((text.strip() for name, text in lines if name.strip() == "model name"), model)
    libraries = ", ".join(f"{name} {version(name)}" for name in ("numpy", "numba"))
    return f"{model}, {cores()} cores, {libraries}"


_measuring = Lock()
_known: dict[Path | None, Costs | None] = {}
"""What each file held when this process first looked, or what it measured since."""


def kept_costs() -> Costs | None:
    """What the file holds now for this machine; None where it is damaged, another's or missing."""
    path = costs_file()
    if path is None:
        return None
    try:
        costs = Costs(**json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    numbers = [getattr(costs, field.name) for field in fields(Costs) if field.type is float]
    plausible = all(isinstance(one, float) and 0 <= one < 1 for one in numbers)
    return costs if plausible and costs.machine == this_machine() else None


@cache
def _typical() -> Costs:
    """Of two server cores in 2026."""
    return Costs(
        start_scan=2e-5,
        scan_listed=2.0e-10,
        scan_ordered=1.1e-10,
        scan_query=2.5e-11,
        start_product=6e-5,
        product_listed=3.2e-10,
        product_ordered=3.0e-10,
        product_widened=3.0e-10,
        product_query=8e-12,
        machine=this_machine(),
        measured="",
    )


def _measure() -> Costs:
    rng = np.random.default_rng(0)
    piece = rng.random((1024, _DIM), dtype=np.float32)
    single = [Block(np.tile(piece, (_ROWS // len(piece), 1)), float(_DIM))]
    half = [Block(single[0].vectors.astype(np.float16), float(_DIM))]
    some = np.flatnonzero(rng.random(_ROWS) < 0.5)
    few = np.arange(16)

    def search(queries: int, *, blocks: list[Block] = single, **how: Any) -> Callable[[], object]:
        return lambda: candidates(blocks, piece[:queries], 26, metric=Metric.COSINE, **how)

    fastest = _fastest(
        {
            "scan, few rows": search(1, scan=True, rows=few),
            "scan": search(1, scan=True),
            "scan, 8 queries": search(8, scan=True),
            "scan, listed": search(1, scan=True, rows=some),
            "product, few rows": search(1, scan=False, rows=few),
            "product, 8 queries": search(8, scan=False),
            "product, 64 queries": search(64, scan=False),
            "product, listed": search(8, scan=False, rows=some),
            "product, widened": search(8, scan=False, blocks=half),
        }
    )
    numbers, listed = _ROWS * _DIM, len(some) * _DIM
    scan_query = _slope(fastest["scan"], fastest["scan, 8 queries"], 7 * numbers)
    product_query = _slope(
        fastest["product, 8 queries"], fastest["product, 64 queries"], 56 * numbers
    )
    return Costs(
        start_scan=fastest["scan, few rows"],
        scan_listed=max(fastest["scan, listed"] / listed - scan_query, 0),
        scan_ordered=max(fastest["scan"] / numbers - scan_query, 0),
        scan_query=scan_query,
        start_product=fastest["product, few rows"],
        product_listed=max(fastest["product, listed"] / listed - 8 * product_query, 0),
        product_ordered=max(fastest["product, 8 queries"] / numbers - 8 * product_query, 0),
        product_widened=max(fastest["product, widened"] / numbers - 8 * product_query, 0),
        product_query=product_query,
        machine=this_machine(),
        measured=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _slope(less: float, more: float, count: int) -> float:
    return max(more - less, 0) / count


def _fastest(searches: Mapping[str, Callable[[], object]], rounds: int = 7) -> dict[str, float]:
    """The shortest time of each: what others do on the machine meanwhile only lengthens times.
    All in turn, so that it lengthens those of no one search alone."""
    for search in searches.values():
        search()
    times: dict[str, list[float]] = {name: [] for name in searches}
    for _ in range(rounds):
        for name, search in searches.items():
            start = time.perf_counter()
            search()
            times[name].append(time.perf_counter() - start)
    return {name: min(taken) for name, taken in times.items()}
