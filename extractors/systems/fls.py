"""Fine-grained local semantics: parts that the network finds by itself, attributes told from the
parts that they belong to, and confidences that mend each other (source 002: FLS, ALM, AWM).

The paper (Chinese, a bad scan; section 3 is unreadable up to eq. 13) builds on BoT (bot.py), on
ISP, Zhu et al., "Identity-Guided Human Semantic Parsing for Person Re-Identification", ECCV 2020,
and on a human parser. Published, ResNet-50, Market-1501, mAP / rank-1: BoT 85.9 / 94.5, with FLS
88.2 / 95.2, with ALM 89.2 / 95.5, with AWM 89.5 / 95.6.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from reid_index.errors import UsageError
from reid_index.matcher import VISIBILITY, Matcher

from ..pooling import make_pooling
from .stripes import unit
from .system import System, Trained, initialise_classifier

DIM = 256
"""Channels of the map, and dimensions of each vector."""

REGIONS = 6
"""Body parts, from the top: ISP finds 6 best on Market-1501 (its figure 4)."""

LOOKS = ("global", "regions", "weighted")
"""Where attributes are told from: the whole; the regions that they belong to (ALM); these, and
then re-weighted (AWM)."""

_WHOLE = (0.0, 1.0)
_PLACES = {
    "hat": (0.0, 0.2),
    "hair": (0.0, 0.35),
    "sleeve": (0.15, 0.6),
    "coat": (0.15, 0.6),
    "upper_color": (0.15, 0.6),
    "backpack": (0.15, 0.7),
    "bag": (0.15, 0.8),
    "handbag": (0.3, 0.9),
    "lower_length": (0.5, 1.0),
    "lower_type": (0.5, 1.0),
    "lower_color": (0.5, 1.0),
    "boots": (0.75, 1.0),
    "shoes": (0.85, 1.0),
}
"""Attribute → where it is to be seen, as shares of the body from the top; others (gender, age) all
over it."""

BELONGINGS = frozenset({"backpack", "bag", "handbag"})
"""Told from the region of belongings, where there is one."""

_LEAST = 1e-6


@dataclass(frozen=True, kw_only=True)
class Looks:
    """What there is to tell of people: attribute → its words, in order; and where from, one of
    LOOKS. words: at least two each."""

    words: tuple[tuple[str, tuple[str, ...]], ...]
    told_from: str = "weighted"

    @property
    def count(self) -> int:
        """Words of all attributes together."""
        return sum(len(words) for _, words in self.words)


class FLS(System):
    """backbone → maps of all scales, narrowed to D channels and summed at the largest → map M.

    A pixel classifier tells the background, P_0, and R regions, P_1 … P_R, on M; from the top, the
    last one what people carry where `belongings`. Vectors of D each: F_global, M's mean;
    F_foreground, M's mean weighted by 1 − P_0; F_part_k, weighted by P_k; and with `looks`
    F_ga, a linear layer on [F_global ; the words' probabilities]. F_parts, joined, are one vector
    in training. Each is compared, and told apart behind a batch normalisation (BNNeck), as in BoT.
    No vector's loss moves the regions: they are learnt from labels of pixels alone (see
    training/regions.py), so that they stay parts of bodies.

    Searched by F_global, and of those found by all: parts (B, P, D) are F_foreground, F_ga where
    there is one, and F_parts, each of length 1; the former are always visible, part k where some
    pixel is likeliest of region k (eq. 13, 14).
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        classes: int,
        pooling: str,
        dim: int,
        regions: int,
        belongings: bool,
        looks: Looks | None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.dim = dim or DIM
        self.regions = regions or REGIONS
        self.merge = _Merge(backbone, self.dim)
        self.pool = make_pooling(pooling)
        self.pixels = _Pixels(self.dim, 1 + self.regions)
        self.looks = None if looks is None else _Tell(self, looks, belongings=belongings)
        # Global, foreground, global with attributes if any, and the parts joined.
        wide = [self.dim] * (2 if looks is None else 3) + [self.regions * self.dim]
        self.necks = nn.ModuleList(_neck(one) for one in wide)
        self.classifier = nn.ModuleList(
            initialise_classifier(nn.Linear(one, classes, bias=False)) for one in wide
        )

    @property
    def metric_dims(self) -> tuple[int, ...]:
        return tuple(int(one.num_features) for one in self.necks)  # type: ignore[arg-type]

    @property
    def matcher(self) -> Matcher:
        return Matcher(name=VISIBILITY, distance="cosine")

    def forward(self, x: Tensor) -> Trained:
        found = self._found(x)
        heads = zip(self.classifier, self.necks, found.vectors, strict=True)
        return Trained(
            metrics=tuple(found.vectors),
            logits=tuple(head(neck(one)) for head, neck, one in heads),
            regions=found.pixels,
            words=found.words,
        )

    def embed(self, x: Tensor) -> Tensor:
        out: Tensor = self.necks[0](self.pool(self.map(x)))
        return out

    def embed_parts(self, x: Tensor) -> tuple[Tensor, ...]:
        """As `embed`, parts float32 (B, P, D), visible uint8 (B, P), and, with `looks`, the
        probabilities of all words, float32 (B, words)."""
        found = self._found(x)
        whole, *present, parts = (
            neck(one) for neck, one in zip(self.necks, found.vectors, strict=True)
        )
        parts = parts.reshape(len(x), self.regions, self.dim)
        likeliest = found.pixels.flatten(2).argmax(dim=1)
        there = functional.one_hot(likeliest, 1 + self.regions).amax(dim=1)[:, 1:]
        always = there.new_ones(len(x), len(present))
        told = (found.words[-1].exp(),) if found.words else ()
        return (
            whole,
            unit(torch.cat([torch.stack(present, dim=1), parts], dim=1)),
            torch.cat([always, there], dim=1).to(torch.uint8),
            *told,
        )

    def map(self, x: Tensor) -> Tensor:
        """M, (B, D, H/4, W/4)."""
        found: Tensor = self.merge(self.backbone.scales(x))  # type: ignore[operator]
        return found

    def _found(self, x: Tensor) -> "_Found":
        seen = self.map(x)
        pixels = self.pixels(seen)
        shares = pixels.detach().float().softmax(dim=1)[:, 1:].flatten(2)
        sums = shares @ seen.float().flatten(2).transpose(1, 2)
        areas = shares.sum(dim=2, keepdim=True)
        whole = self.pool(seen)
        present = [whole, _mean(sums.sum(dim=1), areas.sum(dim=1))]
        words: tuple[Tensor, ...] = ()
        if self.looks is not None:
            words = self.looks(whole, sums, areas)
            present.append(self.looks.joined(whole, words[-1]))
        return _Found([*present, _mean(sums, areas).flatten(1)], pixels, words)


