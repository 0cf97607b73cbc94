"""Visibility-weighted distances of all pairs through torch: for a GPU. See visibility.py, whose
answers these are, rounding apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..errors import DimensionMismatch
from .aligned_torch import at_length_1, device_of

if TYPE_CHECKING:
    import torch

_ROOM = 2**23
"""Distances that are held at a time, and numbers of candidates: 64 MiB each in double precision."""


def visible_distances_torch(
    queries: NDArray[np.floating] | torch.Tensor,
    visible: NDArray[np.generic] | torch.Tensor,
    candidates: NDArray[np.floating] | torch.Tensor,
    shown: NDArray[np.generic] | torch.Tensor,
    similarities: NDArray[np.floating] | torch.Tensor,
    *,
    distance: str,
    device: str = "cuda",
) -> torch.Tensor:
    """d of all queries' parts (Q, P, Dp), of which `visible` (Q, P) are to be seen, to all
    candidates' (G, P, Dp), of which `shown` (G, P) are, whose vectors have the cosines similarities
    (Q, G): float32 (Q, G), on device.

    Arrays, or tensors, which are best on the device already. distance: "cosine" or "euclidean".
    device: "cuda", "cuda:1", "cpu". Products are made in double precision, so that the distance of
    equal parts is below 1e-6, and no setting of torch matters.

    Raises DimensionMismatch, MissingExtra without torch, UsageError for a device that is not there.
    """
    place = device_of(device)
    import torch

    asked, there = _tensor(queries), _tensor(candidates)
    if asked.ndim != 3 or there.ndim != 3 or asked.shape[1:] != there.shape[1:]:
        raise DimensionMismatch(
            f"parts of the shapes {tuple(asked.shape)} and {tuple(there.shape)}: (n, P, Dp) of the "
            "same P and Dp are needed"
        )
    own, its, whole = map(_tensor, (visible, shown, similarities))
    wanted = (asked.shape[:2], there.shape[:2], (len(asked), len(there)))
    if (own.shape, its.shape, whole.shape) != wanted:
        raise DimensionMismatch(
            f"visible, shown and similarities have the shapes {tuple(own.shape)}, "
            f"{tuple(its.shape)} and {tuple(whole.shape)}, and "
            f"{', '.join(str(tuple(one)) for one in wanted)} are needed"
        )
    with torch.no_grad(), torch.autocast(place.type, enabled=False):
        asked, own, its = at_length_1(asked.to(place)), _flags(own, place), _flags(its, place)
        found = torch.empty(len(asked), len(there), dtype=torch.float32, device=place)
        _, parts, dim = asked.shape
        rows = max(1, _ROOM // max(1, len(asked), parts * dim))
        for at in range(0, len(there), rows):
            some = slice(at, at + rows)
            few = at_length_1(there[some].to(place))
            cosines = whole[:, some].to(place, torch.float64)
            found[:, some] = _distances(asked, own, few, its[some], cosines, distance)
    return found


def _tensor(given: NDArray[np.generic] | torch.Tensor) -> torch.Tensor:
    import torch

    if isinstance(given, np.ndarray) and min(given.strides, default=0) < 0:
        given = given.copy()  # torch knows no negative strides
    return torch.as_tensor(given)


def _flags(visible: torch.Tensor, place: torch.device) -> torch.Tensor:
    import torch

    return (visible.to(place) != 0).to(torch.float64)


def _distances(
    asked: torch.Tensor,
    own: torch.Tensor,
    there: torch.Tensor,
    its: torch.Tensor,
    cosines: torch.Tensor,
    distance: str,
) -> torch.Tensor:
    """d of some pairs (Q, G), in double precision."""
    terms = own @ its.T
    if distance == "cosine":
        products = (asked * own[:, :, None]).flatten(1) @ (there * its[:, :, None]).flatten(1).T
        return (1 - cosines + (terms - products).clamp_(min=0)) / (terms + 1)
    total = (2 - 2 * cosines).clamp_(min=0).sqrt_()
    lengths, of_each = asked.square().sum(dim=2), there.square().sum(dim=2)  # 1, or 0 for zeros
    for part in range(asked.shape[1]):
        squared = lengths[:, None, part] + of_each[None, :, part]
        squared = squared - 2 * (asked[:, part] @ there[:, part].T)
        apart = squared.clamp_(min=0).sqrt_()
        total += apart * own[:, None, part] * its[None, :, part]
    return total / (terms + 1)
