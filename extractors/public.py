"""Checkpoints that others have published: recognised by their tensors' names, never by the file's,
and loaded whole or refused by name.

What a checkpoint's tensors do not say, and codebases do differently, is said here: pooling and ReLU
behind the first convolution, strides, and how crops are fed. Sources: the code of torchreid
(KaiyangZhou/deep-person-reid), fast-reid (JDAI-CV/fast-reid) and the strong baseline
(michuanhaohao/reid-strong-baseline), as far as it decides numbers.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from reid_index.errors import BadWeights
from reid_index.files import sha256_file

from .backbones.resnet import BLOCKS, ResNet, Stem
from .checkpoint import load_state_dict, load_strictly
from .preprocess import MEAN, STD, Preprocess, Size
from .systems.bot import BoT
from .systems.coattention import OF_FRAMES
from .systems.plain import Plain
from .systems.system import System
from .torch_model import TorchExtractor, torch_device

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Public:
    """A checkpoint that is known. family: whose. system: with its weights, to be searched with."""

    family: str
    system: System
    preprocess: Preprocess


def read_public(path: Path, *, size: Size | None = None) -> Public:
    """Open a checkpoint. size: of its input, which no tensor tells: 256 × 128 unless given.

    Raises BadWeights for one whose family or backbone is not known here, that does not fit it
    exactly, or whose input size has to be told and is not.
    """
    state = load_state_dict(path)
    for is_such, read in _FAMILIES:
        if is_such(state):
            return read(state, path, size)
    for family, pattern in _ELSEWHERE.items():
        if _has(state, pattern):
            raise BadWeights(
                f"{path} is of {family}, whose network is not here: export it to ONNX and take the "
                "extractor onnx"
            )
    raise BadWeights(
        f"{path}: its tensors ({', '.join(sorted(state)[:3])}, …) are of no family that is known: "
        "torchreid, fast-reid, strong baseline; export it to ONNX and take the extractor onnx"
    )


def backbone_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint that belong to its backbone, by their names there; for beginning
    a training from. Of published ones, classification weights of ImageNet among them, and of this
    project's. Raises BadWeights.
    """
    if path.suffix == ".safetensors":
        state: State = _safetensors(path)
    else:
        state = load_state_dict(path)
    for prefix in ("backbone.", "base."):
        below = {
            name.removeprefix(prefix): one for name, one in state.items() if name.startswith(prefix)
        }
        if below:
            return below
    heads = ("fc.", "classifier.", "head.", "norm.")
    return {name: one for name, one in state.items() if not name.startswith(heads)}


def frames_state(path: Path) -> dict[str, Tensor] | None:
    """All tensors of a model of this project whose system is bot or coattention, by their names;
    None for another file. Raises BadWeights."""
    if path.suffix != ".safetensors":
        return None
    state = _safetensors(path)
    modules = {name.partition(".")[0] for name in state}
    is_such = "backbone" in modules and (modules <= {*OF_FRAMES} or "pair" in modules)
    return dict(state) if is_such else None


def _safetensors(path: Path) -> dict[str, Tensor]:
    """Of a model of this project, or anybody's."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise BadWeights(f"{path}: cannot be read as safetensors: {error}") from None


def _has(state: State, pattern: str) -> bool:
    return any(re.match(pattern, name) for name in state)


_ELSEWHERE = {
    "CLIP-ReID": r"image_encoder\.",
    "SOLIDER": r"base\..*semantic_embed",
    "TransReID": r"base\.(sie_embed|patch_embed|cls_token)|b1\.0\.",
    "fast-reid's MGN": r"b1_head\.|b2\.0\.",
    "layumi's baseline": r"classifier\.add_block\.",
    "AlignedReID": r"base\.\d+\.",
    "BPBreID": r"(module\.)?(backbone_appearance_feature_extractor|pixel_classifier)\.",
}
"""Families that are not here → what their tensors' names begin with."""


# ResNets, by what is below a prefix


def _resnet(state: State, prefix: str, *, stem: Stem, last_stride: int, path: Path) -> ResNet:
    """A new ResNet of the depth and kind that the names tell."""
    names = [name.removeprefix(prefix) for name in state if name.startswith(prefix)]
    counts = tuple(_blocks(names, layer) for layer in range(1, 5))
    is_deep = "layer1.0.conv3.weight" in names
    depths = [
        depth for depth, blocks in BLOCKS.items() if blocks == counts and is_deep == (depth >= 50)
    ]
    if not depths:
        raise BadWeights(
            f"{path}: its layers have {counts} blocks, of which there is no ResNet here; there are "
            f"{', '.join(map(str, BLOCKS))}"
        )
    return ResNet(
        depth=depths[0],
        ibn=any(name.endswith("bn1.IN.weight") for name in names),
        last_stride=last_stride,
        non_local=any(name.startswith("NL_2.") for name in names),
        stem=stem,
    )


def _blocks(names: Iterable[str], layer: int) -> int:
    found = [re.match(rf"layer{layer}\.(\d+)\.", name) for name in names]
    return max((int(one[1]) + 1 for one in found if one), default=0)


def _fed(size: tuple[int, int], *, interpolation: str) -> Preprocess:
    height, width = size
    return Preprocess(
        height=height,
        width=width,
        scale=1 / 255,
        mean=MEAN,
        std=STD,
        interpolation=interpolation,
    )


def _loaded(system: System, tensors: Mapping[str, Tensor], path: Path) -> System:
    own = {name: one for name, one in system.state_dict().items() if name.startswith("classifier.")}
    kept = {name: one for name, one in tensors.items() if not name.startswith("classifier.")}
    load_strictly(system, {**kept, **own}, classifier_prefixes=(), path=path)
    return system.eval()


