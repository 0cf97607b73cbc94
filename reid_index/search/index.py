"""Approximate indexes over a gallery's first rows, opened and searched. The only file that imports
Faiss.

index.faiss    the index, mapped in place
index.json     what it is, and how much effort which search needs, measured when it was built
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import CorruptGallery, MissingExtra
from ..metric import Metric
from ..reading import number, read_json, text, whole
from ..threads import over_ranges

CLASSES = {
    "ivf": "IndexIVFFlat",
    "ivf-sq8": "IndexIVFScalarQuantizer",
    "ivf-pq": "IndexIVFPQ",
    "hnsw": "IndexHNSWFlat",
    "hnsw-sq8": "IndexHNSWSQ",
}
"""The kinds of indexes, and the class of Faiss that each is."""

_SLACK = 16
"""Neighbours that `approximate_neighbours` finds beyond k, itself among them."""

_PIECE = 8
"""Queries that a thread searches at a time."""

_LOOKED_AT = 16
"""Rows of an index that are compared with the gallery's when it is opened."""

_EFFORT = 2**20
"""An effort in `index.json` is at most so large, or as the index has rows: Faiss makes room for as
many candidates."""

_LARGEST_JSON = 2**24

_CHUNK = 65536
"""Rows that are handed to Faiss at a time: 128 MiB at 512 dimensions."""


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How to search an index so that trusted answers have the wanted recall, and what that costs.

    value: cells visited (IVF) or length of the candidate queue (HNSW). probe: the smaller effort
    of a second search of the same query. fetch: candidates to ask for per wanted match; they are
    to be scored again exactly.
    agreement: in [0, 1]; an answer is trusted when the probe found at least this share of its k
    best and it is not short. Others are to be answered by exact comparison.
    rows_single, rows_batch: the cost of one query alone, and of one among 32, the probe, scoring
    the candidates and the expected exact answers included, as the number of rows that the exact
    scan of one query compares in that time. recall: mean of the trusted answers, accepted: how
    many of all were trusted, both in [0, 1] and found by tuning with filters applied.
    """

    value: int
    probe: int
    fetch: int
    agreement: float
    rows_single: float
    rows_batch: float
    recall: float
    accepted: float


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """An effort and what it was tuned for: the share of rows allowed, matches, wanted recall.

    The rows that its effort costs are those of the two searches and of scoring what they found.
    """

    share: float
    k: int
    wanted: float
    effort: Effort


@dataclass(frozen=True, kw_only=True)
class IndexFacts:
    """What `index.json` says.

    rows, dim, metric: what was indexed: the gallery's first rows. parameters: of the kind, by
    name. tuned: the table of efforts. batch_scan: what comparing a row with one of 32 queries at
    once takes, by products, as a share of scanning it for one alone. build_seconds, tune_seconds:
    what making it took. versions: of the programs that made it.
    """

    kind: str
    rows: int
    dim: int
    metric: Metric
    parameters: Mapping[str, int]
    tuned: tuple[Tuned, ...]
    batch_scan: float
    build_seconds: float
    tune_seconds: float
    versions: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """As `index.json` has it."""
        return {**asdict(self), "metric": str(self.metric)}

    @classmethod
    def from_json(cls, data: Any) -> "IndexFacts":
        """Raises LookupError, TypeError, ValueError where it is not such a record."""
        return cls(
            kind=text(data["kind"], name="kind"),
            rows=whole(data["rows"], name="rows"),
            dim=whole(data["dim"], name="dim"),
            metric=Metric(data["metric"]),
            parameters={
                name: whole(value, name=name) for name, value in dict(data["parameters"]).items()
            },
            tuned=tuple(_tuned_from_json(entry, rows=data["rows"]) for entry in data["tuned"]),
            batch_scan=number(data["batch_scan"], name="batch_scan", least=0),
            build_seconds=number(data["build_seconds"], name="build_seconds", least=0),
            tune_seconds=number(data["tune_seconds"], name="tune_seconds", least=0),
            versions={str(name): str(value) for name, value in dict(data["versions"]).items()},
        )


def _tuned_from_json(data: Any, *, rows: int) -> Tuned:
    effort = data["effort"]
    most = max(rows, _EFFORT)

    def count(of: Any, name: str) -> int:
        return whole(of[name], name=name, least=1, most=most)

    def share(of: Any, name: str) -> float:
        return number(of[name], name=name, least=0, most=1)

    entry = Tuned(
        share=share(data, "share"),
        k=count(data, "k"),
        wanted=share(data, "wanted"),
        effort=Effort(
            value=count(effort, "value"),
            probe=count(effort, "probe"),
            fetch=count(effort, "fetch"),
            agreement=share(effort, "agreement"),
            rows_single=number(effort["rows_single"], name="rows_single", least=0),
            rows_batch=number(effort["rows_batch"], name="rows_batch", least=0),
            recall=share(effort, "recall"),
            accepted=share(effort, "accepted"),
        ),
    )
    whole(entry.k * entry.effort.fetch, name="k times fetch", most=most)
    return entry


class Index:
    """An opened index over the first `rows` rows of a gallery. Any number of threads may use it."""

    def __init__(self, facts: IndexFacts, opened: Any) -> None:
        """opened: Faiss's index, which is only read from now on."""
        self.facts = facts
        self.opened = opened

    @property
    def rows(self) -> int:
        """It covers so many rows, the gallery's first."""
        return self.facts.rows

    @property
    def kind(self) -> str:
        """One of CLASSES."""
        return self.facts.kind

    def effort(self, *, share: float, recall: float, k: int) -> Effort | None:
        """The cheapest effort that tuning found good enough, or None where it found none.

        share: of this index's rows that are allowed, in (0, 1]. The figures are those of the next
        smaller share that was tuned, which is harder, and of at least that recall and k; there is
        none where tuning found none for that share.
        """
        shares = (entry.share for entry in self.facts.tuned if entry.share <= share)
        nearest = max(shares, default=0.0)
        efforts = [
            self._asked(entry, share, k)
            for entry in self.facts.tuned
            if entry.share == nearest and entry.wanted >= recall and entry.k >= k
        ]
        return min(efforts, key=lambda effort: effort.rows_single, default=None)

    def _asked(self, entry: Tuned, share: float, k: int) -> Effort:
        """As many candidates as when it was tuned, for k matches, and the cost of answering those
        that are not trusted exactly added."""
        effort = entry.effort
        exact = (1 - effort.accepted) * share * self.rows
        return replace(
            effort,
            fetch=-(-effort.fetch * entry.k // k),
            rows_single=effort.rows_single + exact,
            rows_batch=effort.rows_batch + exact * self.facts.batch_scan,
        )

    def search(
        self,
        queries: NDArray[np.float32],
        want: int,
        *,
        effort: int,
        allowed: NDArray[np.bool_] | None = None,
    ) -> NDArray[np.int64]:
        """Up to `want` rows near each query, best first by the index's own score: int64 (Q, want),
        −1 where none was found.

        queries: float32 (Q, D), finite. effort: see Effort.value. allowed: bool (rows,), or None
        for all rows. Raises CorruptGallery where the index names rows that it has not.
        """
        found = search_faiss(self.opened, queries, want, effort=effort, allowed=allowed)
        if found.size and not -1 <= found.min() <= found.max() < self.rows:
            raise CorruptGallery(
                f"the {self.kind} index names rows that are not there; `reid index` makes it again"
            )
        return found


def search_faiss(
    opened: Any,
    queries: NDArray[np.float32],
    want: int,
    *,
    effort: int,
    allowed: NDArray[np.bool_] | None,
) -> NDArray[np.int64]:
    """`Index.search` with an index of Faiss, whose kind is one of CLASSES.

    Raises ValueError where `allowed` is of another length than the index.
    """
    faiss = import_faiss()
    bits = selector = None  # Faiss keeps pointers to both until it has searched
    if allowed is not None:
        if allowed.shape != (opened.ntotal,):
            raise ValueError(f"a mask of {len(allowed)} rows for an index of {opened.ntotal}")
        bits = np.packbits(allowed, bitorder="little")
        selector = faiss.IDSelectorBitmap(bits)
    # Only the parameters of an index's own class are honoured, selector included.
    if hasattr(opened, "hnsw"):
        parameters = faiss.SearchParametersHNSW(efSearch=effort, sel=selector)
    else:
        parameters = faiss.SearchParametersIVF(nprobe=effort, sel=selector)
    queries = np.ascontiguousarray(queries, np.float32)

    def search(start: int, stop: int) -> NDArray[np.int64]:
        with _one_thread(faiss):
            rows: NDArray[np.int64] = opened.search(queries[start:stop], want, params=parameters)[1]
        return rows

    return np.concatenate(over_ranges(search, len(queries), piece=_PIECE))


@contextmanager
def _one_thread(faiss: Any) -> Iterator[None]:
    """Faiss takes no threads but the caller's meanwhile: those of OpenMP wait for each other by
    spinning, which takes many times as long on a busy machine. The setting is the caller's own."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def write_index(folder: Path, opened: Any, facts: IndexFacts) -> None:
    """Write the two files into a folder; for `write_folder`, which syncs them."""
    from ..files import create, json_bytes, write_file

    faiss = import_faiss()
    with create(folder / "index.faiss", sync=False) as file:
        faiss.write_index(opened, faiss.PyCallbackIOWriter(file.write))
    write_file(folder / "index.json", json_bytes(facts.to_json()), sync=False)


def open_index(
    folder: Path,
    *,
    rows: int,
    dim: int,
    metric: Metric,
    take: Callable[[NDArray[np.int64]], NDArray[np.float32]],
) -> Index:
    """Open the index of a gallery's first so many rows, mapped.

    take: the gallery's vectors in some rows, which ascend: float32 (n, D). Some rows of the index
    are compared with them. Raises CorruptGallery where it cannot be read or is one of other rows,
    MissingExtra.
    """
    faiss = import_faiss()
    path = folder / "index.json"
    try:
        facts = IndexFacts.from_json(read_json(path, most=_LARGEST_JSON))
        path = folder / "index.faiss"
        opened = _map(path, facts.kind)
        found = (opened.ntotal, opened.d, opened.metric_type)
        expected = (rows, dim, faiss_metric(metric))
        if found != expected or (facts.rows, facts.dim, facts.metric) != (rows, dim, metric):
            raise ValueError(
                f"it is one of {facts.rows:,} rows of {facts.dim} dimensions by {facts.metric}, "
                f"not of {rows:,} of {dim} by {metric}"
            )
        _check_rows(opened, take)
    except (OSError, LookupError, TypeError, ValueError, RuntimeError, MemoryError) as error:
        reason = str(error).partition("Error: ")[2] or str(error) or type(error).__name__
        raise CorruptGallery(
            f"{path}: the index cannot be used ({reason}); `reid index` makes it again"
        ) from None
    if hasattr(opened, "hnsw"):
        opened.hnsw.search_bounded_queue = True  # without it Faiss 1.15 ignores selectors
    else:
        # Up to 32 threads for each search, to read ahead from disks: they cost more than they give.
        faiss.downcast_InvertedLists(opened.invlists).prefetch_nthread = 0
    return Index(facts, opened)


def _map(path: Path, kind: str) -> Any:
    """Faiss's index in a file, not copied but mapped. Raises ValueError, RuntimeError."""
    faiss = import_faiss()
    if kind not in CLASSES:
        raise ValueError(f"there is no kind {kind!r}; there are {', '.join(CLASSES)}")
    flag = faiss.IO_FLAG_MMAP_IFC if kind.startswith("hnsw") else faiss.IO_FLAG_MMAP
    opened = faiss.read_index(str(path), flag)
    if type(opened).__name__ != CLASSES[kind]:
        raise ValueError(f"it holds {type(opened).__name__}, not {CLASSES[kind]}")
    return opened


def _check_rows(opened: Any, take: Callable[[NDArray[np.int64]], NDArray[np.float32]]) -> None:
    """Raise ValueError unless some rows, spread over the index, are the gallery's.

    What an index holds of a row must be as near its vector as the code that the index would give
    that vector: codes differ in nothing but ties, however coarse they are.
    """
    faiss = import_faiss()
    with _one_thread(faiss):
        found = _held_by_graph if hasattr(opened, "hnsw") else _held_by_cells
        rows, held, encode = found(opened)
        if not 0 <= rows.min() <= rows.max() < opened.ntotal:
            raise ValueError("it numbers rows that are not there")
        order = np.argsort(rows)
        vectors = np.empty_like(held)
        vectors[order] = take(rows[order])
        off = np.linalg.norm(held - vectors, axis=1)
        best = np.linalg.norm(encode(vectors) - vectors, axis=1)
        room = 1e-6 * np.linalg.norm(vectors, axis=1)
    wrong = rows[~(off <= 1.01 * best + room)]
    if len(wrong):
        raise ValueError(f"it does not belong to its shard: row {wrong[0]} is another vector there")


_Held = tuple[
    NDArray[np.int64], NDArray[np.float32], Callable[[NDArray[np.float32]], NDArray[np.float32]]
]
"""Some rows of an index, what it holds of them, and what it would hold of given vectors instead."""


def _held_by_graph(opened: Any) -> _Held:
    store = import_faiss().downcast_index(opened.storage)
    rows = np.unique(np.linspace(0, opened.ntotal - 1, _LOOKED_AT).astype(np.int64))
    held = np.stack([store.reconstruct(int(row)) for row in rows])
    return rows, held, lambda vectors: store.sa_decode(store.sa_encode(vectors))


def _held_by_cells(opened: Any) -> _Held:
    """One row of each of some cells: to find a given row would take a look at all cells."""
    faiss = import_faiss()
    lists = opened.invlists
    cells, rows, held = [], [], []
    for cell in np.random.default_rng(0).permutation(opened.nlist).tolist():
        size = lists.list_size(cell)
        if size:
            place = size // 2
            cells.append(cell)
            rows.append(lists.get_single_id(cell, place))
            held.append(np.empty(opened.d, np.float32))
            opened.reconstruct_from_offset(cell, place, faiss.swig_ptr(held[-1]))
        if len(cells) == _LOOKED_AT:
            break
    numbers = np.array(cells, np.int64)

    def encode(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        codes = np.empty((len(vectors), opened.code_size), np.uint8)
        decoded = np.empty_like(vectors)
        count, there = len(vectors), faiss.swig_ptr(numbers)
        opened.encode_vectors(count, faiss.swig_ptr(vectors), there, faiss.swig_ptr(codes))
        opened.decode_vectors(count, faiss.swig_ptr(codes), there, faiss.swig_ptr(decoded))
        return decoded

    return np.array(rows, np.int64), np.array(held, np.float32), encode


def faiss_metric(metric: Metric) -> int:
    """Faiss's number for it: squared distances or inner products."""
    faiss = import_faiss()
    euclidean = metric is Metric.EUCLIDEAN
    return int(faiss.METRIC_L2 if euclidean else faiss.METRIC_INNER_PRODUCT)


def new_index(kind: str, *, dim: int, metric: Metric, parameters: Mapping[str, int]) -> Any:
    """An empty index of Faiss of that kind.

    parameters: cells (IVF), codes (PQ: bytes a row), links and queue (HNSW: half the links of a
    row, and the length of the candidate queue while building). Cells of inner products are found
    by spherical k-means.
    """
    faiss = import_faiss()
    kind_of_score = faiss_metric(metric)
    eight_bits = faiss.ScalarQuantizer.QT_8bit
    if kind.startswith("hnsw"):
        links = parameters["links"]
        if kind == "hnsw":
            index = faiss.IndexHNSWFlat(dim, links, kind_of_score)
        else:
            index = faiss.IndexHNSWSQ(dim, eight_bits, links, kind_of_score)
        index.hnsw.efConstruction = parameters["queue"]
        return index
    cells = parameters["cells"]
    coarse = faiss.IndexFlat(dim, kind_of_score)
    if kind == "ivf":
        index = faiss.IndexIVFFlat(coarse, dim, cells, kind_of_score)
    elif kind == "ivf-sq8":
        index = faiss.IndexIVFScalarQuantizer(coarse, dim, cells, eight_bits, kind_of_score)
    else:
        index = faiss.IndexIVFPQ(coarse, dim, cells, parameters["codes"], 8, kind_of_score)
        index.pq.cp.min_points_per_centroid = 1  # it would print a warning
    index.cp.min_points_per_centroid = 1
    index.cp.spherical = metric is not Metric.EUCLIDEAN
    return index


def approximate_neighbours(
    vectors: NDArray[np.float32], k: int
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """For every row of vectors (N, D) k + 16 rows that are near it by Euclidean distance, itself
    among them, as an inverted file finds them, and one that is far: int32 (N, k + 16), (N,).

    Of 4·√N cells, fewer in small sets, the 32 nearest are looked into; a row that finds too few
    there gets its list from rows next to it in number, whose exact distances will tell. The far
    one is the farthest of some 4,096 rows at even steps.
    """
    faiss = import_faiss()
    rows, dim = vectors.shape
    cells = max(1, min(int(4 * rows**0.5), rows // 40))  # fewer rows a cell train it badly
    index = faiss.index_factory(dim, f"IVF{cells},Flat")
    step = max(1, rows // (64 * cells))
    index.train(np.ascontiguousarray(vectors[::step]))
    index.nprobe = min(32, cells)
    want = min(k + _SLACK, rows)
    near = np.empty((rows, want), np.int32)
    far = np.empty(rows, np.int32)
    sample = np.arange(0, rows, max(1, rows // 4096))
    some = np.ascontiguousarray(vectors[sample])
    norms = np.einsum("nd,nd->n", some, some)
    for start in range(0, rows, _CHUNK):
        index.add(np.ascontiguousarray(vectors[start : start + _CHUNK]))
    for start in range(0, rows, 4096):
        piece = np.ascontiguousarray(vectors[start : start + 4096])
        _, found = index.search(piece, want)
        near[start : start + len(piece)] = found
        far[start : start + len(piece)] = sample[(norms - 2 * (piece @ some.T)).argmax(axis=1)]
    for row in np.flatnonzero((near < 0).any(axis=1)):
        known = near[row][near[row] >= 0]
        others = np.setdiff1d((row + np.arange(2 * want)) % rows, known)
        near[row] = np.concatenate([known, others])[:want]
    return near, far


def import_faiss() -> Any:
    """The faiss module. Raises MissingExtra with the pip command where there is none."""
    try:
        import faiss
    except ImportError:
        raise MissingExtra(
            "Faiss is not installed: pip install 'reid-index[cpu]', or [gpu] on a CUDA machine"
        ) from None
    return faiss