@dataclass(frozen=True)
class _Found:
    """vectors: F_global, F_foreground, F_ga if any, F_parts joined. pixels: scores of regions,
    (B, 1 + R, h, w). words: logarithms of probabilities (B, words), before and, where they are
    re-weighted, behind."""

    vectors: list[Tensor]
    pixels: Tensor
    words: tuple[Tensor, ...]


class _Merge(nn.Module):
    """Maps of several scales, each through a 1 × 1 convolution and a batch normalisation, brought
    to the size of the largest and summed: (B, dim, h, w), ≥ 0."""

    def __init__(self, backbone: nn.Module, dim: int) -> None:
        super().__init__()
        channels: tuple[int, ...] = backbone.scale_channels  # type: ignore[assignment]
        self.each = nn.ModuleList(
            nn.Sequential(nn.Conv2d(one, dim, 1, bias=False), nn.BatchNorm2d(dim))
            for one in channels
        )

    def forward(self, maps: list[Tensor]) -> Tensor:
        size = maps[0].shape[2:]
        narrow = [each(one) for each, one in zip(self.each, maps, strict=True)]
        summed = narrow[0]
        for one in narrow[1:]:
            summed = summed + functional.interpolate(
                one, size=size, mode="bilinear", align_corners=False
            )
        return torch.relu(summed)


