"""From a feature map to one vector."""

import torch
from torch import Tensor, nn

from reid_index.errors import UsageError

POOLINGS = ("average", "gem")


class AveragePool(nn.Module):
    """(B, C, H, W) → the mean over all places, (B, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3))


class GeM(nn.Module):
    """(B, C, H, W) → the generalised mean over all places, (B, C): (mean of x^p)^(1/p), with p
    learned.

    Radenović et al., "Fine-tuning CNN Image Retrieval with No Human Annotation", TPAMI 2019, eq. 3.
    Values below 1e-6 count as that. p: where it begins.
    """

    def __init__(self, p: float = 3.0) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.tensor([p]))

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(min=1e-6).pow(self.p).mean(dim=(2, 3)).pow(1 / self.p)


def make_pooling(name: str) -> nn.Module:
    """The pooling of that name. Raises UsageError."""
    if name not in POOLINGS:
        raise UsageError(f"there is no pooling {name!r}; there are {', '.join(POOLINGS)}")
    return GeM() if name == "gem" else AveragePool()
