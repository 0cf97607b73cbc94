"""What systems of horizontal stripes have in common: a narrow vector and a classifier for each.

The stripes of a person standing upright show about the same body parts in every crop: head, chest,
hips, and so on (Sun et al., "Beyond Part Models: Person Retrieval with Refined Part Pooling", ECCV
2018, section 3).
"""

import torch
from torch import Tensor, nn

from .system import initialise_classifier


class Narrow(nn.Module):
    """(…, C) → linear → batch normalisation → ReLU → (…, D): the 1 × 1 convolution of pooled
    vectors."""

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, dim, bias=False)
        self.norm = nn.BatchNorm1d(dim)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm(self.linear(x)))


class NarrowEach(nn.Module):
    """(B, P, C) → a `Narrow` of its own for each of P stripes → (B, P, D)."""

    def __init__(self, stripes: int, channels: int, dim: int) -> None:
        super().__init__()
        self.each = nn.ModuleList(Narrow(channels, dim) for _ in range(stripes))

    def forward(self, x: Tensor) -> Tensor:
        narrow = [one(stripe) for one, stripe in zip(self.each, x.unbind(dim=1), strict=True)]
        return torch.stack(narrow, dim=1)


def classifiers(count: int, dim: int, *, classes: int) -> nn.ModuleList:
    """A classifier for each of so many vectors (B, dim)."""
    return nn.ModuleList(initialise_classifier(nn.Linear(dim, classes)) for _ in range(count))


def unit(x: Tensor) -> Tensor:
    """Vectors along the last axis, of length 1; a vector of zeros stays one."""
    return nn.functional.normalize(x, dim=-1)
