"""Published checkpoints: recognised by their tensors, loaded whole, with the quirks of their code.

What the files hold: names and shapes as the projects' code defines them, written down here without
the networks of this project. torchreid: KaiyangZhou/deep-person-reid torchreid/models/resnet.py;
fast-reid: JDAI-CV/fast-reid fastreid/modeling/backbones/resnet.py, heads/embedding_head.py and, for
the older names (`heads.bnneck`), issues 427, 486, 617 there; strong baseline:
michuanhaohao/reid-strong-baseline modeling/baseline.py.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from extractors import open_extractor, open_recipe, recipe
from extractors.preprocess import Size
from extractors.public import backbone_state, read_public
from reid_index.errors import BadWeights

Shapes = dict[str, tuple[int, ...]]
LAYERS = (3, 4, 6, 3)
DEEP = (3, 4, 23, 3)
"""Of ResNet-101, which fast-reid gives two and nine non-local blocks."""


def norm(name: str, channels: int) -> Shapes:
    four = {
        f"{name}.{part}": (channels,) for part in ("weight", "bias", "running_mean", "running_var")
    }
    return {**four, f"{name}.num_batches_tracked": ()}


def resnet50(
    prefix: str,
    *,
    ibn: bool = False,
    non_local: bool = False,
    layers: tuple[int, ...] = LAYERS,
    third: int = 3,
) -> Shapes:
    """Names and shapes of its tensors, without the classifier. third: layer3's non-local blocks."""
    found: Shapes = {"conv1.weight": (64, 3, 7, 7), **norm("bn1", 64)}
    inputs = 64
    for layer, blocks in enumerate(layers, start=1):
        plane = 64 * 2 ** (layer - 1)
        for block in range(blocks):
            name = f"layer{layer}.{block}"
            found[f"{name}.conv1.weight"] = (plane, inputs, 1, 1)
            if ibn and layer < 4:
                half = plane // 2
                found |= {f"{name}.bn1.IN.weight": (half,), f"{name}.bn1.IN.bias": (half,)}
                found |= norm(f"{name}.bn1.BN", half)
            else:
                found |= norm(f"{name}.bn1", plane)
            found[f"{name}.conv2.weight"] = (plane, plane, 3, 3)
            found |= norm(f"{name}.bn2", plane)
            found[f"{name}.conv3.weight"] = (4 * plane, plane, 1, 1)
            found |= norm(f"{name}.bn3", 4 * plane)
            if block == 0:
                found[f"{name}.downsample.0.weight"] = (4 * plane, inputs, 1, 1)
                found |= norm(f"{name}.downsample.1", 4 * plane)
            inputs = 4 * plane
        for place in range({2: 2, 3: third}.get(layer, 0) if non_local else 0):
            name = f"NL_{layer}.{place}"
            for part in ("g", "theta", "phi"):
                found |= {f"{name}.{part}.weight": (1, inputs, 1, 1), f"{name}.{part}.bias": (1,)}
            found |= {f"{name}.W.0.weight": (inputs, 1, 1, 1), f"{name}.W.0.bias": (inputs,)}
            found |= norm(f"{name}.W.1", inputs)
    return {f"{prefix}{name}": shape for name, shape in found.items()}


CHECKPOINTS: dict[str, Shapes] = {
    "torchreid resnet50": {
        **resnet50(""),
        "classifier.weight": (751, 2048),
        "classifier.bias": (751,),
    },
    "torchreid resnet50_fc512": {
        **resnet50(""),
        "fc.0.weight": (512, 2048),
        "fc.0.bias": (512,),
        **norm("fc.1", 512),
        "classifier.weight": (751, 512),
        "classifier.bias": (751,),
    },
    "fast-reid BoT, old names": {
        **resnet50("backbone."),
        **norm("heads.bnneck", 2048),
        "heads.classifier.weight": (751, 2048),
        "pixel_mean": (1, 3, 1, 1),
        "pixel_std": (1, 3, 1, 1),
    },
    "fast-reid BoT": {
        **resnet50("backbone."),
        **norm("heads.bottleneck.0", 2048),
        "heads.weight": (751, 2048),
        "pixel_mean": (3, 1, 1),
        "pixel_std": (3, 1, 1),
    },
    "fast-reid SBS": {
        **resnet50("backbone.", ibn=True, non_local=True),
        "heads.pool_layer.p": (1,),
        "heads.bottleneck.0.weight": (512, 2048, 1, 1),
        **norm("heads.bottleneck.1", 512),
        "heads.weight": (751, 512),
    },
    "strong baseline": {
        **resnet50("base."),
        **norm("bottleneck", 2048),
        "classifier.weight": (751, 2048),
    },
    "strong baseline IBN-a": {
        **resnet50("base.", ibn=True),
        **norm("bottleneck", 2048),
        "classifier.weight": (751, 2048),
    },
}


