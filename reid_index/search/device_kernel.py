"""One query with chosen rows of a matrix on a GPU, fetched and multiplied in one pass, by Triton.

Imported only where Triton is installed. With TRITON_INTERPRET=1 it runs on the CPU, slowly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import triton
import triton.language as tl

if TYPE_CHECKING:
    import torch

_ROWS = 16
"""Rows that four warps fetch at once: at 512 float16 each thread has 8 loads of 16 bytes under way,
enough to hide the latency of rows that lie apart."""

_WIDTH = 512
"""Columns of a row that are fetched at once, at most."""


@triton.jit(do_not_specialize=["count"])  # type: ignore[untyped-decorator]
def _dots(  # type: ignore[no-untyped-def]
    rows, chosen, query, out, count, dim: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr
):
    place = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    there = place < count
    row = place
    if chosen is not None:
        row = tl.load(chosen + place, mask=there, other=0).to(tl.int64)
    total = tl.zeros((ROWS,), dtype=tl.float32)
    for start in tl.static_range(0, dim, WIDTH):
        column = start + tl.arange(0, WIDTH)
        inside = column < dim
        value = tl.load(query + column, mask=inside, other=0.0)
        place_of = rows + row[:, None] * dim + column[None, :]
        piece = tl.load(place_of, mask=there[:, None] & inside[None, :], other=0.0)
        total += tl.sum(piece.to(tl.float32) * value[None, :], axis=1)
    tl.store(out + place, total, mask=there)


def dots(
    rows: torch.Tensor, chosen: torch.Tensor | None, query: torch.Tensor, *, out: torch.Tensor
) -> None:
    """out[i] = query · rows[chosen[i]], or rows[i]: products and sums in float32, in some order.

    rows: (n, D) float16 or float32, contiguous. chosen: int32 (m,), or None. query: float32 (D,).
    out: float32 (m,), contiguous. All on one device; numbers of rows are not checked.
    """
    dim = rows.shape[1]
    width = min(_WIDTH, triton.next_power_of_2(dim))
    grid = (triton.cdiv(len(out), _ROWS),)
    _dots[grid](rows, chosen, query, out, len(out), dim=dim, ROWS=_ROWS, WIDTH=width)
