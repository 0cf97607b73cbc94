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


class StripePool(nn.Module):
    """(B, C, H, W) → each of P equal horizontal stripes pooled by itself, from the top: (B, P, C).

    forward raises UsageError where P does not divide H, with the numbers that do.
    """

    def __init__(self, pool: nn.Module, *, stripes: int) -> None:
        super().__init__()
        self.pool = pool
        self.stripes = stripes

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        if height % self.stripes:
            fitting = [str(count) for count in range(1, height + 1) if height % count == 0]
            raise UsageError(
                f"a map of {height} rows cannot be cut into {self.stripes} equal stripes: give an "
                f"--input-size of another height, or --stripes {' or '.join(fitting)}"
            )
        rows = height // self.stripes
        cut = x.reshape(batch, channels, self.stripes, rows, width).transpose(1, 2)
        pooled: Tensor = self.pool(cut.reshape(batch * self.stripes, channels, rows, width))
        return pooled.reshape(batch, self.stripes, channels)


def make_pooling(name: str) -> nn.Module:
    """The pooling of that name. Raises UsageError."""
    if name not in POOLINGS:
        raise UsageError(f"there is no pooling {name!r}; there are {', '.join(POOLINGS)}")
    return GeM() if name == "gem" else AveragePool()
