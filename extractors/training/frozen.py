"""What a backbone that does not learn says of crops, once and for all."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..preprocess import Preprocess
from ..systems.system import System
from .augment import Augment, prepare

_SEED = 2
_BATCH = 128


def views_of(
    system: System,
    crops: NDArray[np.uint8],
    *,
    count: int,
    augment: Augment,
    preprocess: Preprocess,
    seed: int,
    device: torch.device,
) -> Tensor:
    """The vectors of so many views of each crop, changed at random: float32 (count, N, dim) on the
    CPU, 2 kB a view of 512 dimensions. The same for the same seed.

    crops: uint8 (N, height, width, 3).
    """
    views = torch.empty(count, len(crops), system.dim)
    was = system.training
    system.eval()
    with torch.inference_mode():
        for view in range(count):
            rng = np.random.default_rng((seed, view, _SEED))
            for start in range(0, len(crops), _BATCH):
                some = crops[start : start + _BATCH]
                fed = torch.from_numpy(prepare(some, augment, preprocess, rng))
                fed = fed.to(device, memory_format=torch.channels_last)
                views[view, start : start + len(some)] = system.embed(fed).float().cpu()
    system.train(was)
    return views
