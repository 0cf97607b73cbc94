"""The onnx extractor on tiny models made here, and on a real one where the data are at hand."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from extractors.images import read_image
from extractors.onnx import OnnxExtractor
from extractors.preprocess import Preprocess
from reid_index.errors import BadWeights

CARD = {
    "height": 4,
    "width": 2,
    "color_order": "RGB",
    "scale": 0.5,
    "mean": [0, 1, 2],
    "std": [1, 1, 2],
    "interpolation": "bilinear",
}
MEANS = [
    helper.make_node("GlobalAveragePool", ["x"], ["pooled"]),
    helper.make_node("Flatten", ["pooled"], ["y"]),
]
DATA = Path(__file__).parents[2] / "shared" / "data"


def save(
    folder: Path,
    *,
    nodes: list[onnx.NodeProto] = MEANS,
    shape: Sequence[int | str] | None = ("N", 3, 4, 2),
    kind: int = TensorProto.FLOAT,
    outputs: tuple[str, ...] = ("y",),
    card: dict[str, Any] | None = CARD,
) -> Path:
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        initializer=[helper.make_tensor("w", TensorProto.FLOAT, [30, 1], [1.0] * 30)],
    )
    path = folder / "m.onnx"
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    if card is not None:
        path.with_suffix(".json").write_text(json.dumps(card))
    return path


def crops(count: int) -> list[NDArray[np.uint8]]:
    rng = np.random.default_rng(5)
    return [rng.integers(0, 256, (4, 2, 3), dtype=np.uint8) for _ in range(count)]


@pytest.mark.parametrize("batch", ["N", 1, 4])
def test_values_by_hand(batch: int | str, tmp_path: Path) -> None:
    """The model yields the channels' means; a fixed batch size changes nothing."""
    extractor = OnnxExtractor(save(tmp_path, shape=[batch, 3, 4, 2]))
    assert extractor.dim == 3
    plain = np.full((4, 2, 3), (10, 20, 30), np.uint8)
    taken = crops(9)
    taken[5] = plain
    embedding = extractor.extract(taken)
    assert (embedding.global_.dtype, embedding.global_.shape) == (np.float32, (9, 3))
    assert embedding.parts is embedding.visible is embedding.attributes is None
    # 10 · 0.5, (20 · 0.5 − 1), (30 · 0.5 − 2) / 2
    np.testing.assert_allclose(embedding.global_[5], [5, 9, 6.5], rtol=1e-6)
    means = np.stack([crop.mean(axis=(0, 1), dtype=np.float64) for crop in taken])
    expected = (means * 0.5 - [0, 1, 2]) / [1, 1, 2]
    np.testing.assert_allclose(embedding.global_, expected, rtol=1e-5)


@pytest.mark.parametrize("batch", ["N", 4])
def test_a_crop_alone_gives_the_same(batch: int | str, tmp_path: Path) -> None:
    extractor = OnnxExtractor(save(tmp_path, shape=[batch, 3, 4, 2]))
    taken = crops(7)
    together = extractor.extract(taken).global_
    alone = [extractor.extract([crop]).global_[0] for crop in taken]
    np.testing.assert_array_equal(together, alone)


def test_maps_are_flattened(tmp_path: Path) -> None:
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    extractor = OnnxExtractor(save(tmp_path, nodes=nodes))
    batch = np.arange(48, dtype=np.float32).reshape(2, 3, 4, 2)
    np.testing.assert_array_equal(extractor.embed(batch).global_, batch.reshape(2, 24))


def test_fingerprint(tmp_path: Path) -> None:
    path = save(tmp_path)
    fingerprint = OnnxExtractor(path).fingerprint
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert (fingerprint.name, fingerprint.weights_sha256) == ("onnx", digest)
    assert (fingerprint.height, fingerprint.width, fingerprint.std) == (4, 2, (1, 1, 2))


def test_preprocessing_by_option_needs_no_card(tmp_path: Path) -> None:
    path = save(tmp_path, card=None)
    with pytest.raises(BadWeights, match=r"m\.json: cannot be read .* or give it by options$"):
        OnnxExtractor(path)
    given = Preprocess(height=4, width=2, scale=1.0, mean=(0.0,) * 3, std=(1.0,) * 3)
    extractor = OnnxExtractor(path, preprocess=given)
    plain = np.full((4, 2, 3), (10, 20, 30), np.uint8)
    assert extractor.extract([plain]).global_.tolist() == [[10, 20, 30]]


