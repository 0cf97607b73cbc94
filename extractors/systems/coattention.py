"""Co-attention: a segment of video is seen anew for each target, by what the target asks for.

US application 2020/0134321 A1 (source 001), paragraphs 46 to 52, and the same authors' paper: Chen
et al., "Video Person Re-identification with Competitive Snippet-similarity Aggregation and
Co-attentive Snippet Embedding", CVPR 2018. Published, ResNet-50: MARS rank-1 86.3, mAP 76.1;
iLIDS-VID rank-1 85.4, PRID2011 93.0, with optical flow beside the pictures.
"""

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..checkpoint import load_strictly
from .bot import BoT
from .system import Trained, initialise_classifier

DIM = 128
"""Of keys, index vectors, values and codes, unless a plan says otherwise."""

OTHERS = 100
"""Pairs of segments in a search that are not of the same person, for one that is: probabilities are
learnt as if of such. Sums of them would otherwise be decided by how many segments there are."""

DROP = 0.3
"""How much of a frame's vector is left out in training."""

CALM = 0.1
"""What keys are multiplied with, so that attention is learnt more slowly than what is attended to:
as fast, it learns the training's segments by heart (docs/training.md has figures)."""

_SHORTEST = 0.1
"""Of a mean of frames, as a divisor: frames that cancel each other are of nobody."""

OF_FRAMES = ("backbone", "pool", "reduction", "bottleneck")
"""The modules that make vectors of frames."""


