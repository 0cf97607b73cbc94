"""OSNet, OSNet-IBN and OSNet-AIN.

Zhou et al., "Omni-Scale Feature Learning for Person Re-Identification", ICCV 2019, and "Learning
Generalisable Omni-Scale Representations for Person Re-Identification", TPAMI 2021. The tensors
have the names of the authors' published checkpoints, so those load as they are.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from reid_index.errors import BadWeights, UsageError

FEATURES = 512
"""Width of the feature vector, in every variant."""

CHANNELS = (64, 256, 384, 512)
"""Output channels of conv1…conv4 at width 1 (ICCV 2019, table 1)."""

WIDTHS = (0.25, 0.5, 0.75, 1.0)
NORMS = ("batch", "ibn", "ain")


@dataclass(frozen=True, kw_only=True)
class Variant:
    """Which OSNet.

    width: one of 0.25, 0.5, 0.75, 1.0; multiplies the channels of all convolutions.
    norm: where instance normalisation (IN) takes part. "batch": nowhere. "ibn": in conv1, and
        after the sum in both blocks of conv2. "ain": in conv1, and before the sum in four of the
        six blocks, the places that the TPAMI paper's search chose.
    """

    width: float
    norm: str

    def __post_init__(self) -> None:
        if self.width not in WIDTHS:
            raise UsageError(f"there is no OSNet of width {self.width}; there are {WIDTHS}")
        if self.norm not in NORMS:
            raise UsageError(f"there is no OSNet with norm {self.norm!r}; there are {NORMS}")


def detect_variant(state: Mapping[str, Tensor], *, path: Path) -> Variant:
    """The variant that a checkpoint's tensors belong to, from their names and shapes alone.

    path: the checkpoint, for messages. Raises BadWeights where they are not OSNet's.
    """
    stem = state.get("conv1.conv.weight")
    widths = {torch.Size((int(CHANNELS[0] * width), 3, 7, 7)): width for width in WIDTHS}
    width = None if stem is None else widths.get(stem.shape)
    if width is None:
        raise BadWeights(
            f"{path} is not an OSNet: it has no conv1.conv.weight of the shape "
            "(16, 32, 48 or 64, 3, 7, 7); give a checkpoint of OSNet, OSNet-IBN or OSNet-AIN"
        )
    if "conv2.0.conv2.0.layers.0.conv1.weight" in state:
        return Variant(width=width, norm="ain")
    return Variant(width=width, norm="ibn" if "conv2.0.IN.weight" in state else "batch")


class _ConvNorm(nn.Module):
    """Convolution without bias → norm (BatchNorm unless another is given) → ReLU if relu."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        kernel: int = 1,
        stride: int = 1,
        norm: nn.Module | None = None,
        relu: bool = True,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False
        )
        self.bn = nn.BatchNorm2d(outputs) if norm is None else norm
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.conv(x))
        return functional.relu(x) if self.relu else x


