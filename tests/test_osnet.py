"""OSNet: published tensor names, strict loading, and numbers against an independent export."""

from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from extractors.backbones.osnet import OSNet, Variant, detect_variant
from extractors.checkpoint import load_state_dict, load_strictly
from extractors.osnet import OSNetExtractor
from extractors.torch_model import torch_device
from reid_index.errors import BadWeights, UsageError
from reid_index.files import sha256_file

EXPORTED = Path(__file__).parents[1] / "../shared/data/models/osnet_x0_25_msmt17.onnx"

# Names and shapes as in the authors' checkpoints, with the number of their tensors (classifier
# apart) and the million parameters that the authors' tables state.
VARIANTS = [
    (Variant(width=0.25, norm="batch"), 565, 0.2),
    (Variant(width=0.5, norm="batch"), 565, 0.6),
    (Variant(width=0.75, norm="batch"), 565, 1.3),
    (Variant(width=1.0, norm="batch"), 565, 2.2),
    (Variant(width=1.0, norm="ibn"), 566, 2.2),
    (Variant(width=0.25, norm="ain"), 550, 0.2),
    (Variant(width=0.5, norm="ain"), 550, 0.6),
    (Variant(width=0.75, norm="ain"), 550, 1.3),
    (Variant(width=1.0, norm="ain"), 550, 2.2),
]
BATCH_X0_25 = {
    "conv1.conv.weight": (16, 3, 7, 7),
    "conv1.bn.running_mean": (16,),
    "conv2.0.conv1.conv.weight": (16, 16, 1, 1),
    "conv2.0.conv2a.conv1.weight": (16, 16, 1, 1),
    "conv2.0.conv2a.conv2.weight": (16, 1, 3, 3),
    "conv2.0.conv2b.1.bn.running_var": (16,),
    "conv2.0.conv2d.3.conv2.weight": (16, 1, 3, 3),
    "conv2.0.gate.fc1.weight": (1, 16, 1, 1),
    "conv2.0.gate.fc1.bias": (1,),
    "conv2.0.gate.fc2.weight": (16, 1, 1, 1),
    "conv2.0.conv3.conv.weight": (64, 16, 1, 1),
    "conv2.0.downsample.conv.weight": (64, 16, 1, 1),
    "conv2.0.downsample.bn.weight": (64,),
    "conv2.2.0.conv.weight": (64, 64, 1, 1),
    "conv3.1.conv2c.2.conv1.weight": (24, 24, 1, 1),
    "conv3.2.0.bn.bias": (96,),
    "conv4.1.gate.fc1.weight": (2, 32, 1, 1),
    "conv5.conv.weight": (128, 128, 1, 1),
    "fc.0.weight": (512, 128),
    "fc.0.bias": (512,),
    "fc.1.running_var": (512,),
}
IBN_X1_0 = {
    "conv1.bn.weight": (64,),
    "conv1.bn.running_mean": None,
    "conv2.0.IN.weight": (256,),
    "conv2.1.IN.bias": (256,),
    "conv2.0.IN.running_mean": None,
    "conv2.0.conv3.bn.running_mean": (256,),
    "conv3.0.IN.weight": None,
    "conv4.0.IN.weight": None,
}
AIN_X1_0 = {
    "conv1.bn.bias": (64,),
    "conv1.bn.running_mean": None,
    "conv2.0.conv2.0.layers.0.conv1.weight": (64, 64, 1, 1),
    "conv2.0.conv2.3.layers.3.conv2.weight": (64, 1, 3, 3),
    "conv2.0.conv2.3.layers.3.bn.running_mean": (64,),
    "conv2.0.IN.weight": (256,),
    "conv2.0.conv3.bn.weight": None,
    "conv2.1.IN.weight": (256,),
    "pool2.0.conv.weight": (256, 256, 1, 1),
    "conv2.2.0.conv.weight": None,
    "conv3.0.IN.weight": None,
    "conv3.0.conv3.bn.weight": (384,),
    "conv3.1.IN.weight": (384,),
    "pool3.0.bn.running_mean": (384,),
    "conv4.0.IN.weight": (512,),
    "conv4.0.downsample.bn.weight": (512,),
    "conv4.1.IN.weight": None,
    "conv4.1.conv3.bn.weight": (512,),
}


