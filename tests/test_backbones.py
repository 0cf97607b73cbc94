"""ResNet and ConvNeXt: names, shapes and sizes as published, and what their variants change.

Numbers of parameters: torchvision's documentation of its models (num_params), less the classifier;
names and shapes: torchvision/models/resnet.py, facebookresearch/ConvNeXt/models/convnext.py,
JDAI-CV/fast-reid/fastreid/modeling/backbones/resnet.py and layers/non_local.py.
"""

import numpy as np
import pytest
import torch
from torch import nn

from extractors.backbones.convnext import ConvNeXt
from extractors.backbones.osnet import OSNet
from extractors.backbones.resnet import ResNet, Stem
from extractors.pooling import AveragePool, GeM, make_pooling
from extractors.systems.system import make_backbone
from reid_index.errors import UsageError

CLASSES = 1000
PUBLISHED = {
    "resnet18": 11_689_512 - CLASSES * (512 + 1),
    "resnet34": 21_797_672 - CLASSES * (512 + 1),
    "resnet50": 25_557_032 - CLASSES * (2048 + 1),
    "resnet101": 44_549_160 - CLASSES * (2048 + 1),
    # The last normalisation belongs to the head.
    "convnext_tiny": 28_589_128 - CLASSES * (768 + 1) - 2 * 768,
    "convnext_small": 50_223_688 - CLASSES * (768 + 1) - 2 * 768,
    "convnext_base": 88_591_464 - CLASSES * (1024 + 1) - 2 * 1024,
}
RESNET50 = {
    "conv1.weight": (64, 3, 7, 7),
    "bn1.running_var": (64,),
    "layer1.0.conv1.weight": (64, 64, 1, 1),
    "layer1.0.conv3.weight": (256, 64, 1, 1),
    "layer1.0.downsample.0.weight": (256, 64, 1, 1),
    "layer1.0.downsample.1.running_mean": (256,),
    "layer1.1.downsample.0.weight": None,
    "layer2.0.conv2.weight": (128, 128, 3, 3),
    "layer3.5.bn3.weight": (1024,),
    "layer3.6.bn3.weight": None,
    "layer4.2.conv2.weight": (512, 512, 3, 3),
    "fc.weight": None,
}
RESNET18 = {
    "layer1.0.conv1.weight": (64, 64, 3, 3),
    "layer1.0.conv3.weight": None,
    "layer1.0.downsample.0.weight": None,
    "layer2.0.downsample.0.weight": (128, 64, 1, 1),
    "layer4.1.bn2.bias": (512,),
}
IBN = {
    "bn1.weight": (64,),
    "layer1.0.bn1.IN.weight": (32,),
    "layer1.0.bn1.BN.running_mean": (32,),
    "layer1.0.bn1.weight": None,
    "layer3.5.bn1.BN.bias": (128,),
    "layer4.0.bn1.IN.weight": None,
    "layer4.0.bn1.weight": (512,),
}
NON_LOCAL = {
    "NL_1.0.g.weight": None,
    "NL_2.0.g.weight": (1, 512, 1, 1),
    "NL_2.1.theta.bias": (1,),
    "NL_2.2.g.weight": None,
    "NL_3.2.W.0.weight": (1024, 1, 1, 1),
    "NL_3.2.W.1.running_mean": (1024,),
    "NL_4.0.g.weight": None,
}
CONVNEXT_TINY = {
    "downsample_layers.0.0.weight": (96, 3, 4, 4),
    "downsample_layers.0.1.weight": (96,),
    "downsample_layers.1.0.bias": (96,),
    "downsample_layers.1.1.weight": (192, 96, 2, 2),
    "stages.0.0.gamma": (96,),
    "stages.0.0.dwconv.weight": (96, 1, 7, 7),
    "stages.2.8.norm.weight": (384,),
    "stages.2.8.pwconv1.weight": (1536, 384),
    "stages.3.2.pwconv2.bias": (768,),
    "stages.3.3.gamma": None,
    "head.weight": None,
}


