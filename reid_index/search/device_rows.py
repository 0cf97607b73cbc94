"""The rows of a gallery on one or several GPUs, and the best of those that a filter allows.

The matrix lies on the devices for as long as it is searched, in float32 or float16. Allowed rows
are gathered there and multiplied, or all are multiplied and the others masked; the error of keys is
bounded, so the caller can tell when a better row may have been missed (`knn.py` does, and scores
what it returns again). Runs on torch's CPU device too, which is what the tests use.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import (
    DeviceFailed,
    DeviceTooSmall,
    DimensionMismatch,
    MissingExtra,
    NotFiniteError,
    UsageError,
)
from ..filters.allowed import Allowed
from ..metric import Metric
from .device_part import (
    Part,
    Queries,
    best,
    every,
    exactly,
    free_memory,
    load_part,
    multiplies_halves,
)
from .exact import Candidates

if TYPE_CHECKING:
    import torch

    from .exact import Block

Way = Literal["gather", "dense"]
Precision = Literal["float32", "float16"]

_WORK = 2**31
"""Bytes beside the rows that a search uses at most on each device: 2 GiB."""

_LEAST_WORK = 2**22
"""Bytes beside the rows without which no search is begun: 4 MiB."""

_TILE = 1024
"""Queries that are compared at once, at most."""

_LARGEST_HALF = 65504.0
"""The largest float16."""

_KEPT = 8
"""Filters that stay on the devices, at most; together they are as long as the gallery, at most."""


def crossover(*, queries: int, dim: int, itemsize: int, fused: bool = False) -> float:
    """The share of rows that a filter must allow for masking all of them to cost no more than
    gathering the allowed ones; in (0, 1], 1 where gathering never costs more.

    Counted in bytes of device memory for each row of D components. Dense: the row is read, or, if
    that takes longer, multiplied: 2·Q·D operations, of which a GPU does about 200 in half precision
    (16 in single) in the time of a byte; and Q keys are written and read twice, 12·Q. Gathered: the
    row is read and written first, and all this only for the allowed share. One query with float16
    rows of 512: a third; 1,024 queries: 0.9. Fused with the product, gathering is free.
    """
    row = dim * itemsize
    rate = 200 if itemsize == 2 else 16
    dense = max(row, 2 * queries * dim / rate) + 12 * queries
    return 1.0 if fused else dense / (dense + 2 * row)


@dataclass(frozen=True)
class Chosen:
    """A filter that lies on the devices, for searches that use it again.

    count: rows that it allows. parts: for each part of the gallery their numbers in it, int32
    ascending, None where all are.
    """

    count: int
    parts: tuple[torch.Tensor | None, ...]


@dataclass
class _State:
    """What changes between searches. filters: those used last, by key and count. lost: why the
    devices do not answer any more."""

    filters: OrderedDict[tuple[int, int], Chosen] = field(default_factory=OrderedDict)
    lost: str | None = None


@dataclass(frozen=True)
class DeviceRows:
    """All rows of a gallery (N, D), in ranges of one for each device. Threads may share it: they
    are answered one after another.

    largest: ≥ every stored row's norm. rounded: ≥ the norm of every difference between a stored row
    and what a device holds of it; 0 where nothing was rounded. halves: whether products may be made
    in half precision, with sums in single.
    """

    parts: tuple[Part, ...]
    metric: Metric
    largest: float
    rounded: float
    halves: bool
    _state: _State = field(default_factory=_State, init=False, repr=False, compare=False)

    @classmethod
    def load(
        cls,
        blocks: Sequence[Block],
        *,
        devices: Sequence[str],
        metric: Metric,
        dtype: Precision | None = None,
        memory: int | None = None,
    ) -> DeviceRows:
        """Copies all rows of the blocks, at least one, to the devices, an equal share to each.

        devices: "cuda", "cuda:1", "cpu". dtype: as stored by default, but float16 where float32
        does not fit. memory: bytes that may be used on each device, rows and all; by default what
        is free.

        Raises DeviceTooSmall, whose line says how much is needed, how much is free and what to do;
        DeviceFailed; MissingExtra without torch; UsageError for a device that is not there, and for
        float16 asked of rows that may hold larger numbers than its largest, 65,504.
        """
        check_devices(devices)
        largest = max(block.max_norm for block in blocks)
        total, dim = sum(len(block.vectors) for block in blocks), blocks[0].vectors.shape[1]
        edges = [total * at // len(devices) for at in range(len(devices) + 1)]
        sizes = np.diff(edges).tolist()
        with _failures():
            free = [free_memory(device, memory) for device in devices]
            choices = _precisions(blocks, dtype, largest)
            kept, work = _fitting(choices, sizes, dim, free=free, devices=devices)
            parts = tuple(
                load_part(
                    blocks,
                    edges[at],
                    edges[at + 1],
                    device=device,
                    dtype=kept,
                    lifted=metric is Metric.EUCLIDEAN,
                    work=min(_WORK, work[at]),
                )
                for at, device in enumerate(devices)
            )
            halves = all(multiplies_halves(part.rows.device) for part in parts)
        rounded = max(part.rounded for part in parts)
        return cls(parts, metric, largest, rounded, halves and kept == "float16")

    def __len__(self) -> int:
        return sum(len(part.rows) for part in self.parts)

    @property
    def dim(self) -> int:
        return self.parts[0].rows.shape[1]

    @property
    def dtype(self) -> str:
        """What the devices hold: "float32" or "float16"."""
        return str(self.parts[0].rows.dtype).removeprefix("torch.")

    @property
    def devices(self) -> tuple[str, ...]:
        return tuple(str(part.rows.device) for part in self.parts)

    @property
    def name(self) -> str:
        """The devices and what they hold, in words."""
        return f"{', '.join(self.devices)} in {self.dtype}"

    @property
    def bytes(self) -> int:
        """What the rows take, on all devices together."""
        return sum(part.rows.nbytes for part in self.parts)

    @property
    def fused(self) -> bool:
        """Whether one query is multiplied while its rows are gathered."""
        return all(part.fused for part in self.parts)

    @property
    def lost(self) -> str | None:
        """Why a device failed in a search, after which none is answered; None as long as none did.
        Memory that did not suffice for one search is no such failure."""
        return self._state.lost

    def allow(self, rows: NDArray[np.int64] | None) -> Chosen:
        """A filter, int64 (n,) strictly ascending or None for all rows, made ready on the devices.

        Raises UsageError for rows that are not there, as far as the first and the last tell.
        """
        import torch

        if rows is None:
            return Chosen(len(self), (None,) * len(self.parts))
        if len(rows) and not (rows[0] >= 0 and rows[-1] < len(self)):
            raise UsageError(f"rows are 0 to {len(self) - 1}, got {rows[0]} to {rows[-1]}")
        chosen: list[torch.Tensor | None] = []
        with _failures():
            for part in self.parts:
                edges = part.first, part.first + len(part.rows)
                start, stop = np.searchsorted(rows, edges).tolist()
                if stop - start == len(part.rows):
                    chosen.append(None)
                else:
                    local = (rows[start:stop] - part.first).astype(np.int32)
                    chosen.append(torch.from_numpy(local).to(part.rows.device))
        return Chosen(len(rows), tuple(chosen))

    def candidates(
        self,
        queries: NDArray[np.float32],
        want: int,
        *,
        rows: Allowed | Chosen | NDArray[np.int64] | None = None,
        way: Way | None = None,
    ) -> Candidates:
        """The w = min(want, allowed rows) best of the allowed rows for each query.

        queries: float32 (Q, D). want ≥ 1, up to all rows. rows: int64 ascending, None for all, what
        `allow` made, or a gallery's filter, which stays on the devices for the next search. way:
        "gather" or "dense", by `crossover` unless told.

        Their keys are q·x, or q·x − ‖x‖²/2 for Euclidean, larger is better; the bound holds for
        every row of the gallery. Raises NotFiniteError for NaN, Inf and where products may overflow
        float32; DimensionMismatch; UsageError; DeviceFailed and DeviceTooSmall where the device is
        lost or out of memory: only after the latter does it answer again.
        """
        _check_queries(queries, want, self.dim)
        norms = np.linalg.norm(queries.astype(np.float64), axis=1)
        if not bool(((norms + self.largest + self.rounded) ** 2 < 1e38).all()):
            raise NotFiniteError(
                "a query holds NaN or Inf, or is so long that products do not fit float32"
            )
        halves = self._halves(queries, norms)
        with exactly(), self._noting_loss():
            answer, keys = self._tiles(queries, halves, want, self._chosen(rows), way)
        return Candidates(answer, keys, self._bound(queries, norms, halves))

    @contextmanager
    def _noting_loss(self) -> Iterator[None]:
        state = self._state
        if state.lost is not None:
            raise DeviceFailed(state.lost)
        try:
            yield
        except DeviceTooSmall:
            raise
        except DeviceFailed as error:
            state.lost = str(error)
            state.filters.clear()
            raise

    def _chosen(self, rows: Allowed | Chosen | NDArray[np.int64] | None) -> Chosen:
        """The filter on the devices: as it is kept, or put there, in place of the oldest ones."""
        if isinstance(rows, Chosen):
            return rows
        if not isinstance(rows, Allowed):
            return self.allow(rows)
        if rows.mask is None:
            return self.allow(None)
        kept, key = self._state.filters, (rows.key, rows.count)
        chosen = kept.pop(key, None)
        if chosen is None:
            room = len(self) - rows.count
            while kept and (len(kept) >= _KEPT or sum(one.count for one in kept.values()) > room):
                kept.popitem(last=False)
            chosen = self.allow(rows.listed)
        kept[key] = chosen
        return chosen

    def _tiles(
        self,
        queries: NDArray[np.float32],
        halves: NDArray[np.float16] | None,
        want: int,
        chosen: Chosen,
        way: Way | None,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The best of all parts for all queries, some at a time."""
        found = min(want, chosen.count)
        answer = np.empty((len(queries), found), np.int64)
        keys = np.empty((len(queries), found), np.float32)
        step = _queries_at_once(chosen.count, want, room=min(part.room for part in self.parts))
        with _failures():
            for start in range(0, len(queries) if found else 0, step):
                some = slice(start, min(start + step, len(queries)))
                half = None if halves is None else halves[some]
                answer[some], keys[some] = self._tile(queries[some], half, want, chosen, way)
        if not bool(np.isfinite(keys).all()):
            raise DeviceFailed("the device gave keys that are no numbers")
        return answer, keys

    def _tile(
        self,
        queries: NDArray[np.float32],
        halves: NDArray[np.float16] | None,
        want: int,
        chosen: Chosen,
        way: Way | None,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The best of all parts for a few queries."""
        rows: list[NDArray[np.int64]] = []
        keys: list[NDArray[np.float32]] = []
        begun = []
        for part, local in zip(self.parts, chosen.parts, strict=True):
            count = len(part.rows) if local is None else len(local)
            if not count:
                continue
            width = max(1, part.room // len(queries))
            sent = _send(queries, halves, part.rows.device)
            if want < count and 4 * want <= width:
                dense = self._is_dense(part, count, len(queries), way)
                begun.append(best(part, sent, local, want, dense=dense, width=width))
                continue
            keys.append(every(part, sent, local, width=width))
            numbers = np.arange(count) if local is None else local.cpu().numpy()
            rows.append(np.broadcast_to(part.first + numbers.astype(np.int64), keys[-1].shape))
        # All devices work by now; the first wait is here.
        for values, places in begun:
            keys.append(values.cpu().numpy())
            rows.append(places.cpu().numpy())
        return _merged(rows, keys, min(want, chosen.count))

    def _is_dense(self, part: Part, count: int, queries: int, way: Way | None) -> bool:
        if way is not None:
            return way == "dense"
        dim, itemsize = self.dim, part.rows.element_size()
        fused = part.fused and queries == 1
        share = crossover(queries=queries, dim=dim, itemsize=itemsize, fused=fused)
        return count > share * len(part.rows)

    def _halves(
        self, queries: NDArray[np.float32], norms: NDArray[np.float64]
    ) -> NDArray[np.float16] | None:
        """The queries in half precision, where products are to be made in it: not for one that is
        multiplied while fetched, nor where a query is too long or too short for float16."""
        if not self.halves or (self.fused and len(queries) == 1):
            return None
        with np.errstate(over="ignore"):
            halves = queries.astype(np.float16)
        missed = np.linalg.norm(queries - halves.astype(np.float64), axis=1)
        return halves if bool((missed <= 2.0**-10 * norms).all()) else None

    def _bound(
        self,
        queries: NDArray[np.float32],
        norms: NDArray[np.float64],
        halves: NDArray[np.float16] | None,
    ) -> NDArray[np.float64]:
        """By how much any key may be off for each query: float64 (Q,).

        A float32 sum of D products, in any order, is off by at most γ_D·‖q‖·‖x‖, γ_n = n·u /
        (1 − n·u), u = 2⁻²⁴ (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., eq.
        3.5); products too small for a normal float32 may be lost, 2⁻¹²⁶ each. Matrix units multiply
        float16 exactly, but cut off where a sum should be rounded (Fasi, Higham, Mikaitis,
        Pranesh, Numerical behavior of NVIDIA tensor cores, PeerJ Computer Science 7:e330, 2021):
        b + 2 times at most by 2⁻²³ of ‖q‖·‖x‖ in each of D/b steps, b ≥ 4, so 3·D·u: 4·u there.
        A rounded query or row adds the product of its difference's norm with the other's norm.
        """
        reach = self.largest + self.rounded
        used, unit, missed = norms, 2.0**-24, np.zeros_like(norms)
        if halves is not None:
            missed = np.linalg.norm(queries - halves.astype(np.float64), axis=1)
            used, unit = norms + missed, 2.0**-22
        sums = (self.dim + 8) * unit
        bound = sums / (1 - sums) * used * reach + missed * reach + norms * self.rounded
        if self.metric is Metric.EUCLIDEAN:
            # −‖x‖²/2 is rounded once, its sum with the product again.
            bound += 4 * 2.0**-24 * (used * reach + self.largest**2 / 2)
        return np.asarray(bound * (1 + 2.0**-40) + self.dim * 2.0**-125)


def check_devices(devices: Sequence[str]) -> None:
    """Raise UsageError unless torch finds each of them, at least one; MissingExtra without it."""
    try:
        import torch
    except ImportError:
        raise MissingExtra("PyTorch is not installed: pip install torch") from None
    if not devices:
        raise UsageError("name at least one device: 'cuda', 'cuda:1', 'cpu'")
    there = torch.cuda.device_count()
    for device in devices:
        kind, _, number = device.partition(":")
        if device != "cpu" and (kind != "cuda" or not (number or "0").isdigit()):
            raise UsageError(f"rows can lie on 'cuda', 'cuda:1' or 'cpu', not on {device!r}")
        if device != "cpu" and int(number or 0) >= there:
            raise UsageError(f"torch finds {there} CUDA devices here, not {device!r}: use 'cpu'")


def _check_queries(queries: NDArray[np.float32], want: int, dim: int) -> None:
    if queries.ndim != 2 or queries.shape[1] != dim:
        raise DimensionMismatch(f"queries are (Q, {dim}), got {queries.shape}")
    if want < 1:
        raise UsageError(f"want must be at least 1, got {want}")


def _precisions(
    blocks: Sequence[Block], dtype: Precision | None, largest: float
) -> list[Precision]:
    """What the rows may be held in, the first that fits to be taken."""
    if all(block.vectors.dtype == np.float16 for block in blocks):
        return ["float16"] if dtype is None else [dtype]
    if largest <= _LARGEST_HALF:
        return ["float32", "float16"] if dtype is None else [dtype]
    if dtype == "float16":
        raise UsageError(
            f"rows of norm {largest:.3g} may hold numbers too large for float16: use float32"
        )
    return ["float32"]


def _fitting(
    choices: Sequence[Precision],
    sizes: Sequence[int],
    dim: int,
    *,
    free: Sequence[int],
    devices: Sequence[str],
) -> tuple[Precision, list[int]]:
    """The first precision in which every device's rows fit, and what each then has left."""
    for choice in choices:
        # Beside a row: its −‖x‖²/2, its number in a filter, its place in a mask.
        needs = [size * (dim * (2 if choice == "float16" else 4) + 12) for size in sizes]
        left = [room - need for room, need in zip(free, needs, strict=True)]
        if min(left) >= _LEAST_WORK:
            return choice, left
    at = int(np.argmin(left))
    raise DeviceTooSmall(
        f"{sizes[at]:,} rows of {dim} {choice} need {_amount(needs[at] + _LEAST_WORK)} on "
        f"{devices[at]!r}, {_amount(free[at])} are free: use more devices"
    )


def _amount(number: int) -> str:
    return f"{number / 2**20:,.1f} MiB"


def _queries_at_once(count: int, want: int, *, room: int) -> int:
    """Queries in a tile: few enough for `want` to be a quarter of the keys that a device then holds
    for each, or, if all rows are wanted or none fit so, for all keys to fit."""
    if want < count and 4 * want <= room:
        return min(_TILE, room // (4 * want))
    return max(1, min(_TILE, room // max(1, count)))


def _send(
    queries: NDArray[np.float32], halves: NDArray[np.float16] | None, device: torch.device
) -> Queries:
    import torch

    # A copy, as torch warns of sharing an array that may not be written to.
    full = torch.tensor(queries, device=device)
    return Queries(full, None if halves is None else torch.tensor(halves, device=device))


def _merged(
    rows: Sequence[NDArray[np.int64]], keys: Sequence[NDArray[np.float32]], want: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The want best of each query's candidates (Q, …) from all parts."""
    row, key = np.concatenate(rows, axis=1), np.concatenate(keys, axis=1)
    if key.shape[1] > want:
        kept = np.argpartition(-key, want - 1, axis=1)[:, :want]
        row, key = np.take_along_axis(row, kept, axis=1), np.take_along_axis(key, kept, axis=1)
    return row, key


@contextmanager
def _failures() -> Iterator[None]:
    """Torch's errors of devices, as this project's."""
    import torch

    try:
        yield
    except RuntimeError as error:
        line = (str(error).splitlines() or ["no reason given"])[0]
        if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in line:
            raise DeviceTooSmall(f"out of memory on the device: {line}") from None
        lost = type(error).__name__ == "AcceleratorError"  # torch ≥ 2.8
        if lost or "CUDA" in line or "CUBLAS" in line:
            raise DeviceFailed(f"the device failed: {line}") from None
        raise
