"""Which way to search: the one that is expected to be fastest, by what it costs on this machine."""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple

from ..errors import UsageError
from .costs import Costs

if TYPE_CHECKING:
    from .index import Effort, Index

PATHS = ("scan", "gather", "dense", "index")
"""The ways: the allowed rows where they lie; copied together for products; all rows in order, the
mask looked at only for the best; an approximate index. All but the last are exact."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A way to search.

    path: one of PATHS. scan: whether rows are read where they lie, not multiplied by BLAS.
    expected: path → seconds, of all that would have answered. effort: for the index.
    """

    path: str
    scan: bool
    expected: Mapping[str, float]
    effort: "Effort | None" = None


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is to be searched: `allowed` of `rows` rows of `dim` numbers, with `queries` queries for
    the k best each. half: some rows are float16, which cannot be scanned. indexed: of the allowed
    rows, those that the index holds, if there is one."""

    allowed: int
    rows: int
    dim: int
    queries: int
    k: int
    half: bool
    indexed: int = 0


def choose(
    task: Task,
    costs: Costs,
    *,
    recall: float | None,
    index: "Index | None" = None,
    refused: float | None = None,
    only: str | None = None,
) -> Plan:
    """The fastest way.

    recall: the share of right rows that suffices; None for all of them. index: the one there is.
    refused: the share of answers of the index under this very filter that had to be given again,
    if it is known. only: this path, whatever the others cost; raises UsageError where it cannot
    be taken.
    """
    expected, dense_scans = _exact(task, costs)
    effort = None
    if index is not None and recall is not None and task.indexed:
        effort = index.effort(share=task.indexed / index.rows, recall=recall, k=task.k)
    if index is not None and effort is not None:
        best = min(expected.values())
        expected["index"] = _index(task, costs, effort, refused=refused, exact=best)
    if only is not None:
        if only not in expected:
            raise UsageError(f"path {only!r} cannot answer this; there are {', '.join(expected)}")
        path = only
    else:
        path = min(expected, key=lambda name: expected[name])
    return Plan(
        path=path,
        scan=path == "scan" or (path == "dense" and dense_scans),
        expected=expected,
        effort=effort if path == "index" else None,
    )


def _exact(task: Task, costs: Costs) -> tuple[dict[str, float], bool]:
    """Seconds of the exact ways, and whether the dense one is a scan."""
    size = {"dim": task.dim, "queries": task.queries}
    dense = costs.product(task.rows, **size, listed=False, half=task.half)
    scans = False
    if not task.half:
        scan = costs.scan(task.rows, **size, listed=False)
        dense, scans = min(dense, scan), scan <= dense
    if task.allowed == task.rows:
        return {"dense": dense}, scans
    ways = {"gather": costs.product(task.allowed, **size, listed=True, half=task.half)}
    if not task.half:
        ways["scan"] = costs.scan(task.allowed, **size, listed=True)
    return {**ways, "dense": dense}, scans


def _index(
    task: Task,
    costs: Costs,
    effort: "Effort",
    *,
    refused: float | None,
    exact: float,
) -> float:
    """An index's cost is told in rows that one scan of one query compares meanwhile, those of the
    answers that its tuning expects to be given again included."""
    each = effort.rows_single if task.queries < 4 else effort.rows_batch
    row = costs.scan(1, task.dim, 1, listed=False) - costs.start_scan
    again = 0.0 if refused is None else max(0.0, refused - (1 - effort.accepted)) * exact
    expected = costs.start_scan + row * task.queries * each + again
    late = task.allowed - task.indexed  # added since, compared exactly
    if late:
        expected += costs.product(late, task.dim, task.queries, listed=True, half=task.half)
    return expected


class _Counts(NamedTuple):
    answered: int
    refused: int
    told: int


class Experience:
    """How often answers of the index had to be given again, for each filter, in this process.

    Where a filter goes along with identity, the right rows lie far apart and an index misses them
    query after query; after a few it is not asked any more, for a while: other people may be
    easier. Safe for several threads.
    """

    _ENOUGH = 4
    _FILTERS = 256
    _BELIEVED = 100
    """Times that a share is told before the index gets another chance."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._counts: OrderedDict[int, _Counts] = OrderedDict()

    def note(self, asked: int, *, answered: int, refused: int) -> None:
        """The index answered so many queries of that kind; so many were answered again. asked:
        equal for equal filters, k and recall."""
        with self._lock:
            before = self._counts.pop(asked, _Counts(0, 0, 0))
            self._counts[asked] = _Counts(before.answered + answered, before.refused + refused, 0)
            while len(self._counts) > self._FILTERS:
                self._counts.popitem(last=False)

    def refused(self, asked: int) -> float | None:
        """The share answered again, in 0 … 1; None where too little is known."""
        with self._lock:
            counts = self._counts.get(asked)
            if counts is None or counts.answered < self._ENOUGH:
                return None
            if counts.told == self._BELIEVED:
                del self._counts[asked]
                return None
            self._counts[asked] = counts._replace(told=counts.told + 1)
            return counts.refused / counts.answered
