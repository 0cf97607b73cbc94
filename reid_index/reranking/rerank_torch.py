"""k-reciprocal re-ranking of all queries in one graph, through torch: for a GPU.

The answers are those of `rerank.rerank_joint`, rounding apart, from the same formulas (Zhong et
al., CVPR 2017; docs/reranking.md). Products in single precision only find candidates; what is a
neighbour is decided by distances summed in double precision and rounded once. Encodings are whole
numbers of 2⁻⁴⁰: a GPU adds in any order, and only whole numbers have the same sum in each.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..errors import DimensionMismatch, MissingExtra, NotFiniteError, UsageError

if TYPE_CHECKING:
    import torch

    from .rerank import Reranking

_SLACK = 11
"""Candidates kept beyond the neighbours wanted."""

_STRIDES = 32
"""Of so many distances of a row, only the smallest takes part in the first look."""

_ROOM = 2**26
"""Elements of a temporary tensor, at most: 64 MiB to 512 MiB by type."""

_CACHE = 2**22
"""Elements of one that is written and read many times: 32 MiB, which caches of large GPUs hold."""

_ONE = 2.0**40
"""1 in encodings."""


def joint_torch(
    queries: NDArray[np.floating] | torch.Tensor,
    gallery: NDArray[np.floating] | torch.Tensor,
    *,
    items: NDArray[np.int64] | None = None,
    reranking: Reranking,
    device: str = "cuda",
    rows: int = 2048,
) -> torch.Tensor:
    """Re-ranked distances of all queries (Q, D) to the gallery (G, D): float32 (Q, G), on device.

    Distances are Euclidean; for cosine, hand over rows of length 1. Arrays, or tensors, which are
    best on the device already. items: int64 (G,), the ids by which equal distances are ordered,
    the rows' numbers by default; queries come before them. device: "cuda", "cuda:1", "cpu".
    rows: how many rows of the N × N distances are held at a time, of 4 · N bytes each.

    No setting of torch is changed; where TF32 or less is allowed for float32 products, they are
    made in double precision. Raises DimensionMismatch, NotFiniteError, MissingExtra without torch,
    UsageError for a device that is not there and where k1 or k2 is too large for so few.
    """
    place = _device(device)
    import torch

    with torch.no_grad(), torch.autocast(place.type, enabled=False):
        vectors = _Vectors.of(*(_tensor(part, place).float() for part in (queries, gallery)))
        count, total = vectors.queries, len(vectors.rows)
        reranking.check(total)
        ids = _tensor(np.arange(total - count) if items is None else items, place)
        ranks = ids.argsort(stable=True).argsort() + count
        order = torch.cat([torch.arange(count, device=place), ranks])
        near, farthest = _lists_of_vectors(vectors, order, length=reranking.length, rows=rows)
        return _reranked(vectors, near, farthest, reranking=reranking)


def joint_torch_from_squared(
    squared: NDArray[np.float32] | torch.Tensor,
    *,
    queries: int,
    order: NDArray[np.int64] | torch.Tensor,
    reranking: Reranking,
    device: str = "cuda",
) -> torch.Tensor:
    """The same from squared Euclidean distances (N, N), of which the first nodes are the queries.

    order: (N,), all different; of two nodes equally far the one with the smaller is the nearer
    neighbour. Returns float32 (queries, N - queries) on device. Raises as `joint_torch` does.
    """
    place = _device(device)
    import torch

    with torch.no_grad():
        matrix = _Matrix(_tensor(squared, place).float(), queries)
        reranking.check(len(matrix.squared))
        if not bool(torch.isfinite(matrix.squared).all()):
            raise NotFiniteError("the distances hold NaN or Inf, or are too large for float32")
        ranks = _tensor(order, place).argsort().argsort()
        near, farthest = _lists_of_matrix(matrix.squared, ranks, length=reranking.length)
        return _reranked(matrix, near, farthest, reranking=reranking)


def _device(name: str) -> torch.device:
    try:
        import torch
    except ImportError:
        raise MissingExtra("PyTorch is not installed: pip install torch") from None
    # Others lack double precision (mps) or have never been tried.
    if name.partition(":")[0] not in ("cuda", "cpu"):
        raise UsageError(f"re-ranking through torch runs on 'cuda' or 'cpu', not on {name!r}")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError("torch finds no CUDA device here: use device='cpu', or `rerank_joint`")
    return torch.device(name)


def _tensor(values: NDArray[np.generic] | torch.Tensor, place: torch.device) -> torch.Tensor:
    import torch

    if isinstance(values, torch.Tensor):
        return values.to(place)
    # A copy, as torch warns of sharing an array that may not be written to.
    return torch.tensor(values, device=place)


@dataclass(frozen=True)
class _Matrix:
    """Squared distances that are there already: float32 (N, N)."""

    squared: torch.Tensor
    queries: int

    def pairs(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return self.squared[a, b]

    def block(self, start: int, stop: int) -> torch.Tensor:
        return self.squared[start:stop, self.queries :]


@dataclass(frozen=True)
class _Vectors:
    """Squared distances of vectors, rounded to float32. rows: float32 (N, D), queries first; wide:
    float64 (N, D), the same; norms: float64 (N,), ‖x‖² of each."""

    rows: torch.Tensor
    wide: torch.Tensor
    norms: torch.Tensor
    queries: int

    @classmethod
    def of(cls, queries: torch.Tensor, gallery: torch.Tensor) -> _Vectors:
        import torch

        if queries.ndim != 2 or gallery.ndim != 2 or queries.shape[1] != gallery.shape[1]:
            shapes = f"{tuple(queries.shape)} and {tuple(gallery.shape)}"
            raise DimensionMismatch(f"queries and gallery are (n, D) with one D, got {shapes}")
        rows = torch.cat([queries, gallery])
        wide = rows.double()
        norms = torch.linalg.vector_norm(wide, dim=1).square()
        if not bool((4 * norms < 1e38).all()):
            raise NotFiniteError(
                "a vector holds NaN or Inf, or is so long that squared distances do not fit "
                "float32: scale the vectors down"
            )
        return cls(rows, wide, norms, len(queries))

    def pairs(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """Those of nodes a[i] and b[i]: (n,)."""
        squared = self.rows.new_empty(len(a))
        for start, stop in _pieces(len(a), width=self.wide.shape[1], room=_CACHE):
            difference = self.wide.index_select(0, a[start:stop])
            difference -= self.wide.index_select(0, b[start:stop])
            squared[start:stop] = difference.square_().sum(dim=1)
        return squared

    def block(self, start: int, stop: int) -> torch.Tensor:
        """Those of queries start … stop - 1 to the gallery: (stop - start, G)."""
        own, others = self.norms[start:stop, None], self.norms[self.queries :]
        gallery = self.wide[self.queries :]
        squared = others.addmm(self.wide[start:stop], gallery.T, alpha=-2).add_(own)
        rounded = squared.float()
        # Little is left of ‖x‖² + ‖y‖² − 2·x·y where it is small: 0 would not be 0.
        row, column = (squared <= 2.0**-20 * (own + others)).nonzero(as_tuple=True)
        rounded[row, column] = self.pairs(row + start, column + self.queries)
        return rounded

    def rounding(self) -> torch.Tensor:
        """How far `_Products` may be off for each row and any other, as `neighbours.rounding` has
        it (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., eq. 3.5): (N,)."""
        dim = self.rows.shape[1]
        lengths = self.norms.sqrt()
        bound = (lengths + lengths.max()).square() * ((dim + 8) * 2.0**-24)
        return bound + dim * 2.0**-125


@dataclass(frozen=True)
class _Products:
    """‖y‖² − 2·x·y for rows x and all rows y, from one matrix product.

    columns: (N′, D), the rows and zeros up to a multiple of `_STRIDES`; norms: (N′,), infinite for
    what is not there.
    """

    columns: torch.Tensor
    norms: torch.Tensor

    @classmethod
    def of(cls, vectors: _Vectors) -> _Products:
        from torch.nn.functional import pad

        rows = vectors.rows if _multiplies_in_full() else vectors.wide
        missing = -len(rows) % _STRIDES
        norms = vectors.norms.to(rows.dtype)
        return cls(pad(rows, (0, 0, 0, missing)), pad(norms, (0, missing), value=np.inf))

    def some(self, rows: torch.Tensor | slice) -> torch.Tensor:
        """(n, N′) for those rows."""
        return self.norms.addmm(self.columns[rows], self.columns.T, alpha=-2)


def _multiplies_in_full() -> bool:
    """Whether float32 matrices are multiplied as such, and not in TF32 or bfloat16."""
    import torch

    try:
        return torch.get_float32_matmul_precision() == "highest"
    except RuntimeError:  # Set, for some device, by names that this one does not know.
        return False


def _keys(squared: torch.Tensor, ranks: torch.Tensor) -> torch.Tensor:
    """Distances and, where they are equal, ranks as one int64: the bits of floats that are not
    negative are ordered as they are. -0 becomes 0."""
    import torch

    bits: torch.Tensor = (squared + 0.0).view(torch.int32).long() << 32
    return bits | ranks


def _distance_in(keys: torch.Tensor) -> torch.Tensor:
    import torch

    return (keys >> 32).int().view(torch.float32).double()


def _lists_of_matrix(
    squared: torch.Tensor, order: torch.Tensor, *, length: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Each node's nearest, itself among them, nearest first: int64 (N, length); and the largest
    squared distance of each, float32 (N,). order: 0 … N - 1 for each node."""
    import torch

    found = [
        _keys(squared[start:stop], order).topk(length, dim=1, largest=False).values
        for start, stop in _pieces(len(squared), width=len(squared), room=_ROOM)
    ]
    return order.argsort()[torch.cat(found) & 0xFFFFFFFF], squared.amax(dim=1)


