"""Models that this project trains: weights and card in one safetensors file, and the extractor that
runs it in PyTorch.

The card is JSON in the file's metadata, under "reid-index": `plan` (what the system is made from),
`preprocess` (how crops are fed to it), and for people `training`, `data`, `licence`, `figures`.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from numpy.typing import NDArray
from safetensors.torch import load, save
from torch import Tensor

from reid_index import files
from reid_index.errors import BadWeights, UsageError
from reid_index.matcher import Matcher
from reid_index.reading import parse_json, read_bytes

from .attributes import origin_of
from .checkpoint import load_strictly
from .coattention import CoAttentionEncoder
from .extractor import Embedding
from .model import one_row_each
from .preprocess import Preprocess, preprocess_from, preprocess_to_json
from .segments import SegmentEncoder
from .systems import Plan, make_system, plan_from
from .systems.coattention import CoAttention
from .systems.haa import HAA
from .systems.system import System
from .told import told_columns
from .torch_model import TorchExtractor, torch_device
from .weighting import Weighting

DEFAULT = Path(__file__).with_name("default.safetensors")
"""The model that comes with this project; its card says what it was trained on, and that it is for
research only."""

FORMAT = 1
_KEY = "reid-index"
_LARGEST = 2**32
_KINDS = (torch.float16, torch.bfloat16, torch.float32, torch.int64)
_FOR_PEOPLE = ("training", "data", "licence", "figures")


@dataclass(frozen=True)
class Model:
    """A system that is to be searched with, and its card. about: what the card says for people."""

    system: System
    plan: Plan
    preprocess: Preprocess
    about: Mapping[str, Any]


def write_model(path: Path, model: Model, *, half: bool = False) -> None:
    """Write a model file, in one step; what only training needs is left out. The same model gives
    the same bytes.

    half: weights of convolutions and linear layers in half precision, for half the size; they are
    computed with in single precision all the same. Raises OSError.
    """
    tensors = {
        name: (tensor.half() if half and tensor.ndim > 1 else tensor).detach().cpu().contiguous()
        for name, tensor in sorted(model.system.state_dict().items())
        if not name.startswith("classifier.")
    }
    card = {
        "format": FORMAT,
        "plan": model.plan.to_json(),
        "preprocess": preprocess_to_json(model.preprocess),
        **{name: model.about[name] for name in _FOR_PEOPLE if name in model.about},
    }
    said = json.dumps(card, sort_keys=True, ensure_ascii=False, allow_nan=False)
    files.replace_file(path, save(tensors, metadata={_KEY: said}))


def read_card(path: Path) -> dict[str, Any]:
    """The card of a model file. Raises BadWeights."""
    return _card(_bytes(path), path)


def read_model(path: Path) -> Model:
    """A model file, its weights loaded whole or not at all. Raises BadWeights."""
    content = _bytes(path)
    return _model(content, path)


def _bytes(path: Path) -> bytes:
    if not path.is_file():
        raise BadWeights(f"{path}: there is no such model file")
    try:
        return read_bytes(path, most=_LARGEST)
    except OSError as error:
        raise BadWeights(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise BadWeights(f"{path}: cannot be read: {error}") from None


def _card(content: bytes, path: Path) -> dict[str, Any]:
    """The metadata of a safetensors file: 8 bytes say how long a JSON header is, which has it."""
    try:
        length = int.from_bytes(content[:8], "little")
        header = parse_json(content[8 : 8 + length])
        card = parse_json(header["__metadata__"][_KEY])
        if type(card["format"]) is not int or card["format"] < 1:
            raise ValueError
        if card["format"] > FORMAT:
            raise BadWeights(f"{path} was written by a newer reid-index; upgrade reid-index")
        return dict(card)
    except BadWeights:
        raise
    except (LookupError, TypeError, ValueError):
        raise BadWeights(
            f"{path} is no model of `reid train`: its metadata have no card of this project; for "
            "others' checkpoints take the extractor checkpoint"
        ) from None


def _model(content: bytes, path: Path) -> Model:
    card = _card(content, path)
    try:
        plan = plan_from(card["plan"], where=str(path))
        preprocess = preprocess_from(card["preprocess"], where=str(path))
        tensors = load(content)
    except BadWeights:
        raise
    except (safetensors.SafetensorError, LookupError, TypeError, ValueError) as error:
        raise BadWeights(f"{path}: cannot be read as a model: {error}") from None
    try:
        system = make_system(plan, classes=1)
    except UsageError as error:
        raise BadWeights(f"{path}: its card describes no system that is known: {error}") from None
    for name, tensor in tensors.items():
        if tensor.dtype not in _KINDS or not torch.isfinite(tensor).all():
            raise BadWeights(f"{path}: {name} is {tensor.dtype} or holds NaN or Inf")
    own = {name: one for name, one in system.state_dict().items() if name.startswith("classifier.")}
    load_strictly(system, {**tensors, **own}, classifier_prefixes=(), path=path)
    about = {name: card[name] for name in _FOR_PEOPLE if name in card}
    return Model(system.eval(), plan, preprocess, about)


class TrainedExtractor(TorchExtractor):
    """One global vector for each crop, not normalised, from a model of `reid train`; and parts,
    where its system has a matcher for them, what of them is visible, and attributes, where it tells
    these. Of a co-attention network that is the vector of a
    frame, and segments are encoded by the network.

    weights: the `.safetensors` file; DEFAULT where it is None. device: as PyTorch names it: "cpu",
    "cuda", "cuda:1". weighting: of an HAA model's two features; adaptive where it is None.
    Raises BadWeights, UsageError where the device is not to be had, or a weighting is given for a
    model of another system.
    """

    def __init__(
        self,
        weights: Path | None = None,
        *,
        device: str = "cpu",
        weighting: Weighting | None = None,
    ) -> None:
        processor = torch_device(device)
        weights = weights or DEFAULT
        content = _bytes(weights)
        model = _model(content, weights)
        system, pooling = model.system.to(processor), model.plan.pooling
        embed: Callable[[Tensor], Tensor] = system.embed
        if isinstance(system, HAA):
            weighting = weighting or Weighting()
            embed = weighting.embed(system, model.preprocess)
            pooling = f"{pooling}, {weighting}"
        elif weighting is not None:
            raise UsageError(
                f"{weights} is a model of {model.plan.system}, whose vectors have no parts to "
                "weigh: leave --weighting out"
            )
        fingerprint = model.preprocess.fingerprint(
            name="trained",
            version="1",
            weights_sha256=hashlib.sha256(content).hexdigest(),
            pooling=pooling,
        )
        self._system = system
        self._words = model.plan.words
        self._origin = origin_of(fingerprint)
        super().__init__(
            embed,
            device=processor,
            preprocess=model.preprocess,
            fingerprint=fingerprint,
        )
        self._encoder: SegmentEncoder | None = None
        if isinstance(system, CoAttention):
            self._encoder = CoAttentionEncoder(system, device=processor)

    @property
    def told(self) -> tuple[str, ...]:
        """The attributes that it tells."""
        return tuple(name for name, _ in self._words)

    @property
    def matcher(self) -> Matcher | None:
        return self._system.matcher

    @property
    def segments(self) -> SegmentEncoder:
        return super().segments if self._encoder is None else self._encoder

    def embed(self, batch: NDArray[Any]) -> Embedding:
        """float32 (B, 3, height, width) → global vectors (B, D), and parts (B, P, Dp) where the
        system has a matcher, with what it says of them."""
        if self._system.matcher is None:
            return super().embed(batch)
        whole, parts, *more = self.computed(self._system.embed_parts, batch)
        return Embedding(
            global_=one_row_each(whole, len(batch)),
            parts=parts,
            visible=more[0].astype(np.uint8) if more else None,
            attributes=told_columns(more[1], self._words, origin=self._origin)
            if len(more) > 1
            else None,
        )
