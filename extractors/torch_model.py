"""What extractors that run a network in PyTorch have in common."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reid_index.errors import BadWeights, UsageError
from reid_index.fingerprint import Fingerprint

from .model import ModelExtractor
from .preprocess import Preprocess


class TorchExtractor(ModelExtractor):
    """embed: float32 (B, 3, height, width) on the device → (B, D)."""

    def __init__(
        self,
        embed: Callable[[Tensor], Tensor],
        *,
        device: torch.device,
        preprocess: Preprocess,
        fingerprint: Fingerprint,
    ) -> None:
        self._network = embed
        self._device = device
        try:
            super().__init__(preprocess=preprocess, fingerprint=fingerprint)
        except RuntimeError as error:
            raise BadWeights(
                f"the model cannot run on crops of {preprocess.height}x{preprocess.width}: "
                f"{str(error).splitlines()[0]}"
            ) from None

    def run(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        (features,) = self.computed(lambda fed: (self._network(fed),), batch)
        return features

    def computed(
        self, network: Callable[[Tensor], tuple[Tensor, ...]], batch: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], ...]:
        """What a network on the device gives for a batch, as float32."""
        with torch.inference_mode():
            # Copied only when read-only, of which from_numpy would warn.
            writable = np.require(batch, requirements="W")
            found = network(torch.from_numpy(writable).to(self._device))
        return tuple(one.float().cpu().numpy() for one in found)


def torch_device(name: str) -> torch.device:
    """The device of that name. Raises UsageError where PyTorch has none such or cannot use it."""
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError):  # PyTorch built without CUDA asserts
        raise UsageError(
            f"device {name!r} is not to be had on this machine; take cpu, or cuda where PyTorch "
            "finds a GPU"
        ) from None
    return device