def shapes(module: nn.Module, names: dict[str, tuple[int, ...] | None]) -> dict[str, object]:
    state = module.state_dict()
    return {name: tuple(state[name].shape) if name in state else None for name in names}


@pytest.mark.parametrize("name", PUBLISHED)
def test_there_are_as_many_parameters_as_published(name: str) -> None:
    with torch.device("meta"):
        backbone = make_backbone(name)
    assert sum(one.numel() for one in backbone.parameters()) == PUBLISHED[name]


@pytest.mark.parametrize(
    ("options", "table"),
    [
        ({"depth": 50}, RESNET50),
        ({"depth": 18}, RESNET18),
        ({"depth": 50, "ibn": True}, IBN),
        ({"depth": 50, "non_local": True}, NON_LOCAL),
    ],
    ids=["50", "18", "ibn", "non-local"],
)
def test_resnets_have_the_published_names_and_shapes(options, table) -> None:
    with torch.device("meta"):
        assert shapes(ResNet(**options), table) == table


def test_convnext_has_the_published_names_and_shapes() -> None:
    with torch.device("meta"):
        assert shapes(ConvNeXt(size="tiny"), CONVNEXT_TINY) == CONVNEXT_TINY


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("osnet_x0_25", (128, 8, 4)),
        ("osnet_ain_x0_25", (128, 8, 4)),
        ("resnet18_x0_25", (128, 8, 4)),
        ("resnet18_ibn_x0_125", (64, 8, 4)),
        ("convnext_tiny", (768, 4, 2)),
    ],
)
def test_maps_have_the_size_that_is_said(name: str, shape: tuple[int, int, int]) -> None:
    backbone = make_backbone(name).eval()
    with torch.inference_mode():
        found = backbone(torch.zeros(2, 3, 128, 64))
    assert found.shape == (2, *shape)
    assert backbone.channels == shape[0]


@pytest.mark.parametrize(
    "name", ["resnet51", "osnet_x0_3", "convnext_huge", "resnet18_x0_01", "", "vit"]
)
def test_others_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match=r"there is no (backbone|OSNet)"):
        make_backbone(name)


# What the variants change


@pytest.mark.parametrize(("pool", "size"), [("padded", 16), ("ceil", 16), ("half", 16)])
def test_stems_of_codebases_give_maps_of_one_size_and_other_numbers(pool: str, size: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 64, 32, 32)
    found = ResNet(depth=18, stem=Stem(pool=pool)).maxpool(x)
    assert found.shape[2:] == (size, size)
    corner = {"padded": x[..., :2, :2], "ceil": x[..., :3, :3], "half": x[..., :2, :2]}[pool]
    torch.testing.assert_close(found[..., 0, 0], corner.amax(dim=(2, 3)))
    second = {"padded": x[..., 1:4, 1:4], "ceil": x[..., 2:5, 2:5], "half": x[..., 2:4, 2:4]}[pool]
    torch.testing.assert_close(found[..., 1, 1], second.amax(dim=(2, 3)))


def test_the_missing_relu_changes_what_comes_next() -> None:
    torch.manual_seed(0)
    one = ResNet(depth=18, width=0.125, stem=Stem(relu=True)).eval()
    other = ResNet(depth=18, width=0.125, stem=Stem(relu=False)).eval()
    other.load_state_dict(one.state_dict())
    x = torch.randn(1, 3, 64, 32)
    with torch.inference_mode():
        assert not torch.allclose(one(x), other(x))
        nn.init.constant_(one.bn1.bias, 50.0)  # so that nothing is below 0
        nn.init.constant_(other.bn1.bias, 50.0)
        torch.testing.assert_close(one(x), other(x))


def test_half_of_the_channels_are_normalised_for_each_picture() -> None:
    torch.manual_seed(0)
    norm = ResNet(depth=18, ibn=True, width=0.125).layer1[0].bn1.eval()
    x = torch.randn(2, 8, 6, 5) * 3 + 1
    found = norm(x)
    torch.testing.assert_close(found[:, :4].mean(dim=(2, 3)), torch.zeros(2, 4), atol=1e-5, rtol=0)
    torch.testing.assert_close(found[:, 4:], x[:, 4:], atol=1e-3, rtol=1e-3)


