"""One device's share of a gallery's rows: how it gets there, and its best allowed rows.

Only `device_rows.py` uses it, which checks what it is asked and turns torch's errors into this
project's.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

    from .exact import Block

_STRIDES = 32
"""Of so many keys of a query, only the largest takes part in the first look for the best."""

_WITHHELD = float("-inf")
"""The key of what must not be found: rows outside the filter and columns that are no rows."""

_alone = Lock()


@dataclass(frozen=True)
class Part:
    """Rows first … first + n - 1 of a gallery on one device.

    rows: float16 or float32 (n, D). lift: float32 (n,), −‖x‖²/2 of the stored rows, for Euclidean.
    rounded: ≥ the norm of every difference between a stored row and this one. work: bytes that a
    search may use beside them. fused: whether one query is multiplied while its rows are fetched.
    """

    first: int
    rows: torch.Tensor
    lift: torch.Tensor | None
    rounded: float
    work: int
    fused: bool = False

    @property
    def room(self) -> int:
        """Keys that are held at once, at most; with what is kept of them up to 16 bytes each, half
        of `work`. The other half is for rows that are gathered or widened."""
        return self.work // 32


@dataclass(frozen=True)
class Queries:
    """A tile of queries on a part's device: float32 (Q, D), and, where products are to be made in
    half precision, their float16 (Q, D)."""

    full: torch.Tensor
    half: torch.Tensor | None


def free_memory(device: str, memory: int | None) -> int:
    """Bytes that may be used on a device: what is free, or `memory` if that is less."""
    import torch

    if device == "cpu":
        free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    else:
        free = torch.cuda.mem_get_info(device)[0]
        free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return free if memory is None else min(free, memory)


def multiplies_halves(device: torch.device) -> bool:
    """Whether torch can multiply float16 matrices there with sums and answers in float32."""
    return device.type == "cuda" and _tried_halves(device)


def _tried_halves(device: torch.device) -> bool:
    """Whether the product that `_multiply` makes, into some columns of more, works there."""
    import torch

    some = torch.ones((16, 16), dtype=torch.float16, device=device)
    made = torch.zeros((16, 64), device=device)
    try:
        torch.mm(some, some.T, out_dtype=torch.float32, out=made[:, 16:32])
    except (TypeError, RuntimeError):  # torch < 2.8; a build or a GPU without it
        return False
    return bool((made[:, 16:32] == 16).all() and made.sum() == 16**3)


@contextmanager
def exactly() -> Iterator[None]:
    """Products in full precision whatever the caller allows: no TF32 or bfloat16 in place of
    float32, no sums in float16. Afterwards torch's settings are as before; they hold for the whole
    process, so one thread at a time comes in here. Autocast leaves products alone that are told
    where to go, as all are here."""
    import torch

    with ExitStack() as stack:
        stack.enter_context(_alone)
        stack.enter_context(torch.no_grad())
        cublas = torch.backends.cuda.matmul
        settings: list[tuple[Any, str, tuple[object, ...]]] = [
            (cublas, "allow_fp16_accumulation", (False,))
        ]
        mkldnn: Any = torch.backends.mkldnn
        if hasattr(cublas, "fp32_precision"):
            for product in (cublas, mkldnn.matmul):
                settings.append((product, "fp32_precision", ("ieee", "none")))
        elif torch.get_float32_matmul_precision() != "highest":  # torch < 2.9
            stack.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
            torch.set_float32_matmul_precision("highest")
        for product, name, exact in settings:
            before = getattr(product, name, exact[0])
            if before not in exact:
                stack.callback(setattr, product, name, before)
                setattr(product, name, exact[0])
        yield


def load_part(
    blocks: Sequence[Block],
    start: int,
    stop: int,
    *,
    device: str,
    dtype: str,
    lifted: bool,
    work: int,
) -> Part:
    """Copies rows start … stop - 1 of all blocks to a device, a piece at a time, through pinned
    memory where the device has its own."""
    import torch

    dim = blocks[0].vectors.shape[1]
    halves = all(block.vectors.dtype == np.float16 for block in blocks)
    stored = torch.float16 if halves else torch.float32
    rows = torch.empty((stop - start, dim), dtype=getattr(torch, dtype), device=device)
    lift = torch.empty(stop - start, dtype=torch.float32, device=device) if lifted else None
    rounded = torch.zeros((), dtype=torch.float64, device=device)
    step = max(1, work // (40 * dim))
    staging = torch.empty((step, dim), dtype=stored, pin_memory=device != "cpu")
    offset = 0
    for block in blocks:
        low, high = max(start, offset), min(stop, offset + len(block.vectors))
        for at in range(low, high, step):
            end = min(at + step, high)
            host = staging[: end - at]
            host.numpy()[:] = block.vectors[at - offset : end - offset]
            piece, kept = host.to(device), slice(at - start, end - start)
            rows[kept] = piece
            wide = piece.double()
            if lift is not None:
                lift[kept] = wide.square().sum(dim=1).mul_(-0.5)
            if rows.dtype == torch.float16 and stored == torch.float32:
                apart = torch.linalg.vector_norm(wide - rows[kept].double(), dim=1)
                rounded = torch.maximum(rounded, apart.amax())
        offset += len(block.vectors)
    part = Part(start, rows, lift, float(rounded), work)
    return replace(part, fused=_can_fuse(part))


def _can_fuse(part: Part) -> bool:
    """Whether the fused product works on this device, tried on a few rows."""
    import torch

    if part.rows.device.type != "cuda" or not len(part.rows):
        return False
    some = part.rows[: 64 * 37 : 37].contiguous()
    query = some[0].float()
    chosen = torch.arange(len(some) - 1, -1, -1, dtype=torch.int32, device=some.device)
    out = torch.full((len(some),), torch.nan, device=some.device)
    try:
        from .device_kernel import dots

        with torch.cuda.device(some.get_device()):
            dots(some, chosen, query, out=out)
    except Exception:  # Triton absent, no C compiler for its launcher, a GPU it does not know, …
        return False
    wide = some.double()
    reach = torch.linalg.vector_norm(wide, dim=1).amax()
    off = (out.double() - wide.flip(0) @ query.double()).abs().amax()
    return bool(off <= 2.0**-12 * reach * reach)


def every(
    part: Part, queries: Queries, chosen: torch.Tensor | None, *, width: int
) -> NDArray[np.float32]:
    """The keys of all chosen rows, in their order: float32 (Q, n), in the computer's memory."""
    count = len(part.rows) if chosen is None else len(chosen)
    keys = np.empty((len(queries.full), count), np.float32)
    for start, stop, tile in _tiles(part, queries, chosen, part.lift, width=width):
        keys[:, start:stop] = tile[:, : stop - start].cpu().numpy()
    return keys