def drawn(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Tensors of those shapes, so that signals neither die nor explode."""
    generator = torch.Generator().manual_seed(1)
    state = {}
    for name, shape in shapes.items():
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(7)
        elif name.endswith("running_var"):
            state[name] = torch.rand(shape, generator=generator) + 0.5
        elif len(shape) > 1:
            fan = int(np.prod(shape[1:]))
            scale = (2 / fan) ** 0.5 * (0.1 if "NL_" in name else 1)
            state[name] = torch.randn(shape, generator=generator) * scale
        elif name.endswith(("bn3.weight", "W.1.weight")):
            state[name] = torch.rand(shape, generator=generator) * 0.3
        elif name.endswith("weight"):
            state[name] = torch.rand(shape, generator=generator) + 0.5
        elif name.endswith(".p"):
            state[name] = torch.tensor([2.5])
        else:
            state[name] = torch.randn(shape, generator=generator) * 0.2
    return state


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("checkpoints")

    def file(name: str) -> Path:
        path = folder / f"{name.replace(' ', '_')}.pth"
        if not path.exists():
            state = drawn(CHECKPOINTS[name])
            torch.save({"model": state} if "fast-reid" in name else state, path)
        return path

    return file


# What their code computes, written down once more with functions alone


def batch_norm(x: Tensor, state: Mapping[str, Tensor], name: str) -> Tensor:
    parts = (state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
    return functional.batch_norm(x, *parts)


def first_norm(x: Tensor, state: Mapping[str, Tensor], name: str) -> Tensor:
    if f"{name}.IN.weight" not in state:
        return batch_norm(x, state, name)
    one, other = x.chunk(2, dim=1)
    one = functional.instance_norm(
        one, weight=state[f"{name}.IN.weight"], bias=state[f"{name}.IN.bias"]
    )
    return torch.cat([one, batch_norm(other, state, f"{name}.BN")], dim=1)


def features(
    x: Tensor, state: Mapping[str, Tensor], *, prefix: str, relu: bool, pool: str, last_stride: int
) -> Tensor:
    def get(name: str) -> Tensor:
        return state[prefix + name]

    x = batch_norm(
        functional.conv2d(x, get("conv1.weight"), stride=2, padding=3), state, f"{prefix}bn1"
    )
    x = x.relu() if relu else x
    if pool == "ceil":
        x = functional.max_pool2d(x, 3, stride=2, ceil_mode=True)
    else:
        x = functional.max_pool2d(x, 3, stride=2, padding=1)
    for layer, blocks in enumerate(LAYERS, start=1):
        for block in range(blocks):
            name = f"{prefix}layer{layer}.{block}"
            stride = (1, 2, 2, last_stride)[layer - 1] if block == 0 else 1
            out = functional.conv2d(x, state[f"{name}.conv1.weight"])
            out = first_norm(out, state, f"{name}.bn1").relu()
            out = functional.conv2d(out, state[f"{name}.conv2.weight"], stride=stride, padding=1)
            out = batch_norm(out, state, f"{name}.bn2").relu()
            out = batch_norm(
                functional.conv2d(out, state[f"{name}.conv3.weight"]), state, f"{name}.bn3"
            )
            if block == 0:
                x = functional.conv2d(x, state[f"{name}.downsample.0.weight"], stride=stride)
                x = batch_norm(x, state, f"{name}.downsample.1")
            x = (out + x).relu()
            place = block - blocks + {2: 2, 3: 3}.get(layer, 0)
            if place >= 0 and f"{prefix}NL_{layer}.{place}.g.weight" in state:
                x = non_local(x, state, f"{prefix}NL_{layer}.{place}")
    return x


def non_local(x: Tensor, state: Mapping[str, Tensor], name: str) -> Tensor:
    g, theta, phi = (
        functional.conv2d(x, state[f"{name}.{part}.weight"], state[f"{name}.{part}.bias"])
        .flatten(2)
        .transpose(1, 2)
        for part in ("g", "theta", "phi")
    )
    mixed = (theta @ phi.transpose(1, 2) / g.shape[1] @ g).transpose(1, 2)
    mixed = mixed.reshape(len(x), 1, *x.shape[2:])
    mixed = functional.conv2d(mixed, state[f"{name}.W.0.weight"], state[f"{name}.W.0.bias"])
    return batch_norm(mixed, state, f"{name}.W.1") + x


def expected(name: str, x: Tensor, state: Mapping[str, Tensor]) -> Tensor:
    if name == "torchreid resnet50":
        found = features(x, state, prefix="", relu=True, pool="padded", last_stride=2)
        return found.mean(dim=(2, 3))
    if name == "torchreid resnet50_fc512":
        found = features(x, state, prefix="", relu=True, pool="padded", last_stride=1)
        linear = functional.linear(found.mean(dim=(2, 3)), state["fc.0.weight"], state["fc.0.bias"])
        return batch_norm(linear, state, "fc.1").relu()
    if "strong baseline" in name:
        found = features(x, state, prefix="base.", relu="IBN" in name, pool="padded", last_stride=1)
        return batch_norm(found.mean(dim=(2, 3)), state, "bottleneck")
    found = features(x, state, prefix="backbone.", relu=True, pool="ceil", last_stride=1)
    if "SBS" not in name:
        neck = "heads.bnneck" if "old" in name else "heads.bottleneck.0"
        return batch_norm(found.mean(dim=(2, 3)), state, neck)
    p = state["heads.pool_layer.p"]
    pooled = found.clamp(min=1e-6).pow(p).mean(dim=(2, 3)).pow(1 / p)
    narrow = functional.linear(pooled, state["heads.bottleneck.0.weight"].flatten(1))
    return batch_norm(narrow, state, "heads.bottleneck.1")


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_vectors_are_those_of_their_own_code(name: str, files: Callable[[str], Path]) -> None:
    size = Size(384, 128) if "SBS" in name else None
    public = read_public(files(name), size=size)
    x = torch.randn(2, 3, 64, 32, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        found = public.system.embed(x)
        own = expected(name, x, drawn(CHECKPOINTS[name]))
    torch.testing.assert_close(found, own, rtol=1e-4, atol=1e-4)
    assert name.startswith(public.family)
    fed = public.preprocess
    assert (fed.height, fed.width) == (384 if "SBS" in name else 256, 128)
    assert fed.interpolation == ("bicubic" if "fast-reid" in name else "bilinear")
    assert (fed.color_order, fed.mean) == ("RGB", (0.485, 0.456, 0.406))


def test_the_deep_networks_of_fast_reid_are_loaded_whole(tmp_path: Path) -> None:
    shapes = resnet50("backbone.", ibn=True, non_local=True, layers=DEEP, third=9)
    shapes |= {"heads.pool_layer.p": (1,), **norm("heads.bottleneck.0", 2048)}
    torch.save({"model": drawn(shapes)}, tmp_path / "sbs_R101-ibn.pth")
    public = read_public(tmp_path / "sbs_R101-ibn.pth", size=Size(384, 128))
    assert len(public.system.backbone.NL_3) == 9
    with torch.inference_mode():
        assert torch.isfinite(public.system.embed(torch.zeros(1, 3, 64, 32))).all()


def test_old_and_new_names_are_one_network(files: Callable[[str], Path]) -> None:
    """Without the renaming, vectors would come from in front of the BNNeck."""
    old, new = (
        read_public(files(name)).system.state_dict()
        for name in ("fast-reid BoT, old names", "fast-reid BoT")
    )
    assert old.keys() == new.keys()
    assert "bottleneck.running_mean" in old


def test_an_input_size_that_tensors_leave_open_has_to_be_told(files: Callable[[str], Path]) -> None:
    with pytest.raises(BadWeights, match="say --input-size 256x128 for AGW, 384x128 for SBS"):
        read_public(files("fast-reid SBS"))
    fed = read_public(files("strong baseline"), size=Size(384, 128)).preprocess
    assert (fed.height, fed.width) == (384, 128)


def test_it_is_an_extractor_whose_recipe_makes_it_again(files: Callable[[str], Path]) -> None:
    path, size = files("fast-reid SBS"), Size(384, 128)
    extractor = open_extractor("checkpoint", weights=path, preprocess=size)
    assert (extractor.dim, extractor.fingerprint.name) == (512, "checkpoint of fast-reid")
    assert (extractor.fingerprint.height, extractor.fingerprint.interpolation) == (384, "bicubic")
    again = open_recipe(recipe("checkpoint", weights=path, preprocess=size))
    assert again.fingerprint == extractor.fingerprint


# What is refused, by name

ELSEWHERE = {
    "TransReID": ["base.cls_token", "base.patch_embed.proj.weight", "bottleneck.weight"],
    "CLIP-ReID": ["image_encoder.conv1.weight", "bottleneck.weight"],
    "SOLIDER": ["base.patch_embed.projection.weight", "base.semantic_embed_w.0.weight"],
    "layumi's baseline": ["model.conv1.weight", "classifier.add_block.0.weight"],
    "AlignedReID": ["base.0.weight", "bn.weight"],
    "fast-reid's MGN": ["backbone.0.weight", "b1_head.bnneck.weight"],
}


@pytest.mark.parametrize("family", ELSEWHERE)
def test_networks_that_are_not_here_are_refused_by_name(tmp_path: Path, family: str) -> None:
    path = tmp_path / "some.pth"
    torch.save({name: torch.zeros(1) for name in ELSEWHERE[family]}, path)
    with pytest.raises(BadWeights, match=f"{path} is of {family}, whose network is not here"):
        read_public(path)


def test_a_power_that_is_not_in_the_file_is_not_guessed(tmp_path: Path) -> None:
    shapes = dict(CHECKPOINTS["fast-reid SBS"])
    del shapes["heads.pool_layer.p"]
    torch.save(drawn(shapes), tmp_path / "some.pth")
    with pytest.raises(BadWeights, match="pool by a power that older files do not hold"):
        read_public(tmp_path / "some.pth", size=Size(384, 128))


def test_unknown_tensors_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "some.pth"
    torch.save({"encoder.weight": torch.zeros(1)}, path)
    with pytest.raises(BadWeights, match=r"its tensors \(encoder\.weight, …\) are of no family"):
        read_public(path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"bottleneck.running_var": None}, "missing: bottleneck.running_var"),
        ({"extra.weight": (3,)}, "unexpected: extra.weight"),
        (
            {"base.layer4.2.bn3.weight": (7,)},
            r"wrong shape: backbone.layer4.2.bn3.weight is \(7,\)",
        ),
        (
            {"base.layer3.6.conv1.weight": (256, 1024, 1, 1)},
            r"its layers have \(3, 4, 7, 3\) blocks",
        ),
    ],
)
def test_nothing_is_loaded_in_part(tmp_path: Path, change, words: str) -> None:
    shapes = {**CHECKPOINTS["strong baseline"], **{k: v for k, v in change.items() if v}}
    for name, shape in change.items():
        if shape is None:
            del shapes[name]
    path = tmp_path / "some.pth"
    torch.save(drawn(shapes), path)
    with pytest.raises(BadWeights, match=words):
        read_public(path)


def test_imagenet_weights_are_for_beginning_with(tmp_path: Path) -> None:
    path = tmp_path / "imagenet.pth"
    torch.save(drawn({**resnet50(""), "fc.weight": (10, 2048), "fc.bias": (10,)}), path)
    with pytest.raises(BadWeights, match="classes of ImageNet, not people: begin a training"):
        read_public(path)
    assert backbone_state(path).keys() == resnet50("").keys()


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_training_can_begin_from_any_of_them(name: str, files: Callable[[str], Path]) -> None:
    options = {"ibn": "IBN" in name or "SBS" in name, "non_local": "SBS" in name}
    assert backbone_state(files(name)).keys() == resnet50("", **options).keys()
