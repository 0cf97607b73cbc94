"""ConvNeXt T, S and B, and the smaller ones named since, without the head; with SimAM if wanted.

Liu et al., "A ConvNet for the 2020s", CVPR 2022. The tensors have the names of the authors'
checkpoints. SimAM: Yang et al., "SimAM: A Simple, Parameter-Free Attention Module for Convolutional
Neural Networks", ICML 2021.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

from reid_index.errors import UsageError

SIZES = {
    "atto": ((2, 2, 6, 2), (40, 80, 160, 320)),
    "femto": ((2, 2, 6, 2), (48, 96, 192, 384)),
    "pico": ((2, 2, 6, 2), (64, 128, 256, 512)),
    "tiny": ((3, 3, 9, 3), (96, 192, 384, 768)),
    "small": ((3, 3, 27, 3), (96, 192, 384, 768)),
    "base": ((3, 3, 27, 3), (128, 256, 512, 1024)),
}
"""Size → blocks and channels of the four stages (CVPR 2022, section 3; the three smallest: Woo et
al., "ConvNeXt V2", CVPR 2023, table 10)."""

_LAMBDA = 1e-4
"""Of SimAM's energies: section 3.2 of its paper."""


def simam(x: Tensor) -> Tensor:
    """(B, C, H, W), each value times the sigmoid of its importance, the inverse of its energy.

    The least energy of a value t among the M of its channel is 4(σ² + λ) / ((t − μ)² + 2σ² + 2λ),
    with λ = 1e-4 and σ² over M − 1 (ICML 2021, eq. 5): the more t stands out, the lower.
    """
    apart = (x - x.mean(dim=(2, 3), keepdim=True)).pow(2)
    others = max(1, x.shape[2] * x.shape[3] - 1)
    variance = apart.sum(dim=(2, 3), keepdim=True) / others
    return x * torch.sigmoid((apart + 2 * variance + 2 * _LAMBDA) / (4 * (variance + _LAMBDA)))


class _ChannelNorm(nn.Module):
    """LayerNorm over the channels of a map (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        last = x.permute(0, 2, 3, 1)
        normed = nn.functional.layer_norm(last, self.weight.shape, self.weight, self.bias, 1e-6)
        return normed.permute(0, 3, 1, 2)


class _Block(nn.Module):
    """7 × 7 in each channel alone → LayerNorm → four times as many channels → GELU → as many as
    before, scaled by gamma, beside a shortcut that is dropped at random in training (figure 4).

    With SimAM, what is to be added is weighed by it first, before gamma: at the size of gamma, λ
    would outweigh every variance.
    """

    def __init__(self, channels: int, *, drop: float, scale: float, simam: bool) -> None:
        super().__init__()
        self.simam = simam
        self.dwconv = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.pwconv1 = nn.Linear(channels, 4 * channels)
        self.pwconv2 = nn.Linear(4 * channels, channels)
        self.gamma = nn.Parameter(torch.full((channels,), scale))
        self.drop = drop

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        out = self.pwconv2(nn.functional.gelu(self.pwconv1(out)))
        if self.simam:
            out = simam(out.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        out = (self.gamma * out).permute(0, 3, 1, 2)
        if self.training and self.drop > 0:
            kept = torch.rand(len(x), 1, 1, 1, device=x.device) >= self.drop
            out = out * kept / (1 - self.drop)
        return x + out


class ConvNeXt(nn.Module):
    """size: one of SIZES. drop_path: how often the last block's branch is dropped in training; the
    others' more seldom, rising from 0 (stochastic depth). simam: in each block; without weights.
    width: multiplies all channels; published weights have 1.

    forward: float32 (B, 3, H, W), H and W ≥ 32 → (B, `channels`, H // 32, W // 32), not normalised.
    """

    def __init__(
        self, *, size: str, drop_path: float = 0.0, simam: bool = False, width: float = 1.0
    ) -> None:
        super().__init__()
        self.simam = simam
        if size not in SIZES:
            raise UsageError(f"there is no ConvNeXt {size!r}; there are {', '.join(SIZES)}")
        counts, published = SIZES[size]
        widths = [int(base * width) for base in published]
        self.channels = widths[-1]
        self.scale_channels = tuple(widths)
        last = sum(counts) - 1
        drops = (drop_path * number / last for number in range(last + 1))
        first = nn.Sequential(nn.Conv2d(3, widths[0], 4, stride=4), _ChannelNorm(widths[0]))
        self.downsample_layers = nn.ModuleList([first])
        for narrow, wide in pairwise(widths):
            self.downsample_layers.append(
                nn.Sequential(_ChannelNorm(narrow), nn.Conv2d(narrow, wide, 2, stride=2))
            )
        self.stages = nn.ModuleList(
            nn.Sequential(
                *(_Block(wide, drop=next(drops), scale=1e-6, simam=simam) for _ in range(count))
            )
            for count, wide in zip(counts, widths, strict=True)
        )
        for part in self.modules():
            if isinstance(part, nn.Conv2d | nn.Linear):
                nn.init.trunc_normal_(part.weight, std=0.02)
                nn.init.zeros_(part.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return self.scales(x)[-1]

    def scales(self, x: Tensor) -> list[Tensor]:
        """The maps behind each stage, (B, `scale_channels`[i], …) each, the first one H/4 high;
        the last one is what `forward` gives."""
        found = []
        for smaller, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = stage(smaller(x))
            found.append(x)
        return found