def best(
    part: Part,
    queries: Queries,
    chosen: torch.Tensor | None,
    want: int,
    *,
    dense: bool,
    width: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The want best of the chosen rows (int32, ascending; None for all): keys float32 (Q, want) and
    the gallery's row numbers int64 (Q, want), in any order; want ≤ the rows chosen.

    width: rows that are compared at a time; ≥ want. Nothing here waits for the device.
    """
    import torch

    bias = part.lift
    if dense and chosen is not None:
        bias, chosen = _mask(part, chosen), None
    keys = torch.empty((len(queries.full), 0), device=part.rows.device)
    places = torch.empty(keys.shape, dtype=torch.int64, device=part.rows.device)
    for start, stop, tile in _tiles(part, queries, chosen, bias, width=width):
        values, columns = _largest(tile, min(want, stop - start))
        # A column that is no row, withheld, may come where too few others are left.
        columns.clamp_(max=stop - start - 1).add_(start)
        keys, places = torch.cat([keys, values], dim=1), torch.cat([places, columns], dim=1)
        if keys.shape[1] > want:
            keys, kept = keys.topk(want, dim=1, sorted=False)
            places = places.gather(1, kept)
    rows = places if chosen is None else chosen[places].long()
    return keys, rows + part.first


def _mask(part: Part, chosen: torch.Tensor) -> torch.Tensor:
    """What is added to the keys of all rows: float32 (n,), withholding those not chosen."""
    import torch

    numbers = chosen.long()
    bias = torch.full((len(part.rows),), _WITHHELD, device=part.rows.device)
    if part.lift is None:
        return bias.index_fill_(0, numbers, 0)
    return bias.index_copy_(0, numbers, part.lift[numbers])


def _tiles(
    part: Part,
    queries: Queries,
    chosen: torch.Tensor | None,
    bias: torch.Tensor | None,
    *,
    width: int,
) -> Iterator[tuple[int, int, torch.Tensor]]:
    """Keys of `width` rows at a time: start, stop and float32 (Q, w), whose columns from
    stop - start on are withheld. Each takes the place of the one before."""
    import torch

    count = len(part.rows) if chosen is None else len(chosen)
    padded = -(-min(width, count) // _STRIDES) * _STRIDES
    keys = torch.empty((len(queries.full), padded), device=part.rows.device)
    for start in range(0, count, width):
        stop = min(start + width, count)
        keys[:, stop - start :] = _WITHHELD
        numbers = None if chosen is None else chosen[start:stop]
        _multiply(part, queries, numbers, start, out=keys[:, : stop - start])
        if bias is not None:
            added = bias[start:stop] if numbers is None else bias.index_select(0, numbers)
            keys[:, : stop - start] += added
        yield start, stop, keys


def _multiply(
    part: Part, queries: Queries, numbers: torch.Tensor | None, start: int, *, out: torch.Tensor
) -> None:
    """Products of the queries with rows `numbers`, or start and on: float32 (Q, n) into out."""
    import torch

    rows, count = part.rows, out.shape[1]
    if part.fused and len(out) == 1:
        from .device_kernel import dots

        with torch.cuda.device(rows.get_device()):
            dots(rows[start:] if numbers is None else rows, numbers, queries.full[0], out=out[0])
        return
    dim = rows.shape[1]
    # A multiple of 64 keeps pieces aligned as matrix units like them.
    step = max(64, part.work // 8 // (dim * rows.element_size()) // 64 * 64)
    widened = queries.half is None and rows.dtype == torch.float16
    gathered = None if numbers is None else rows.new_empty((min(step, count), dim))
    wide = queries.full.new_empty((min(step, count), dim)) if widened else None
    for at in range(0, count, step):
        end = min(at + step, count)
        if numbers is None or gathered is None:
            piece = rows[start + at : start + end]
        else:
            piece = _gather(rows, numbers[at:end], out=gathered[: end - at])
        if wide is not None:
            piece = wide[: end - at].copy_(piece)
        if queries.half is None:
            torch.mm(queries.full, piece.T, out=out[:, at:end])
        else:
            torch.mm(queries.half, piece.T, out_dtype=torch.float32, out=out[:, at:end])


def _gather(rows: torch.Tensor, numbers: torch.Tensor, *, out: torch.Tensor) -> torch.Tensor:
    """rows[numbers] into out, which is returned."""
    import torch

    # Eight bytes at a time where they fit: a GPU works out one address for each element.
    if rows.shape[1] * rows.element_size() % 8 == 0:
        torch.index_select(rows.view(torch.int64), 0, numbers, out=out.view(torch.int64))
    else:
        torch.index_select(rows, 0, numbers, out=out)
    return out


def _largest(keys: torch.Tensor, want: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The want largest of each row (Q, w) and their columns, both (Q, want), in no order.

    Every key belongs to a group of `_STRIDES`. A group is looked into only if its largest is among
    the want largest of those: there are enough at least as large as any other's.
    """
    import torch

    groups = keys.shape[1] // _STRIDES
    if 4 * want > groups:
        values, columns = keys.topk(want, dim=1, sorted=False)
        return values, columns
    top = keys.view(-1, _STRIDES, groups).amax(dim=1)
    group = top.topk(want, dim=1, sorted=False).indices
    member = torch.arange(_STRIDES, device=keys.device) * groups
    columns = (group[:, :, None] + member).flatten(1)
    values, found = keys.gather(1, columns).topk(want, dim=1, sorted=False)
    return values, columns.gather(1, found)
