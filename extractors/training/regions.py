"""Which region each pixel of the crops belongs to, found by clustering what a network sees there,
joined with a parser's opinion where there is one.

As ISP does it: Zhu et al., "Identity-Guided Human Semantic Parsing for Person Re-Identification",
ECCV 2020, section 3.1: of all crops of a person, pixels of strong features are foreground; these
are clustered by what they look like, and regions are numbered by their height, so that the same
number is about the same part of any person. Source 002 joins this with a parser: foreground that is
no body part is what the person carries.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ..preprocess import Preprocess
from ..systems.fls import FLS

_BATCH = 128
_STEPS = 10
_HEIGHT = 1.0
"""The weight of a pixel's height beside its unit features. ISP has none: its backbone has seen
ImageNet, one that has not sees little in its first epochs."""


def band_maps(count: int, *, height: int, width: int, regions: int) -> NDArray[np.uint8]:
    """Where nothing has been learnt yet: horizontal bands, uint8 (count, height, width)."""
    rows = 1 + np.arange(height) * regions // height
    return np.broadcast_to(rows.astype(np.uint8)[None, :, None], (count, height, width)).copy()


def cluster_maps(
    system: FLS,
    crops: NDArray[np.uint8],
    classes: NDArray[np.int64],
    *,
    preprocess: Preprocess,
    device: torch.device,
    parsed: NDArray[np.uint8] | None = None,
) -> NDArray[np.uint8]:
    """The regions of all crops as the system sees them now: uint8 (N, h, w), 0 for background.

    crops: uint8 (N, height, width, 3). classes: whose they are, int64 (N,). parsed: a parser's
    maps of the same crops, uint8 (N, h, w), 0 for background, 1 … R − 1 from the top; then the
    regions are the parser's, and R is what the clusters see beside it.
    """
    order = np.argsort(classes, kind="stable")
    ends = np.flatnonzero(np.diff(classes[order])) + 1
    maps: NDArray[np.uint8] | None = None
    was = system.training
    system.eval()
    for some in _groups(np.split(order, ends)):
        seen = _seen(system, crops[np.concatenate(some)], preprocess, device)
        if maps is None:
            maps = np.zeros((len(crops), *seen.shape[2:]), np.uint8)
        first = 0
        for rows in some:
            here = seen[first : first + len(rows)]
            first += len(rows)
            if parsed is None:
                found = clusters(here, regions=system.regions)
            else:
                found = joined(foreground(here).numpy(), parsed[rows], belongings=system.regions)
            maps[rows] = smooth(found, labels=1 + system.regions)
    system.train(was)
    assert maps is not None
    return maps


def _groups(persons: list[NDArray[np.int64]]) -> list[list[NDArray[np.int64]]]:
    """Persons whose crops are seen together."""
    groups: list[list[NDArray[np.int64]]] = [[]]
    count = 0
    for rows in persons:
        if count and count + len(rows) > _BATCH:
            groups.append([])
            count = 0
        groups[-1].append(rows)
        count += len(rows)
    return groups


def _seen(
    system: FLS, crops: NDArray[np.uint8], preprocess: Preprocess, device: torch.device
) -> Tensor:
    found = []
    with torch.inference_mode():
        for start in range(0, len(crops), _BATCH):
            fed = np.stack([preprocess.normalise(crop) for crop in crops[start : start + _BATCH]])
            there = torch.from_numpy(fed).to(device, memory_format=torch.channels_last)
            # Single pixels are noise: a region is wider than that.
            seen = functional.avg_pool2d(system.map(there).float(), 3, stride=1, padding=1)
            found.append(seen.cpu())
    return torch.cat(found)


def foreground(seen: Tensor) -> Tensor:
    """Which pixels of one person's crops, float32 (n, D, h, w), are foreground: bool (n, h, w).

    Those whose feature's length, of the longest of the crop, is nearer to the mean of the longer
    ones than to that of the shorter ones (2-means).
    """
    lengths = torch.linalg.vector_norm(seen, dim=1)
    lengths = lengths / lengths.amax(dim=(1, 2), keepdim=True).clamp(min=1e-12)
    low, high = float(lengths.min()), float(lengths.max())
    for _ in range(_STEPS):
        is_long = lengths > (low + high) / 2
        if not is_long.any() or is_long.all():
            break
        low, high = float(lengths[~is_long].mean()), float(lengths[is_long].mean())
    longer: Tensor = lengths > (low + high) / 2
    return longer


def clusters(seen: Tensor, *, regions: int) -> NDArray[np.uint8]:
    """The regions of one person's crops, float32 (n, D, h, w): uint8 (n, h, w), 0 for background,
    1 … regions from the top. Fewer, where that many do not differ; then their numbers are those of
    the bands that they began as."""
    count, _, height, width = seen.shape
    there = foreground(seen)
    places = torch.linspace(0, 1, height)[:, None].expand(height, width)
    places = places.expand(count, height, width)[there]
    found = torch.zeros(count, height, width, dtype=torch.uint8)
    if len(places) == 0:
        return found.numpy()
    features = functional.normalize(seen.permute(0, 2, 3, 1)[there], dim=1)
    points = torch.cat([features, _HEIGHT * places[:, None]], dim=1)
    # Bands of equal size to begin with, so that no chance decides.
    ranks = places.argsort(stable=True).argsort(stable=True)
    of = ranks * regions // len(ranks)
    for _ in range(_STEPS):
        sizes = torch.bincount(of, minlength=regions).clamp(min=1)
        centres = torch.zeros(regions, points.shape[1]).index_add_(0, of, points) / sizes[:, None]
        nearest = (centres.square().sum(dim=1) - 2 * points @ centres.T).argmin(dim=1)
        if torch.equal(nearest, of):
            break
        of = nearest
    sizes = torch.bincount(of, minlength=regions)
    heights = torch.bincount(of, weights=places, minlength=regions) / sizes.clamp(min=1)
    full = torch.nonzero(sizes > 0).flatten()
    numbers = torch.zeros(regions, dtype=torch.uint8)
    numbers[full[heights[full].argsort(stable=True)]] = (full + 1).to(torch.uint8)
    found[there] = numbers[of]
    return found.numpy()


def joined(
    there: NDArray[np.bool_], parsed: NDArray[np.uint8], *, belongings: int
) -> NDArray[np.uint8]:
    """A parser's maps, in which foreground that it calls background is the region `belongings`:
    uint8 (n, h, w)."""
    return np.where((parsed == 0) & there, np.uint8(belongings), parsed)


def smooth(maps: NDArray[np.uint8], *, labels: int) -> NDArray[np.uint8]:
    """Each pixel as most of the 3 × 3 around it, of equally many itself, then the smallest number:
    uint8 (n, h, w)."""
    each = functional.one_hot(torch.from_numpy(maps).long(), labels).permute(0, 3, 1, 2).float()
    votes = functional.avg_pool2d(each, 3, stride=1, padding=1) + each / 100
    return votes.argmax(dim=1).to(torch.uint8).numpy()