def test_the_last_stride_doubles_the_map_and_changes_no_tensor() -> None:
    one, two = ResNet(depth=18, width=0.125), ResNet(depth=18, width=0.125, last_stride=2)
    assert one.state_dict().keys() == two.state_dict().keys()
    x = torch.zeros(1, 3, 128, 64)
    with torch.inference_mode():
        assert one.eval()(x).shape[2:] == (8, 4)
        assert two.eval()(x).shape[2:] == (4, 2)


def test_a_non_local_block_is_the_published_matrix() -> None:
    """y = W(1/N (θᵀφ) g) + x, places × places written out."""
    torch.manual_seed(0)
    block = ResNet(depth=50, non_local=True).NL_2[0].eval()
    nn.init.normal_(block.W[1].weight)
    x = torch.randn(2, 512, 3, 2)
    with torch.inference_mode():
        g, theta, phi = (
            part(x).flatten(2).transpose(1, 2) for part in (block.g, block.theta, block.phi)
        )
        likeness = theta @ phi.transpose(1, 2) / 6
        mixed = (likeness @ g).transpose(1, 2).reshape(2, 1, 3, 2)
        torch.testing.assert_close(block(x), block.W(mixed) + x)


def test_non_local_blocks_follow_the_last_blocks_of_layer_2_and_3() -> None:
    net = ResNet(depth=50, non_local=True).eval()
    called: list[str] = []
    for name, part in net.named_modules():
        if name.count(".") == 1 and name.startswith(("layer", "NL")):
            part.register_forward_hook(lambda *_, name=name: called.append(name))
    with torch.inference_mode():
        net(torch.zeros(1, 3, 32, 32))
    second = [name for name in called if name.startswith(("layer2", "NL_2"))]
    assert second == ["layer2.0", "layer2.1", "layer2.2", "NL_2.0", "layer2.3", "NL_2.1"]
    third = [name for name in called if name.startswith(("layer3", "NL_3"))]
    assert third[-6:] == ["layer3.3", "NL_3.0", "layer3.4", "NL_3.1", "layer3.5", "NL_3.2"]


def test_convnext_drops_whole_branches_in_training_only() -> None:
    torch.manual_seed(0)
    net = ConvNeXt(size="tiny", drop_path=0.9)
    block = net.stages[3][2]
    nn.init.constant_(block.gamma, 1.0)
    x = torch.randn(200, 768, 1, 1)
    with torch.inference_mode():
        kept = (block.train()(x) != x).flatten(1).any(dim=1)
        assert 0.02 < kept.float().mean() < 0.25
        assert (block.eval()(x) != x).flatten(1).any(dim=1).all()
        assert net.stages[0][0].drop == 0


# Pooling


def test_the_generalised_mean_lies_between_mean_and_maximum() -> None:
    x = torch.rand(2, 5, 4, 3)
    torch.testing.assert_close(GeM(p=1.0)(x), AveragePool()(x))
    torch.testing.assert_close(GeM(p=200.0)(x), x.amax(dim=(2, 3)), rtol=0.02, atol=0.02)
    expected = np.mean(x.double().numpy() ** 3, axis=(2, 3)) ** (1 / 3)
    np.testing.assert_allclose(GeM()(x).detach().numpy(), expected, rtol=1e-5)
    assert torch.isfinite(GeM()(-x)).all()
    with pytest.raises(UsageError, match="no pooling 'max'"):
        make_pooling("max")


def test_a_headless_osnet_is_the_same_up_to_its_map() -> None:
    torch.manual_seed(0)
    whole = OSNet(width=0.25, norm="batch").eval()
    headless = OSNet(width=0.25, norm="batch", headless=True).eval()
    state = {name: one for name, one in whole.state_dict().items() if not name.startswith("fc.")}
    headless.load_state_dict(state)
    x = torch.randn(2, 3, 64, 32)
    with torch.inference_mode():
        torch.testing.assert_close(whole.fc(headless(x).mean(dim=(2, 3))), whole(x))