class _Pixels(nn.Module):
    """Scores of each pixel, by what is seen there, normalised, and by where that is: height y,
    y² and x², from -1 to 1, so that a score can have its best in the middle."""

    def __init__(self, dim: int, count: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(dim)
        self.score = nn.Conv2d(dim + 3, count, 1)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        y = torch.linspace(-1, 1, height, device=x.device, dtype=x.dtype)[:, None]
        across = torch.linspace(-1, 1, width, device=x.device, dtype=x.dtype)[None]
        y, across = y.expand(height, width), across.expand(height, width)
        place = torch.stack([y, y * y, across * across]).expand(batch, 3, height, width)
        out: Tensor = self.score(torch.cat([self.norm(x), place], dim=1))
        return out


class _Tell(nn.Module):
    """Attributes, each told by a linear layer from the mean over the regions that it belongs to
    (or from the whole), and, where weighted, the probabilities a of all words multiplied by
    w = 2 · sigmoid(W a + b), which learns what goes together, and brought back to a sum of 1 for
    each attribute."""

    def __init__(self, system: FLS, looks: Looks, *, belongings: bool) -> None:
        super().__init__()
        dim, regions = system.dim, system.regions
        self.told_from = looks.told_from
        self.sizes = [len(words) for _, words in looks.words]
        places = [places_of(name, regions, belongings=belongings) for name, _ in looks.words]
        self.register_buffer("places", torch.tensor(places, dtype=torch.float32), persistent=False)
        self.tell = nn.ModuleList(
            nn.Sequential(nn.BatchNorm1d(dim), nn.Linear(dim, size)) for size in self.sizes
        )
        self.weigh = None
        if looks.told_from == "weighted":
            # At first nothing is changed: all weights are 1.
            self.weigh = nn.Linear(looks.count, looks.count)
            nn.init.zeros_(self.weigh.weight)
            nn.init.zeros_(self.weigh.bias)
        self.join = nn.Linear(dim + looks.count, dim, bias=False)

    def forward(self, whole: Tensor, sums: Tensor, areas: Tensor) -> tuple[Tensor, ...]:
        seen = [whole] * len(self.sizes)
        if self.told_from != "global":
            places: Tensor = self.places  # type: ignore[assignment]
            seen = list(_mean(places @ sums, places @ areas).unbind(dim=1))
        told = [tell(one).float() for tell, one in zip(self.tell, seen, strict=True)]
        first = _log_shares(torch.cat(told, dim=1), self.sizes)
        if self.weigh is None:
            return (first,)
        weights = functional.logsigmoid(self.weigh(first.exp()))
        return first, _log_shares(first + weights, self.sizes)

    def joined(self, whole: Tensor, words: Tensor) -> Tensor:
        """F_ga. Attributes are learnt from their labels, not from who it is."""
        found: Tensor = self.join(torch.cat([whole, words.detach().exp()], dim=1))
        return found


def places_of(name: str, regions: int, *, belongings: bool) -> list[float]:
    """For each region, whether an attribute is told from it: 1 or 0, at least one 1.

    Regions are counted from the top, their middles spread evenly; the last one is apart where it is
    that of belongings.
    """
    body = regions - 1 if belongings else regions
    if belongings and name in BELONGINGS:
        return [0.0] * body + [1.0]
    first, last = _PLACES.get(name, _WHOLE)
    middles = [(number + 0.5) / body for number in range(body)]
    found = [float(first <= middle <= last) for middle in middles]
    if not any(found):
        centre = (first + last) / 2
        found[min(range(body), key=lambda number: abs(middles[number] - centre))] = 1.0
    return found + [0.0] * belongings


def check_regions(regions: int, *, belongings: bool) -> None:
    """Raise UsageError unless so many can be told: 1 to 32, and one beside that of belongings."""
    if not 0 <= regions <= 32 or (belongings and regions == 1):
        raise UsageError(f"there can be 1 to 32 regions, two with belongings, not {regions}")


def _neck(dim: int) -> nn.BatchNorm1d:
    neck = nn.BatchNorm1d(dim)
    neck.bias.requires_grad_(False)
    return neck


def _mean(sums: Tensor, areas: Tensor) -> Tensor:
    return sums / areas.clamp(min=_LEAST)


def _log_shares(scores: Tensor, sizes: list[int]) -> Tensor:
    """Scores of all words (B, words) as logarithms of probabilities, a sum of 1 for each
    attribute."""
    return torch.cat([one.log_softmax(dim=1) for one in torch.split(scores, sizes, dim=1)], dim=1)
