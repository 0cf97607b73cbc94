"""ResNet-18 to ResNet-101, with the variants that people's checkpoints need.

He et al., "Deep Residual Learning for Image Recognition", CVPR 2016; IBN-a: Pan et al., "Two at
Once: Enhancing Learning and Generalization Capacities via IBN-Net", ECCV 2018; non-local blocks:
Wang et al., "Non-local Neural Networks", CVPR 2018, as AGW has them (Ye et al., TPAMI 2021).
The tensors have the names of torchvision's checkpoints; IBN-a adds `bn1.IN` and `bn1.BN`, and
non-local blocks are `NL_2` to `NL_4` as in fast-reid.
"""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from reid_index.errors import UsageError

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
"""Depth → residual blocks of layer1…layer4 (CVPR 2016, table 1)."""

_NON_LOCAL = {50: (0, 2, 3, 0), 101: (0, 2, 9, 0)}
"""Depth → how many of the last blocks of each layer a non-local block follows, in fast-reid."""

POOLS = ("padded", "ceil", "half")


@dataclass(frozen=True, kw_only=True)
class Stem:
    """What lies between the first convolution and layer1; codebases differ without saying so.

    relu: whether bn1 is followed by a ReLU. The strong baseline has none, except with IBN-a.
    pool: "padded": 3 × 3 with padding, as torchvision's; "ceil": 3 × 3 without padding, sizes
        rounded up, as fast-reid's; "half": 2 × 2, as TransReID's.
    """

    relu: bool = True
    pool: str = "padded"

    def __post_init__(self) -> None:
        if self.pool not in POOLS:
            known = ", ".join(POOLS)
            raise UsageError(f"there is no stem pooling {self.pool!r}; there are {known}")