def network(variant: Variant) -> OSNet:
    """With random weights and random running statistics, so that no BatchNorm is an identity."""
    torch.manual_seed(7)
    net = OSNet(width=variant.width, norm=variant.norm)
    for name, tensor in net.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.05, 0.3)
        elif name.endswith("running_mean"):
            tensor.normal_(0.0, 0.2)
    return net.eval()


def small_state() -> dict[str, torch.Tensor]:
    return network(Variant(width=0.25, norm="batch")).state_dict()


@pytest.mark.parametrize(("variant", "tensors", "millions"), VARIANTS, ids=str)
def test_sizes_are_the_published_ones_and_variant_shows_in_tensors(variant, tensors, millions):
    net = OSNet(width=variant.width, norm=variant.norm)
    state = net.state_dict()
    assert len(state) == tensors
    assert round(sum(p.numel() for p in net.parameters()) / 1e6, 1) == millions
    assert detect_variant(state, path=Path("any.pth")) == variant


@pytest.mark.parametrize(
    ("variant", "table"),
    [
        (Variant(width=0.25, norm="batch"), BATCH_X0_25),
        (Variant(width=1.0, norm="ibn"), IBN_X1_0),
        (Variant(width=1.0, norm="ain"), AIN_X1_0),
    ],
    ids=["batch", "ibn", "ain"],
)
def test_tensors_have_the_published_names_and_shapes(variant, table):
    state = OSNet(width=variant.width, norm=variant.norm).state_dict()
    found = {name: tuple(state[name].shape) if name in state else None for name in table}
    assert found == table


def test_unknown_variants_are_refused():
    with pytest.raises(UsageError, match=r"width 0\.3"):
        Variant(width=0.3, norm="batch")
    with pytest.raises(UsageError, match="norm 'layer'"):
        OSNet(width=0.25, norm="layer")
    with pytest.raises(BadWeights, match=r"other\.pth is not an OSNet"):
        detect_variant({"conv1.weight": torch.zeros(64, 3, 7, 7)}, path=Path("other.pth"))


@pytest.mark.parametrize("norm", ["batch", "ibn", "ain"])
def test_a_crop_has_the_same_vector_alone_and_in_a_batch(norm):
    net = network(Variant(width=0.25, norm=norm))
    x = torch.randn(3, 3, 64, 32) * torch.tensor([0.2, 1.0, 5.0]).view(3, 1, 1, 1)
    with torch.inference_mode():
        together = net(x)
        alone = torch.cat([net(one[None]) for one in x])
    assert together.shape == (3, 512)
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(together[0], together[1], rtol=1e-2)