class CoAttention(BoT):
    """BoT, whose vectors f' are those of a segment's frames, and behind them

    x_t = √dim · f'_t / |f'_t|, divided by the length of their mean as if those had length 1; key
    k_t = linear(x_t); value v_t = linear(x_t); and of the segment the index vector q: what an LSTM
    over x_1 … x_T says last. Asked by q, a segment has the code e = Σ_t a_t · v_t,
    a = softmax_t ⟨q, k_t⟩.

    A target p has the code e_p by its own q_p, a candidate g the code e_g by the target's q_p, its
    own keys and values. (e_p − e_g)², each number squared → batch normalisation → linear to 2 →
    softmax: the probabilities of "not the same" and "the same".

    Other than in the source: lengths of x_t, which is not said there. The mean of many frames is
    shorter than one of few, and the shorter a code, the nearer it is to all others; so that would
    be learnt. Divided by the mean's length, codes are about equally long, and a network begins as
    what it is to be better than, the cosine of mean vectors: all frames count about alike, and
    values keep what they can of distances (`settle`).

    forward: float32 (S, T, 3, H, W), segments of T frames in order of time; or, where the backbone
    is not to learn, f' of those frames, (S, T, dim). embed: f', as BoT. key: dimensions of keys and
    index vectors; value: of values and codes; 0 for DIM.
    """

    of_segments = True

    def __init__(
        self,
        backbone: nn.Module,
        *,
        classes: int,
        pooling: str,
        dim: int,
        neck: bool,
        key: int,
        value: int,
    ) -> None:
        super().__init__(backbone, classes=classes, pooling=pooling, dim=dim, neck=neck)
        key, value = key or DIM, value or DIM
        self.key = nn.Linear(self.dim, key)
        # So that all frames count alike until something else is learnt.
        nn.init.normal_(self.key.weight, std=0.001)
        nn.init.zeros_(self.key.bias)
        # Without a bias, which differences of codes do not have.
        self.value = nn.Linear(self.dim, value, bias=False)
        nn.init.orthogonal_(self.value.weight)
        self.drop = nn.Dropout(DROP)
        self.index = nn.LSTM(self.dim, key, batch_first=True)
        self.norm = nn.BatchNorm1d(value)
        self.pair = nn.Linear(value, 2)
        self.classifier = nn.ModuleDict(
            {
                "frames": self.classifier,
                "codes": nn.Sequential(
                    _neck(value), initialise_classifier(nn.Linear(value, classes, bias=False))
                ),
            }
        )
        self.is_settled = False
        with torch.no_grad():
            apart = torch.full((value,), 1 / value)
            self.pair.weight.copy_(torch.stack([apart, -apart]))
            self.pair.bias.copy_(torch.tensor([0.0, -math.log(OTHERS)]))

    @property
    def metric_dims(self) -> tuple[int, ...]:
        return (self.dim,)

    def begin(self, state: Mapping[str, Tensor], *, path: Path) -> None:
        """Begin with a backbone; or with all of a model of this project: its vectors, where it is a
        BoT, or everything, where it is a co-attention network.

        state: a backbone's tensors by their names in it, or a model's by their names there.
        """
        if not any(name.startswith("backbone.") for name in state):
            super().begin(state, path=path)
            return
        parts = [name for name, _ in self.named_children() if name != "classifier"]
        if not any(name.startswith("pair.") for name in state):
            parts = list(OF_FRAMES)
        some = nn.ModuleDict({name: getattr(self, name) for name in parts})
        load_strictly(some, state, classifier_prefixes=("classifier.",), path=path)
        self.is_settled = "pair" in parts

    @torch.no_grad()
    def settle(self, vectors: Tensor) -> None:
        """Have the values of a new network keep what they can of the distances of such vectors f'
        (N, dim): they become their principal directions, turned so that each has a share of all.
        Nothing is done to a network that began as another one's whole."""
        if self.is_settled:
            return
        frames = functional.normalize(vectors.double(), dim=1)
        apart = frames - frames.mean(dim=0)
        _, directions = torch.linalg.eigh(apart.T @ apart)
        kept = directions.T.flip(0)[: self.value.out_features]
        old = self.value.weight.double()
        left, _, right = torch.linalg.svd(old @ kept.T, full_matrices=False)
        self.value.weight.copy_(left @ right @ kept)
        self.is_settled = True

    def freeze(self) -> None:
        """Let what makes vectors of frames be, from now on."""
        assert isinstance(self.classifier, nn.ModuleDict)
        for name in OF_FRAMES:
            getattr(self, name).requires_grad_(False)
        self.classifier["frames"].requires_grad_(False)

    def asked(self, frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """f' (S, T, dim) → index vectors (S, Dk), keys (S, T, Dk), values (S, T, Dv)."""
        frames = functional.normalize(self.drop(frames.float()), dim=2)
        length = frames.mean(dim=1, keepdim=True).norm(dim=2, keepdim=True)
        frames = self.dim**0.5 * frames / length.clamp(min=_SHORTEST)
        said, _ = self.index(frames)
        return said[:, -1], CALM * self.key(frames), self.value(frames)

    def scored(self, own: Tensor, other: Tensor) -> Tensor:
        """Codes (N, Dv) of targets and of candidates asked by them → logits (N, 2)."""
        found: Tensor = self.pair(self.norm((own - other).pow(2)))
        return found

    @torch.no_grad()
    def head(self) -> tuple[Tensor, Tensor]:
        """h (Dv) and b: the probability of "the same" is sigmoid(b + Σ h · (e_p − e_g)²), as
        `scored` says it when it is not trained."""
        norm, pair = self.norm, self.pair
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
        shift = norm.bias.double() - scale * norm.running_mean.double()
        weight = (pair.weight[1] - pair.weight[0]).double()
        bias = (pair.bias[1] - pair.bias[0]).double() + weight @ shift
        return weight * scale, bias

    def forward(self, x: Tensor) -> Trained:
        assert isinstance(self.classifier, nn.ModuleDict)
        tell = self.classifier
        metrics: tuple[Tensor, ...] = ()
        logits: tuple[Tensor, ...] = ()
        frames = x
        if x.ndim == 5:
            feature = self._feature(x.flatten(0, 1))
            whole = self.bottleneck(feature)
            metrics, logits = (feature,), (tell["frames"](whole),)
            frames = whole.unflatten(0, x.shape[:2])
        index, keys, values = self.asked(frames)
        # codes[p, g]: of segment g, asked by p.
        codes = asked_codes(index, keys, values)
        count = len(index)
        own = codes.diagonal(dim1=0, dim2=1).T
        others = ~torch.eye(count, dtype=torch.bool, device=codes.device)
        told = self.scored(own[:, None].expand_as(codes)[others], codes[others])
        pairs = told.new_zeros(count, count, 2).masked_scatter(others[:, :, None], told)
        return Trained(metrics=metrics, logits=(*logits, tell["codes"](own)), pairs=pairs)


def asked_codes(index: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Index vectors (P, Dk) of targets, keys (G, T, Dk) and values (G, T, Dv) of candidates →
    codes (P, G, Dv)."""
    attention = torch.einsum("pd,gtd->pgt", index, keys).softmax(dim=2)
    return torch.einsum("pgt,gtd->pgd", attention, values)


def _neck(dim: int) -> nn.BatchNorm1d:
    """As in `BoT`."""
    neck = nn.BatchNorm1d(dim)
    neck.bias.requires_grad_(False)
    return neck