def _lists_of_vectors(
    vectors: _Vectors, order: torch.Tensor, *, length: int, rows: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same from vectors, of which so many rows are compared with all at a time."""
    import torch

    products = _Products.of(vectors)
    total = len(order)
    want = min(length + _SLACK, total)
    allowed = vectors.rounding()
    farthest = vectors.rows.new_zeros(total)
    candidates, worst = [], []
    for start in range(0, total, rows):
        stop = min(start + rows, total)
        values = products.some(slice(start, stop))
        smallest, columns = _smallest(values, want)
        candidates.append(columns)
        worst.append(smallest.amax(dim=1))
        values = values[:, :total]
        # All that can be the farthest, within rounding.
        limit = values.amax(dim=1) - 2 * allowed[start:stop]
        row, far = (values >= limit[:, None].to(values.dtype)).nonzero(as_tuple=True)
        row += start
        farthest.scatter_reduce_(0, row, vectors.pairs(row, far), "amax")
    numbers = torch.arange(total, device=order.device)
    column = torch.cat(candidates).flatten()
    squared = vectors.pairs(numbers.repeat_interleave(want, output_size=len(column)), column)
    every = _keys(squared, order[column]).view(total, want)
    keys = every.topk(length, dim=1, largest=False).values
    if want < total:
        # All that was left out is at least as far as the last candidate.
        limit = torch.cat(worst) + vectors.norms - allowed
        unsettled = (_distance_in(keys[:, -1]) >= limit).nonzero().flatten()
        for some in torch.split(unsettled, rows):
            keys[some] = _settled(vectors, products, order, keys[some], some)
    return order.argsort()[keys & 0xFFFFFFFF], farthest


def _smallest(values: torch.Tensor, want: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The want smallest of each row (n, N′) and their columns, both (n, want), in no order.

    Every value belongs to a group of `_STRIDES`. A group is looked into only if its smallest is
    among the want smallest of those: there are enough at least as small as any other's.
    """
    import torch

    groups = values.shape[1] // _STRIDES
    best = values.view(-1, _STRIDES, groups).amin(dim=1)
    group = best.topk(min(want, groups), dim=1, largest=False, sorted=False).indices
    member = torch.arange(_STRIDES, device=values.device) * groups
    columns = (group[:, :, None] + member).flatten(1)
    smallest, found = values.gather(1, columns).topk(want, dim=1, largest=False, sorted=False)
    return smallest, columns.gather(1, found)


def _settled(
    vectors: _Vectors,
    products: _Products,
    order: torch.Tensor,
    keys: torch.Tensor,
    rows: torch.Tensor,
) -> torch.Tensor:
    """The keys (n, K) of some rows, done again from every row that can belong to them: many lie as
    near as the last, as duplicates do."""
    values = products.some(rows)
    limit = _distance_in(keys[:, -1]) + 2 * vectors.rounding()[rows] - vectors.norms[rows]
    at, column = (values <= limit[:, None].to(values.dtype)).nonzero(as_tuple=True)
    every = keys.new_full((len(rows), len(order)), 2**63 - 1)
    every[at, column] = _keys(vectors.pairs(rows[at], column), order[column])
    return every.topk(keys.shape[1], dim=1, largest=False).values


@dataclass(frozen=True)
class _Codes:
    """A row of values for each of N nodes, most of them absent. row, column, value: int64 (n,),
    sorted by row and column; offsets: int64 (N + 1,), where rows begin."""

    row: torch.Tensor
    column: torch.Tensor
    value: torch.Tensor
    offsets: torch.Tensor


def _offsets(row: torch.Tensor, count: int) -> torch.Tensor:
    import torch

    return torch.searchsorted(row, torch.arange(count + 1, device=row.device))


def _reranked(
    distances: _Matrix | _Vectors,
    near: torch.Tensor,
    farthest: torch.Tensor,
    *,
    reranking: Reranking,
) -> torch.Tensor:
    row, column = _robust_sets(near, reranking.k1)
    codes = _expand(_encode(distances, farthest, row, column), near[:, : reranking.k2])
    out = farthest.new_empty(distances.queries, len(near) - distances.queries)
    for start, stop, overlap in _overlaps(codes, distances.queries):
        shared = overlap.double().div_(_ONE * reranking.k2).clamp_(max=1)
        jaccard = 1 - shared / (2 - shared)
        original = _divided(distances.block(start, stop), farthest[start:stop, None])
        out[start:stop] = (1 - reranking.lambda_) * jaccard + reranking.lambda_ * original
    return out


def _divided(squared: torch.Tensor, farthest: torch.Tensor) -> torch.Tensor:
    """Distances as shares of the largest of their row, float64; 0 where that is 0."""
    return (squared.double() / farthest).where(farthest > 0, 0)


def _robust_sets(near: torch.Tensor, k1: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Every node and each member of its R*(node, k1), sorted, as two int64 tensors (n,)."""
    import torch

    length, half = k1 + 1, round(k1 / 2) + 1
    total = len(near)
    near = near[:, :length]
    whole, small = _reciprocal(near), _reciprocal(near[:, :half])
    # Two numbers that no node has, so that what is absent equals nothing on the other side.
    sets = torch.where(whole, near, -1).int()
    halves = torch.where(small, near[:, :half], total).int()
    sizes = small.sum(dim=1)
    rows, columns = [], []
    for start, stop in _pieces(total, width=length * half * length, room=_ROOM):
        own, theirs = sets[start:stop], halves[near[start:stop]]
        common = (theirs[:, :, :, None] == own[:, None, None, :]).any(dim=3).sum(dim=2)
        taken = (own >= 0) & (3 * common > 2 * sizes[near[start:stop]])
        added = torch.where(taken[:, :, None], theirs, total)
        members = torch.cat([torch.where(own >= 0, own, total), added.flatten(1)], dim=1)
        members = members.sort(dim=1).values
        first = members < total
        first[:, 1:] &= members[:, 1:] != members[:, :-1]
        row, slot = first.nonzero(as_tuple=True)
        rows.append(row + start)
        columns.append(members[row, slot].long())
    return torch.cat(rows), torch.cat(columns)


def _reciprocal(near: torch.Tensor) -> torch.Tensor:
    """Which of each list (N, k) have the list's owner in theirs: bool (N, k)."""
    import torch

    numbers = torch.arange(len(near), device=near.device)[:, None, None]
    return torch.cat(
        [
            (near[near[start:stop]] == numbers[start:stop]).any(dim=2)
            for start, stop in _pieces(len(near), width=near.shape[1] ** 2, room=_ROOM)
        ]
    )


def _encode(
    distances: _Matrix | _Vectors, farthest: torch.Tensor, row: torch.Tensor, column: torch.Tensor
) -> _Codes:
    """V: exp(-d) for the members of R*, scaled to the sum 1 in each row."""
    scaled = _divided(distances.pairs(row, column), farthest[row])
    weight = scaled.neg_().exp_().mul_(_ONE).round_().long()
    total = weight.new_zeros(len(farthest)).index_add_(0, row, weight)
    value = weight.double().div_(total[row]).mul_(_ONE).round_().long()
    return _Codes(row, column, value, _offsets(row, len(farthest)))


def _expand(codes: _Codes, near: torch.Tensor) -> _Codes:
    """k2 times V*: the sum of V over each list (N, k2)."""
    import torch

    total, k2 = near.shape
    if k2 == 1:
        return codes
    lengths = codes.offsets.diff()[near].sum(dim=1)
    ends = [0, *lengths.cumsum(dim=0).tolist()]
    rows, columns, values = [], [], []
    for start, stop in _budgeted(ends, most=total):
        lists = near[start:stop].flatten()
        owner, position = _members(codes.offsets, lists, ends[stop] - ends[start])
        index = torch.stack([owner // k2, codes.column[position]])
        added = torch.sparse_coo_tensor(
            index, codes.value[position], (stop - start, total), check_invariants=False
        ).coalesce()
        rows.append(added.indices()[0] + start)
        columns.append(added.indices()[1])
        values.append(added.values())
    row = torch.cat(rows)
    return _Codes(row, torch.cat(columns), torch.cat(values), _offsets(row, total))


def _members(
    offsets: torch.Tensor, rows: torch.Tensor, total: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """All members of those rows, one after the other: to which of `rows` each belongs, and where
    it is, both (total,)."""
    import torch

    begin = offsets[rows]
    count = offsets[rows + 1] - begin
    numbers = torch.arange(len(rows), device=rows.device)
    owner = numbers.repeat_interleave(count, output_size=total)
    shift = begin - (count.cumsum(dim=0) - count)
    return owner, shift[owner] + torch.arange(total, device=rows.device)


def _overlaps(codes: _Codes, queries: int) -> Iterator[tuple[int, int, torch.Tensor]]:
    """For ranges of queries, start, stop and Σ min(V*(q), V*(g)): int64 (stop - start, G)."""
    import torch

    total = len(codes.offsets) - 1
    gallery = total - queries
    first = int(codes.offsets[queries])
    column, turned = codes.column[first:].sort(stable=True)
    holder, held = codes.row[first:][turned] - queries, codes.value[first:][turned]
    holders = _offsets(column, total)
    counts = holders.diff()[codes.column].cumsum(dim=0)
    # Where each query's members begin, and the pairs that come before.
    begin = codes.offsets[: queries + 1]
    before = torch.cat([counts.new_zeros(1), counts])[begin]
    members, pairs = torch.stack([begin, before]).tolist()
    for start, stop in _budgeted(pairs, most=max(1, _CACHE // max(1, gallery))):
        some = slice(members[start], members[stop])
        owner, position = _members(holders, codes.column[some], pairs[stop] - pairs[start])
        value = torch.minimum(codes.value[some][owner], held[position])
        place = (codes.row[some] - start)[owner] * gallery + holder[position]
        overlap = value.new_zeros((stop - start) * gallery).scatter_add_(0, place, value)
        yield start, stop, overlap.view(stop - start, gallery)


def _pieces(count: int, *, width: int, room: int) -> Iterator[tuple[int, int]]:
    """Ranges that cover 0 … count, each of at most `room` elements, `width` for one, or of one."""
    step = max(1, room // max(1, width))
    for start in range(0, count, step):
        yield start, min(start + step, count)


def _budgeted(ends: list[int], *, most: int) -> Iterator[tuple[int, int]]:
    """Ranges of rows, at most `most`, that need up to `_ROOM / 8` elements together, or of one;
    ends: what the rows before each need, and all."""
    start = 0
    while start < len(ends) - 1:
        fits = bisect_right(ends, ends[start] + _ROOM // 8) - 1
        stop = max(start + 1, min(fits, start + most))
        yield start, stop
        start = stop