@pytest.mark.parametrize(("norm", "keeps_input"), [("ibn", False), ("ain", True)])
def test_instance_norm_follows_the_sum_in_ibn_and_precedes_it_in_ain(norm, keeps_input):
    block = OSNet(width=0.25, norm=norm).eval().conv2[1]
    torch.nn.init.zeros_(block.IN.weight)
    torch.nn.init.constant_(block.IN.bias, 0.5)
    x = torch.randn(2, 64, 8, 4, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        found = block(x)
    expected = (x + 0.5).clamp(min=0) if keeps_input else torch.full_like(x, 0.5)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("key", [None, "state_dict", "model"])
def test_checkpoints_load_from_where_the_tensors_are(tmp_path, key):
    path = tmp_path / "a.pth"
    tensors = OrderedDict({"module.a": torch.tensor([1.0, 2.0]), "module.b.c": torch.tensor(3)})
    torch.save(tensors if key is None else {key: tensors, "epoch": 60}, path)
    state = load_state_dict(path)
    assert {name: tensor.tolist() for name, tensor in state.items()} == {"a": [1.0, 2.0], "b.c": 3}


def test_module_stays_in_names_where_not_all_have_it(tmp_path):
    torch.save({"module.a": torch.zeros(1), "b": torch.zeros(1)}, tmp_path / "a.pth")
    assert list(load_state_dict(tmp_path / "a.pth")) == ["module.a", "b"]


class Trap:
    """Unpickling it makes a file, as a hostile checkpoint would run a command."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_pickled_objects_are_refused_and_not_run(tmp_path):
    path = tmp_path / "trap.pth"
    torch.save({"state_dict": {"a": Trap(tmp_path / "sprung")}}, path)
    with pytest.raises(BadWeights, match=r"trap\.pth .* save model\.state_dict\(\)") as raised:
        load_state_dict(path)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "sprung").exists()

    torch.save(torch.nn.Linear(2, 2), tmp_path / "whole.pth")
    with pytest.raises(BadWeights, match=r"whole\.pth .* holds more than tensors"):
        load_state_dict(tmp_path / "whole.pth")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": torch.zeros(1), "lr": 0.1}, "'lr' is of type float"),
        ({"state_dict": {"a": torch.zeros(1), 5: torch.zeros(1)}}, "5 is of type Tensor"),
        ({}, "no dict of tensors"),
        (torch.zeros(3), "no dict of tensors"),
    ],
)
def test_anything_but_tensors_by_name_is_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(BadWeights, match=message):
        load_state_dict(tmp_path / "a.pth")


def test_missing_and_damaged_files_are_refused_in_one_line(tmp_path):
    with pytest.raises(BadWeights, match=r"none\.pth: there is no such file"):
        load_state_dict(tmp_path / "none.pth")
    torch.save({"a": torch.zeros(500)}, tmp_path / "whole.pth")
    whole = (tmp_path / "whole.pth").read_bytes()
    for damaged in (b"", b"no checkpoint", whole[:300], whole[:-200]):
        (tmp_path / "bad.pth").write_bytes(damaged)
        with pytest.raises(BadWeights, match=r"bad\.pth") as raised:
            load_state_dict(tmp_path / "bad.pth")
        assert "\n" not in str(raised.value)


def test_loading_ignores_the_classifier_and_old_files_lack_batch_counts():
    state = small_state()
    old = {name: t for name, t in state.items() if not name.endswith("num_batches_tracked")}
    old["classifier.weight"] = torch.zeros(751, 512)
    old["classifier.bias"] = torch.zeros(751)
    net = OSNet(width=0.25, norm="batch")
    load_strictly(net, old, classifier_prefixes=("classifier.",), path=Path("a.pth"))
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    with pytest.raises(BadWeights, match=r"unexpected: classifier\.weight, classifier\.bias;"):
        load_strictly(net, old, classifier_prefixes=(), path=Path("a.pth"))


def test_every_misfit_is_named_and_nothing_is_loaded():
    state = {name: tensor + 1 for name, tensor in small_state().items()}
    for name in ("conv1.bn.weight", "conv5.bn.bias", "fc.0.bias", "fc.1.weight", "fc.1.bias"):
        del state[name]
    state["fc.2.weight"] = torch.zeros(1)
    state["fc.0.weight"] = torch.zeros(512, 96)
    net = OSNet(width=0.25, norm="batch")
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with pytest.raises(BadWeights) as raised:
        load_strictly(net, state, classifier_prefixes=("classifier.",), path=Path("a.pth"))
    assert str(raised.value) == (
        "a.pth does not fit OSNet: missing: conv1.bn.weight, conv5.bn.bias, fc.0.bias and 2 more; "
        "unexpected: fc.2.weight; wrong shape: fc.0.weight is (512, 96) instead of (512, 128); "
        "give the weights of exactly this network"
    )
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_extractor_prepares_as_for_imagenet_and_tells_its_fingerprint(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"state_dict": small_state()}, path)
    extractor = OSNetExtractor(path)
    red = np.zeros((20, 9, 3), dtype=np.uint8)
    red[:, :, 0] = 255
    prepared = extractor.prepare(red)
    assert prepared.shape == (3, 256, 128)
    # (1 − 0.485) / 0.229, (0 − 0.456) / 0.224, (0 − 0.406) / 0.225
    expected = [2.2489083, -2.0357143, -1.8044444]
    np.testing.assert_allclose(prepared[:, [0, 100], [0, 60]].T, [expected] * 2, rtol=1e-6)

    batch = np.stack([prepared, -prepared])
    batch.flags.writeable = False
    vectors = extractor.embed(batch).global_
    assert vectors.dtype == np.float32
    assert vectors.shape == (2, extractor.dim) == (2, 512)
    with torch.inference_mode():
        expected_vectors = network(Variant(width=0.25, norm="batch"))(torch.tensor(batch))
    np.testing.assert_allclose(vectors, expected_vectors.numpy(), rtol=1e-5, atol=1e-6)

    assert extractor.fingerprint.to_json() == {
        "name": "osnet",
        "version": "1",
        "weights_sha256": sha256_file(path),
        "height": 256,
        "width": 128,
        "interpolation": "bilinear",
        "color_order": "RGB",
        "scale": 1 / 255,
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "flip": False,
        "pooling": "average",
    }


@pytest.mark.parametrize("name", ["toaster", "cuda:99", "meta"])
def test_devices_that_cannot_be_used_are_refused(name):
    with pytest.raises(UsageError, match=f"device '{name}' is not to be had"):
        torch_device(name)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no GPU")
def test_gpu_vectors_are_those_of_the_cpu(tmp_path):
    torch.save(small_state(), tmp_path / "weights.pth")
    batch = np.random.default_rng(3).normal(size=(4, 3, 256, 128)).astype(np.float32)
    cpu, gpu = (
        OSNetExtractor(tmp_path / "weights.pth", device=device).embed(batch).global_
        for device in ("cpu", "cuda")
    )
    np.testing.assert_allclose(gpu, cpu, atol=0.01 * float(cpu.max()))


def exported_state(path: Path) -> dict[str, torch.Tensor]:
    """The weights inside an ONNX export, under the names of the checkpoint it was made from.

    The export folded each BatchNorm into the convolution before it; what is left of it here is
    the bias, and a scale that undoes PyTorch's division by sqrt(1 + 1e-5).
    """
    onnx = pytest.importorskip("onnx")
    graph = onnx.load(path).graph
    constants = {
        i.name: torch.tensor(onnx.numpy_helper.to_array(i).copy()) for i in graph.initializer
    }
    state = {name: tensor for name, tensor in constants.items() if "::" not in name}
    for node in graph.node:
        if node.op_type != "Conv" or "::" not in node.input[1]:
            continue
        # "/conv2/conv2.0/conv2b/conv2b.1/conv2/Conv" is the module conv2.0.conv2b.1.conv2.
        module = ".".join(part.rsplit(".", 1)[-1] for part in node.name.split("/")[1:-1])
        norm = module.rsplit(".", 1)[0] + ".bn"
        bias = constants[node.input[2]]
        state[f"{module}.weight"] = constants[node.input[1]]
        state[f"{norm}.weight"] = torch.full_like(bias, (1 + 1e-5) ** 0.5)
        state[f"{norm}.bias"] = bias
        state[f"{norm}.running_mean"] = torch.zeros_like(bias)
        state[f"{norm}.running_var"] = torch.ones_like(bias)
    return state


@pytest.mark.skipif(not EXPORTED.exists(), reason="the exported osnet_x0_25 is not here")
def test_published_weights_give_the_vectors_of_their_onnx_export(tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    torch.save(exported_state(EXPORTED), tmp_path / "weights.pth")
    batch = np.random.default_rng(5).normal(size=(3, 3, 256, 128)).astype(np.float32)
    session = runtime.InferenceSession(str(EXPORTED), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {session.get_inputs()[0].name: batch})
    found = OSNetExtractor(tmp_path / "weights.pth").embed(batch).global_
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * float(expected.max()))
    cosine = (found * expected).sum(1) / np.linalg.norm(found, axis=1)
    assert (cosine / np.linalg.norm(expected, axis=1)).min() >= 0.9999