NO_BATCH = [helper.make_node("ReduceMean", ["x"], ["y"], axes=[0, 2, 3], keepdims=0)]
KEPT_BATCH = [helper.make_node("ReduceMean", ["x"], ["y"], axes=[0, 2, 3], keepdims=1)]
THIRTY = [
    helper.make_node("Flatten", ["x"], ["flat"]),
    helper.make_node("MatMul", ["flat", "w"], ["y"]),
]
MIXED = [*MEANS[:1], helper.make_node("Flatten", ["pooled"], ["flat"]), *THIRTY[1:]]
FROM_BYTES = [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": ["N", 24]}, r"its input is \['N', 24\], its card says \['B', 3, 4, 2\]"),
        ({"shape": None}, r"its input is \[\], its card says"),
        ({"card": CARD | {"height": 5}}, r"its input is .*, its card says \['B', 3, 5, 2\]"),
        ({"shape": ["N", 1, 4, 2]}, r"its input is \['N', 1, 4, 2\], its card says"),
        ({"outputs": ("y", "pooled")}, r".*one float input and one output, this one 1 .* and 2"),
        ({"nodes": FROM_BYTES, "kind": TensorProto.UINT8}, r".*this one 1 \(tensor\(uint8\)\) and"),
        ({"nodes": NO_BATCH}, r"it cannot run .*: its output is \(3,\) for 2 crops"),
        ({"nodes": KEPT_BATCH}, r"it cannot run .*: its output is \(1, 3, 1, 1\) for 2 crops"),
        (
            {"nodes": THIRTY, "shape": ["N", 3, "h", "w"]},
            r"it cannot run on inputs of \[3, 4, 2\]: ",
        ),
        ({"card": CARD | {"std": [1, 0, 1]}}, "mean and std need"),
    ],
)
def test_models_that_do_not_fit(
    change: dict[str, Any], message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = save(tmp_path, **change)
    with pytest.raises(BadWeights, match=f"^{path.with_suffix('')}.(onnx|json): {message}") as told:
        OnnxExtractor(path)
    assert "\n" not in str(told.value)
    assert capfd.readouterr() == ("", "")


def test_files_that_are_no_model(tmp_path: Path) -> None:
    path = save(tmp_path)
    for content in (b"", b"this is no model", path.read_bytes()[:60]):
        path.write_bytes(content)
        with pytest.raises(BadWeights, match=f"^{path}: not a model that onnxruntime can run: "):
            OnnxExtractor(path)
    path.unlink()
    with pytest.raises(BadWeights, match=f"^{path}: there is no such model file$"):
        OnnxExtractor(path)


@pytest.mark.parametrize("location", ["w.bin", "weights/" + 150 * "w"])
def test_weights_in_another_file_are_refused(
    location: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where onnxruntime would find them, in the working folder."""
    monkeypatch.chdir(tmp_path)
    path = save(tmp_path, nodes=MIXED)
    model = onnx.load(path)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.eye(3, dtype=np.float32), "w"))
    (tmp_path / "weights").mkdir()
    onnx.save(model, path, save_as_external_data=True, location=location, size_threshold=0)
    with pytest.raises(BadWeights, match=f"^{path}: it keeps weights in another file,.* as one f"):
        OnnxExtractor(path)
    onnx.save(onnx.load(path), path)
    assert OnnxExtractor(path).extract(crops(2)).global_.shape == (2, 3)


def test_the_bytes_that_are_hashed_are_those_that_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path)
    loaded = []
    session = onnxruntime.InferenceSession

    def note(model: Any, *arguments: Any, **options: Any) -> Any:
        loaded.append(model)
        path.write_bytes(b"another model")
        return session(model, *arguments, **options)

    monkeypatch.setattr(onnxruntime, "InferenceSession", note)
    fingerprint = OnnxExtractor(path).fingerprint
    assert [hashlib.sha256(model).hexdigest() for model in loaded] == [fingerprint.weights_sha256]


@pytest.mark.skipif(not DATA.is_dir(), reason="the research data are not here")
def test_real_model_equals_a_direct_run() -> None:
    """256 random crops: as onnxruntime alone, with the published preprocessing done by hand."""
    weights = DATA / "models" / "osnet_x0_25_msmt17.onnx"
    every = sorted((DATA / "market1501" / "bounding_box_train").glob("*.jpg"))
    paths = [every[i] for i in np.random.default_rng(256).choice(len(every), 256, replace=False)]
    session = onnxruntime.InferenceSession(str(weights), providers=["CPUExecutionProvider"])
    expected = []
    for path in paths:
        with Image.open(path) as image:
            resized = image.convert("RGB").resize((128, 256), Image.Resampling.BILINEAR)
        pixels = np.asarray(resized, np.float64) / 255
        pixels = (pixels - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
        crop = pixels.transpose(2, 0, 1)[None].astype(np.float32)
        expected.append(session.run(None, {session.get_inputs()[0].name: crop})[0][0])
    extractor = OnnxExtractor(weights)
    batches = [paths[start : start + 32] for start in range(0, 256, 32)]
    given = np.concatenate(
        [extractor.extract([read_image(path) for path in batch]).global_ for batch in batches]
    )
    assert given.shape == (256, 512)
    product = (given * expected).sum(axis=1)
    lengths = np.linalg.norm(given, axis=1) * np.linalg.norm(expected, axis=1)
    assert (product / lengths).min() >= 0.9999