def _is_torchreid(state: State) -> bool:
    return "conv1.weight" in state and "layer4.0.conv1.weight" in state and "fc.weight" not in state


def _torchreid(state: State, path: Path, size: Size | None) -> Public:
    """resnet50 (last stride 2) and resnet50_fc512 (last stride 1, a layer of 512 behind it)."""
    has_layer = "fc.0.weight" in state
    backbone = _resnet(state, "", stem=Stem(), last_stride=1 if has_layer else 2, path=path)
    renamed = {
        name if name.startswith(("fc.", "classifier.")) else f"backbone.{name}": one
        for name, one in state.items()
    }
    if has_layer:
        dim = int(state["fc.0.weight"].shape[0])
        system: System = Plain(backbone, classes=1, pooling="average", dim=dim)
    else:
        system = BoT(backbone, classes=1, pooling="average", dim=0, neck=False)
    fed = _fed(size or Size(256, 128), interpolation="bilinear")
    return Public("torchreid", _loaded(system, renamed, path), fed)


def _is_imagenet(state: State) -> bool:
    return (
        "conv1.weight" in state and "fc.weight" in state
    ) or "downsample_layers.0.0.weight" in state


def _imagenet(_state: State, path: Path, _size: Size | None) -> Public:
    raise BadWeights(
        f"{path} tells classes of ImageNet, not people: begin a training from it, "
        "`reid train --init`"
    )


def _is_fast_reid(state: State) -> bool:
    return "backbone.conv1.weight" in state and _has(state, r"heads\.")


def _fast_reid(state: State, path: Path, size: Size | None) -> Public:
    """BoT, AGW and SBS on ResNets. Old files call the BNNeck `heads.bnneck`, new ones
    `heads.bottleneck.0`, or `.1` behind a convolution that narrows; vectors are taken behind it."""
    stem = Stem(relu=True, pool="ceil")
    backbone = _resnet(state, "backbone.", stem=stem, last_stride=1, path=path)
    renamed: dict[str, Tensor] = {}
    dim = 0
    for name, one in state.items():
        if name.startswith("backbone."):
            renamed[name] = one
        elif name == "heads.bottleneck.0.weight" and one.ndim == 4:
            dim = int(one.shape[0])
            renamed["reduction.weight"] = one.flatten(1)
        elif found := re.fullmatch(r"heads\.(?:bnneck|bottleneck\.[01])\.(\w+)", name):
            renamed[f"bottleneck.{found[1]}"] = one
        elif name == "heads.pool_layer.p":
            renamed["pool.p"] = one
        elif name not in _FAST_REID_NEEDLESS:
            renamed[name] = one  # which load_strictly names
    pooling = "gem" if "pool.p" in renamed else "average"
    if _has(state, r"backbone\.NL_2\."):
        if pooling != "gem":
            raise BadWeights(
                f"{path}: AGW and SBS of fast-reid pool by a power that older files do not hold: "
                "export it to ONNX there and take the extractor onnx"
            )
        if size is None:
            raise BadWeights(
                f"{path}: AGW and SBS of fast-reid have the same tensors and other inputs: say "
                "--input-size 256x128 for AGW, 384x128 for SBS"
            )
    system = BoT(backbone, classes=1, pooling=pooling, dim=dim, neck=True)
    fed = _fed(size or Size(256, 128), interpolation="bicubic")
    return Public("fast-reid", _loaded(system, renamed, path), fed)


_FAST_REID_NEEDLESS = frozenset(
    {"heads.weight", "heads.classifier.weight", "pixel_mean", "pixel_std"}
)


def _is_strong_baseline(state: State) -> bool:
    return "base.conv1.weight" in state and "bottleneck.running_mean" in state


def _strong_baseline(state: State, path: Path, size: Size | None) -> Public:
    """Without the ReLU behind the first batch normalisation, which the file of IBN-a alone has."""
    is_ibn = _has(state, r"base\..*bn1\.IN\.")
    stem = Stem(relu=is_ibn, pool="padded")
    backbone = _resnet(state, "base.", stem=stem, last_stride=1, path=path)
    renamed = {re.sub(r"^base\.", "backbone.", name): one for name, one in state.items()}
    system = BoT(backbone, classes=1, pooling="average", dim=0, neck=True)
    fed = _fed(size or Size(256, 128), interpolation="bilinear")
    return Public("strong baseline", _loaded(system, renamed, path), fed)


_Reader = Callable[[State, Path, Size | None], Public]
_FAMILIES: tuple[tuple[Callable[[State], bool], _Reader], ...] = (
    (_is_imagenet, _imagenet),
    (_is_torchreid, _torchreid),
    (_is_fast_reid, _fast_reid),
    (_is_strong_baseline, _strong_baseline),
)


class CheckpointExtractor(TorchExtractor):
    """One global vector for each crop, not normalised, from a published checkpoint on a ResNet.

    weights: the file. size: height and width of its input, where its tensors leave them open.
    device: as PyTorch names it. Raises what `read_public` raises, UsageError for the device.
    """

    def __init__(self, weights: Path, *, size: Size | None = None, device: str = "cpu") -> None:
        processor = torch_device(device)
        public = read_public(weights, size=size)
        fingerprint = public.preprocess.fingerprint(
            name=f"checkpoint of {public.family}",
            version="1",
            weights_sha256=sha256_file(weights),
        )
        super().__init__(
            public.system.to(processor).embed,
            device=processor,
            preprocess=public.preprocess,
            fingerprint=fingerprint,
        )