class _LightConv(nn.Module):
    """Lite 3×3: 1×1, then 3×3 in each channel alone → BatchNorm → ReLU (ICCV 2019, §3.1)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.bn(self.conv2(self.conv1(x))))


class _Stream(nn.Module):
    """depth Lite 3×3 in a row, named as in AIN checkpoints."""

    def __init__(self, channels: int, *, depth: int) -> None:
        super().__init__()
        self.layers = _light_convs(channels, depth=depth)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out


class _Gate(nn.Module):
    """x times one weight in (0, 1) for each channel, from the channels' means (§3.2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // 16, 1)
        self.fc2 = nn.Conv2d(channels // 16, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        means = x.mean(dim=(2, 3), keepdim=True)
        weights: Tensor = self.fc2(functional.relu(self.fc1(means)))
        return x * weights.sigmoid()


class _Block(nn.Module):
    """Omni-scale residual block: four streams of 1…4 Lite 3×3 under one shared gate.

    x̃ = Σ_t G(F^t(x)) ⊙ F^t(x), t = 1…4 (ICCV 2019, eq. 3), between a 1×1 that narrows to a
    quarter of outputs and one that widens again; the answer is relu(x̃ + x).
    """

    def __init__(self, inputs: int, outputs: int, *, conv3_norm: nn.Module | None = None) -> None:
        super().__init__()
        middle = outputs // 4
        self.conv1 = _ConvNorm(inputs, middle)
        self.gate = _Gate(middle)
        self.conv3 = _ConvNorm(middle, outputs, norm=conv3_norm, relu=False)
        self.downsample = (
            nn.Identity() if inputs == outputs else _ConvNorm(inputs, outputs, relu=False)
        )

    def residual(self, x: Tensor, streams: Iterable[nn.Module]) -> Tensor:
        """x̃, widened to outputs channels."""
        narrow = self.conv1(x)
        out: Tensor = self.conv3(sum(self.gate(stream(narrow)) for stream in streams))
        return out


class _PlainBlock(_Block):
    """A block of OSNet, or of OSNet-IBN where after_norm: then IN follows the sum."""

    def __init__(self, inputs: int, outputs: int, *, after_norm: bool) -> None:
        super().__init__(inputs, outputs)
        middle = outputs // 4
        self.conv2a = _LightConv(middle)
        self.conv2b = _light_convs(middle, depth=2)
        self.conv2c = _light_convs(middle, depth=3)
        self.conv2d = _light_convs(middle, depth=4)
        self.IN = _instance_norm(outputs) if after_norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        residual = self.residual(x, (self.conv2a, self.conv2b, self.conv2c, self.conv2d))
        return functional.relu(self.IN(residual + self.downsample(x)))


class _AinBlock(_Block):
    """A block of OSNet-AIN; where inside_norm, IN in place of conv3's BatchNorm."""

    def __init__(self, inputs: int, outputs: int, *, inside_norm: bool) -> None:
        super().__init__(inputs, outputs, conv3_norm=nn.Identity() if inside_norm else None)
        self.conv2 = nn.ModuleList(_Stream(outputs // 4, depth=depth) for depth in (1, 2, 3, 4))
        self.IN = _instance_norm(outputs) if inside_norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.IN(self.residual(x, self.conv2)) + self.downsample(x))


class OSNet(nn.Module):
    """The feature network, without the classifier that it is trained with.

    width, norm: as in `Variant`; UsageError for others. headless: without the last layers, from
    the pooling on; then `channels` is how many the map has. New networks have PyTorch's random
    weights: take them from a checkpoint with `load_strictly`.

    forward: float32 (B, 3, H, W), normalised RGB, H and W ≥ 32 (published weights: 256 × 128) →
    float32 (B, 512), ≥ 0, not L2-normalised; headless (B, channels, H / 16, W / 16).
    """

    def __init__(self, *, width: float, norm: str, headless: bool = False) -> None:
        super().__init__()
        self.variant = Variant(width=width, norm=norm)
        c1, c2, c3, c4 = (int(channels * width) for channels in CHANNELS)
        stem_norm = nn.BatchNorm2d(c1) if norm == "batch" else _instance_norm(c1)
        self.conv1 = _ConvNorm(3, c1, kernel=7, stride=2, norm=stem_norm)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        if norm == "ain":
            self.conv2 = _ain_stage(c1, c2, inside_norm=(True, True))
            self.pool2: nn.Module = _transition(c2)
            self.conv3 = _ain_stage(c2, c3, inside_norm=(False, True))
            self.pool3: nn.Module = _transition(c3)
            self.conv4 = _ain_stage(c3, c4, inside_norm=(True, False))
        else:
            # Here the checkpoints count the transition as the third member of its stage.
            self.conv2 = _plain_stage(c1, c2, after_norm=norm == "ibn").append(_transition(c2))
            self.pool2 = nn.Identity()
            self.conv3 = _plain_stage(c2, c3, after_norm=False).append(_transition(c3))
            self.pool3 = nn.Identity()
            self.conv4 = _plain_stage(c3, c4, after_norm=False)
        self.conv5 = _ConvNorm(c4, c4)
        self.channels = c4
        self.scale_channels = (c2, c3, c4)
        self.fc = (
            None
            if headless
            else nn.Sequential(nn.Linear(c4, FEATURES), nn.BatchNorm1d(FEATURES), nn.ReLU())
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.scales(x)[-1]
        if self.fc is None:
            return x
        out: Tensor = self.fc(x.mean(dim=(2, 3)))
        return out

    def scales(self, x: Tensor) -> list[Tensor]:
        """The maps behind conv2, conv3 and conv5, (B, `scale_channels`[i], …) each, H/4, H/8 and
        H/16 high."""
        first, x = _staged(self.conv2, self.pool2, self.maxpool(self.conv1(x)))
        second, x = _staged(self.conv3, self.pool3, x)
        return [first, second, self.conv5(self.conv4(x))]


def _staged(stage: nn.Sequential, pool: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """What a stage gives before and behind its transition, which is its last member or `pool`."""
    if isinstance(pool, nn.Identity):
        before = stage[:-1](x)
        return before, stage[-1](before)
    before = stage(x)
    return before, pool(before)


def _light_convs(channels: int, *, depth: int) -> nn.Sequential:
    return nn.Sequential(*(_LightConv(channels) for _ in range(depth)))


def _instance_norm(channels: int) -> nn.InstanceNorm2d:
    return nn.InstanceNorm2d(channels, affine=True)


def _transition(channels: int) -> nn.Sequential:
    return nn.Sequential(_ConvNorm(channels, channels), nn.AvgPool2d(2, stride=2))


def _plain_stage(inputs: int, outputs: int, *, after_norm: bool) -> nn.Sequential:
    return nn.Sequential(
        _PlainBlock(inputs, outputs, after_norm=after_norm),
        _PlainBlock(outputs, outputs, after_norm=after_norm),
    )


def _ain_stage(inputs: int, outputs: int, *, inside_norm: tuple[bool, bool]) -> nn.Sequential:
    first, second = inside_norm
    return nn.Sequential(
        _AinBlock(inputs, outputs, inside_norm=first),
        _AinBlock(outputs, outputs, inside_norm=second),
    )
