"""D_local of all pairs through torch: for a GPU. See aligned.py, whose answers these are, rounding
apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..errors import DimensionMismatch, MissingExtra, UsageError

if TYPE_CHECKING:
    import torch

_ROOM = 2**24
"""Distances of stripes that are held at a time: 128 MiB in double precision."""


def local_distances_torch(
    queries: NDArray[np.floating] | torch.Tensor,
    candidates: NDArray[np.floating] | torch.Tensor,
    *,
    device: str = "cuda",
) -> torch.Tensor:
    """D_local of all queries' parts (Q, P, Dp) to all candidates' (G, P, Dp): float32 (Q, G), on
    device.

    Arrays, or tensors, which are best on the device already. device: "cuda", "cuda:1", "cpu".
    Products are made in double precision, so that the squared distance of equal stripes, a
    difference of nearly equal numbers, is below 1e-13, and no setting of torch matters.

    Raises DimensionMismatch, MissingExtra without torch, UsageError for a device that is not there.
    """
    place = device_of(device)
    import torch

    asked, there = torch.as_tensor(queries), torch.as_tensor(candidates)
    if asked.ndim != 3 or there.ndim != 3 or asked.shape[1:] != there.shape[1:]:
        raise DimensionMismatch(
            f"parts of the shapes {tuple(asked.shape)} and {tuple(there.shape)}: (n, P, Dp) of the "
            "same P and Dp are needed"
        )
    with torch.no_grad(), torch.autocast(place.type, enabled=False):
        asked, there = at_length_1(asked.to(place)), at_length_1(there.to(place))
        found = torch.empty(len(asked), len(there), dtype=torch.float32, device=place)
        stripes = asked.shape[1]
        rows = max(1, _ROOM // max(1, stripes * stripes * len(asked)))
        for at in range(0, len(there), rows):
            found[:, at : at + rows] = _paths(asked, there[at : at + rows])
    return found


def device_of(name: str) -> torch.device:
    """The device of that name, which is there. Raises MissingExtra, UsageError."""
    try:
        import torch
    except ImportError:
        raise MissingExtra("PyTorch is not installed: pip install torch") from None
    # Others lack double precision (mps) or have never been tried.
    if name.partition(":")[0] not in ("cuda", "cpu"):
        raise UsageError(f"parts are compared through torch on 'cuda' or 'cpu', not on {name!r}")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"no parts can be compared on {name!r}: {reason}") from None


def at_length_1(parts: torch.Tensor) -> torch.Tensor:
    """Each part of (n, P, Dp), in double precision; those of zeros as they are."""
    import torch

    wide = parts.to(torch.float64)
    lengths = wide.norm(dim=2, keepdim=True)
    return wide / torch.where(lengths > 0, lengths, 1.0)


def _paths(asked: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
    """S_PP of all pairs (Q, G), a diagonal at a time: each depends on the last alone."""
    import torch

    products = torch.einsum("qid,gjd->ijqg", asked, there)
    own, its = (one.square().sum(dim=2).T for one in (asked, there))  # 1, or 0 for zeros
    squared = own[:, None, :, None] + its[None, :, None, :] - 2 * products
    steps = torch.tanh(squared.clamp_(min=0).sqrt_().mul_(0.5))
    stripes = asked.shape[1]
    paths: dict[int, torch.Tensor] = {}
    for diagonal in range(2 * stripes - 1):
        following = {}
        for i in range(max(0, diagonal - stripes + 1), min(diagonal, stripes - 1) + 1):
            # Of i + j = diagonal − 1: (i − 1, j) and (i, j − 1).
            before = [paths[place] for place in (i - 1, i) if place in paths]
            step = steps[i, diagonal - i]
            following[i] = step if not before else torch.minimum(before[0], before[-1]) + step
        paths = following
    return paths[stripes - 1].to(torch.float32)