class ResNet(nn.Module):
    """Without the classifier.

    depth: one of BLOCKS; below 50 of basic blocks, else of bottlenecks. ibn: IBN-a in layer1 to
    layer3. last_stride: of layer4; 1 keeps a map twice as high. non_local: AGW's blocks, at
    depth 50 and 101. width: multiplies all channels; published weights have 1.

    forward: float32 (B, 3, H, W) → (B, `channels`, H/32, W/32), or H/16, W/16 with last_stride 1;
    sizes rounded up.
    """

    def __init__(
        self,
        *,
        depth: int,
        ibn: bool = False,
        last_stride: int = 1,
        non_local: bool = False,
        stem: Stem | None = None,
        width: float = 1.0,
    ) -> None:
        super().__init__()
        if depth not in BLOCKS:
            raise UsageError(f"there is no ResNet-{depth}; there are {', '.join(map(str, BLOCKS))}")
        if non_local and depth not in _NON_LOCAL:
            raise UsageError(f"there is no ResNet-{depth} with non-local blocks")
        if last_stride not in (1, 2):
            raise UsageError(f"the last stride is 1 or 2, not {last_stride}")
        self.stem = stem or Stem()
        block = _Basic if depth < 50 else _Bottleneck
        planes = [int(base * width) for base in (64, 128, 256, 512)]
        strides = (1, 2, 2, last_stride)
        self.conv1 = nn.Conv2d(3, planes[0], 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(planes[0])
        self.maxpool = _stem_pool(self.stem.pool)
        self.channels = planes[0]
        for number, (count, plane, stride) in enumerate(
            zip(BLOCKS[depth], planes, strides, strict=True), start=1
        ):
            # The last layer stays plain, so that what tells people apart is not normalised away.
            layer = self._layer(block, plane, count, stride=stride, ibn=ibn and number < 4)
            self.add_module(f"layer{number}", layer)
            here = _NON_LOCAL[depth][number - 1] if non_local else 0
            if here:
                self.add_module(
                    f"NL_{number}", nn.ModuleList(_NonLocal(self.channels) for _ in range(here))
                )
        self.scale_channels = tuple(plane * block.expansion for plane in planes)
        _initialise(self)

    def _layer(
        self, block: "type[_Basic | _Bottleneck]", plane: int, count: int, *, stride: int, ibn: bool
    ) -> nn.Sequential:
        blocks = []
        for number in range(count):
            blocks.append(block(self.channels, plane, stride=stride if number == 0 else 1, ibn=ibn))
            self.channels = plane * block.expansion
        return nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(self.head(x))

    def head(self, x: Tensor) -> Tensor:
        """Up to the first block of layer3."""
        x = self._begun(x)
        for block in (*self._blocks(1), *self._blocks(2), self._blocks(3)[0]):
            x = block(x)
        return x

    def _begun(self, x: Tensor) -> Tensor:
        x = self.bn1(self.conv1(x))
        if self.stem.relu:
            x = functional.relu(x)
        out: Tensor = self.maxpool(x)
        return out

    def scales(self, x: Tensor) -> list[Tensor]:
        """The maps behind layer1…layer4, (B, `scale_channels`[i], …) each, the first one H/4 high;
        the last one is what `forward` gives."""
        x = self._begun(x)
        found = []
        for layer in range(1, 5):
            for block in self._blocks(layer):
                x = block(x)
            found.append(x)
        return found

    def rest(self, x: Tensor) -> Tensor:
        """What follows `head`."""
        for block in (*self._blocks(3)[1:], *self._blocks(4)):
            x = block(x)
        return x

    def tail(self) -> nn.Sequential:
        """What `rest` does, with weights of its own, equal to these now."""
        return copy.deepcopy(nn.Sequential(*self._blocks(3)[1:], *self._blocks(4)))

    def _blocks(self, layer: int) -> list[nn.Module]:
        """Of a layer, in order, with the non-local blocks that follow the last ones."""
        blocks: list[nn.Module] = []
        own = list(self.get_submodule(f"layer{layer}").children())
        others = list(getattr(self, f"NL_{layer}", ()))
        for place, block in enumerate(own, start=len(others) - len(own)):
            blocks += [block] if place < 0 else [block, others[place]]
        return blocks


def _stem_pool(pool: str) -> nn.MaxPool2d:
    if pool == "half":
        return nn.MaxPool2d(2)
    if pool == "ceil":
        return nn.MaxPool2d(3, stride=2, ceil_mode=True)
    return nn.MaxPool2d(3, stride=2, padding=1)


class _Ibn(nn.Module):
    """Instance normalisation of the first half of the channels, batch normalisation of the rest."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels // 2
        self.IN = nn.InstanceNorm2d(self.channels, affine=True)
        self.BN = nn.BatchNorm2d(channels - self.channels)

    def forward(self, x: Tensor) -> Tensor:
        first, rest = x[:, : self.channels], x[:, self.channels :]
        return torch.cat([self.IN(first.contiguous()), self.BN(rest.contiguous())], dim=1)


def _norm(channels: int, *, ibn: bool) -> nn.Module:
    return _Ibn(channels) if ibn else nn.BatchNorm2d(channels)


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    """Named `downsample` where it has weights, as in the checkpoints."""
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
    )


class _Basic(nn.Module):
    """Two 3 × 3 convolutions beside a shortcut (CVPR 2016, figure 5, left)."""

    expansion = 1

    def __init__(self, inputs: int, plane: int, *, stride: int, ibn: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, plane, 3, stride=stride, padding=1, bias=False)
        self.bn1 = _norm(plane, ibn=ibn)
        self.conv2 = nn.Conv2d(plane, plane, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(plane)
        self.downsample = _shortcut(inputs, plane, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(out)) + self.downsample(x))


class _Bottleneck(nn.Module):
    """1 × 1, 3 × 3 and 1 × 1 beside a shortcut (figure 5, right); the stride is that of the 3 × 3,
    as in torchvision."""

    expansion = 4

    def __init__(self, inputs: int, plane: int, *, stride: int, ibn: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, plane, 1, bias=False)
        self.bn1 = _norm(plane, ibn=ibn)
        self.conv2 = nn.Conv2d(plane, plane, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(plane)
        self.conv3 = nn.Conv2d(plane, plane * 4, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(plane * 4)
        self.downsample = _shortcut(inputs, plane * 4, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = functional.relu(self.bn1(self.conv1(x)))
        out = functional.relu(self.bn2(self.conv2(out)))
        return functional.relu(self.bn3(self.conv3(out)) + self.downsample(x))


class _NonLocal(nn.Module):
    """x plus, at each place, a mean of all places weighted by likeness (CVPR 2018, eq. 1 to 6, dot
    product). In AGW's code the embedding has one channel, whatever its paper says; its published
    weights are of that shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.g = nn.Conv2d(channels, 1, 1)
        self.theta = nn.Conv2d(channels, 1, 1)
        self.phi = nn.Conv2d(channels, 1, 1)
        self.W = nn.Sequential(nn.Conv2d(1, channels, 1), nn.BatchNorm2d(channels))
        # So that a new block changes nothing at first.
        nn.init.zeros_(self.W[1].weight)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        value, query, key = (part(x).flatten(1) for part in (self.g, self.theta, self.phi))
        # With one channel, the places × places matrix of likeness has rank 1.
        weighted = query * (key * value).sum(dim=1, keepdim=True) / key.shape[1]
        added: Tensor = self.W(weighted.view(-1, 1, height, width))
        return x + added


def _initialise(module: nn.Module) -> None:
    """As He et al. (ICCV 2015) for convolutions; norms start as identities."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d) and part.bias is None:
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
