"""The openvino extractor on tiny models made here, and on a real one where the data are at hand."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from extractors.images import read_image
from extractors.openvino import OpenvinoExtractor, import_openvino
from reid_index.errors import BadWeights, MissingExtra

CARD = {
    "height": 4,
    "width": 2,
    "color_order": "BGR",
    "scale": 1,
    "mean": [0, 0, 0],
    "std": [1, 1, 2],
    "interpolation": "bilinear",
}
ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"


@pytest.fixture(scope="module")
def openvino() -> Any:
    """The module, imported the way that sends nothing."""
    try:
        return import_openvino()
    except MissingExtra:
        pytest.skip("OpenVINO is not installed (the extra openvino)")


Save = Callable[..., Path]


@pytest.fixture
def save(openvino: Any, tmp_path: Path) -> Save:
    """Writes a model x → build(ops, x) of that input shape, and its card."""
    ops = openvino.opset13

    def write(
        build: Callable[[Any, Any], Any] = lambda ops, x: ops.reduce_mean(x, np.array([2, 3])),
        *,
        shape: tuple[int, ...] = (1, 3, 4, 2),
        card: dict[str, Any] = CARD,
    ) -> Path:
        x = ops.parameter(shape, np.float32, name="x")
        built = build(ops, x)
        model = openvino.Model(built if isinstance(built, list) else [built], [x], "tiny")
        path = tmp_path / "m.xml"
        openvino.serialize(model, path, path.with_suffix(".bin"))
        path.with_suffix(".json").write_text(json.dumps(card))
        return path

    return write


def test_values_by_hand(save: Save) -> None:
    """The model yields the channels' means, and was made for batches of 1."""
    extractor = OpenvinoExtractor(save())
    crops = np.random.default_rng(5).integers(0, 256, (5, 4, 2, 3), dtype=np.uint8)
    crops[3] = (10, 20, 30)
    embedding = extractor.extract(list(crops))
    assert extractor.dim == 3
    assert (embedding.global_.dtype, embedding.global_.shape) == (np.float32, (5, 3))
    np.testing.assert_allclose(embedding.global_[3], [30, 20, 5], rtol=1e-6)
    expected = crops[:, :, :, ::-1].mean(axis=(1, 2), dtype=np.float64) / [1, 1, 2]
    np.testing.assert_allclose(embedding.global_, expected, rtol=1e-5)
    alone = [extractor.extract([crop]).global_[0] for crop in crops]
    np.testing.assert_allclose(embedding.global_, alone, rtol=1e-6)


def test_fingerprint_covers_both_files(save: Save) -> None:
    path = save(lambda ops, x: ops.add(x, np.float32(1)))
    fingerprint = OpenvinoExtractor(path).fingerprint
    both = path.read_bytes() + path.with_suffix(".bin").read_bytes()
    assert len(both) > path.stat().st_size
    assert fingerprint.weights_sha256 == hashlib.sha256(both).hexdigest()
    assert (fingerprint.name, fingerprint.color_order, fingerprint.std) == (
        "openvino",
        "BGR",
        (1, 1, 2),
    )


@pytest.mark.parametrize(
    ("build", "shape", "message"),
    [
        (lambda ops, x: ops.relu(x), (1, 24), r"its input is \[1,24\], its card says \[\?,3,4,2\]"),
        (lambda ops, x: ops.relu(x), (1, 3, 5, 2), r"its input is \[1,3,5,2\], its card says"),
        (lambda ops, x: [ops.relu(x), ops.abs(x)], (1, 3, 4, 2), "this one 1 and 2"),
        (
            lambda ops, x: ops.reduce_mean(x, np.array([0, 2, 3])),
            (1, 3, 4, 2),
            r"its output is \(3,\) for 2 crops",
        ),
        (
            lambda ops, x: ops.reshape(x, np.array([1, 24]), special_zero=False),
            (1, 3, 4, 2),
            "OpenVINO cannot run it on inputs of",
        ),
    ],
    ids=["rank", "size", "outputs", "no batch", "fixed batch"],
)
def test_models_that_do_not_fit(
    build: Callable[[Any, Any], Any], shape: tuple[int, ...], message: str, save: Save
) -> None:
    path = save(build, shape=shape)
    with pytest.raises(BadWeights, match=f"^{path}: .*{message}") as told:
        OpenvinoExtractor(path)
    assert "\n" not in str(told.value)


def test_files_that_are_missing_or_broken(save: Save) -> None:
    path = save(lambda ops, x: ops.add(x, np.float32(1)))
    binary, card = path.with_suffix(".bin"), path.with_suffix(".json")
    card.rename(card.with_suffix(".away"))
    with pytest.raises(BadWeights, match=f"^{card}: cannot be read "):
        OpenvinoExtractor(path)
    card.with_suffix(".away").rename(card)
    binary.write_bytes(b"")
    with pytest.raises(BadWeights, match=f"^{path}: OpenVINO cannot run it.*weights"):
        OpenvinoExtractor(path)
    path.write_text("this is no model")
    with pytest.raises(BadWeights, match=f"^{path}: OpenVINO cannot run it"):
        OpenvinoExtractor(path)
    binary.unlink()
    with pytest.raises(BadWeights, match=f"^{binary}: there is no such file; .*xml and .bin"):
        OpenvinoExtractor(path)


def run(code: str, *arguments: object, path: Path = ROOT) -> str:
    """What a fresh interpreter prints for that code; path: where it looks for modules first."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_without_openvino_the_extra_is_named(tmp_path: Path) -> None:
    code = """
import sys
sys.modules["openvino"] = None
from extractors import open_extractor
from reid_index.errors import MissingExtra
try:
    open_extractor("openvino", weights=sys.argv[1])
except MissingExtra as error:
    print(error)
"""
    assert run(code, tmp_path / "m.xml") == (
        "OpenVINO is not installed: pip install 'reid-index[openvino]'"
    )


# Stands in for the real package, which asks and waits before it sends anything.
REPORTING = """
import socket
try:
    socket.getaddrinfo("localhost", 1)
except OSError:
    pass
raise ImportError
"""

# The recording is proven by a look-up of its own at the end. Reports may be sent by threads, which
# are waited for, or by processes, which are recorded too.
SENDS_NOTHING = """
import socket, subprocess, sys, threading
seen = []
def note(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto", "subprocess.Popen"):
        seen.append(event)
        raise OSError("there is no network in this test")
sys.addaudithook(note)
import numpy as np
from pathlib import Path
from extractors.openvino import OpenvinoExtractor
extractor = OpenvinoExtractor(Path(sys.argv[1]))
vectors = extractor.extract([np.full((4, 2, 3), (10, 20, 30), np.uint8)]).global_
for thread in threading.enumerate():
    if thread is not threading.main_thread():
        thread.join(5)
print(vectors.tolist(), seen, "openvino_telemetry" in sys.modules)
try:
    socket.getaddrinfo("localhost", 1)
except OSError:
    print(seen)
"""


def test_nothing_is_sent(save: Save, tmp_path: Path) -> None:
    """Loading and running a model tries no connection and does not import the reporting package."""
    path = save()
    assert run(SENDS_NOTHING, path) == "[[30.0, 20.0, 5.0]] [] False\n['socket.getaddrinfo']"
    (tmp_path / "openvino_telemetry.py").write_text(REPORTING)
    assert (
        run(SENDS_NOTHING, path, path=tmp_path)
        == "[[30.0, 20.0, 5.0]] [] False\n['socket.getaddrinfo']"
    )


@pytest.mark.skipif(not DATA.is_dir(), reason="the research data are not here")
def test_real_model_equals_a_direct_run(openvino: Any) -> None:
    """256 random crops: as OpenVINO alone, fed BGR 0…255 as the model's page says."""
    weights = DATA / "models" / "person-reidentification-retail-0288.xml"
    every = sorted((DATA / "market1501" / "bounding_box_train").glob("*.jpg"))
    paths = [every[i] for i in np.random.default_rng(288).choice(len(every), 256, replace=False)]
    precise = {"INFERENCE_PRECISION_HINT": "f32"}
    model = openvino.Core().compile_model(weights, "CPU", precise)
    expected = []
    for path in paths:
        with Image.open(path) as image:
            resized = image.convert("RGB").resize((128, 256), Image.Resampling.BILINEAR)
        crop = np.asarray(resized)[:, :, ::-1].transpose(2, 0, 1)[None].astype(np.float32)
        expected.append(model(crop)[0].reshape(256).copy())
    extractor = OpenvinoExtractor(weights)
    batches = [paths[start : start + 32] for start in range(0, 256, 32)]
    given = np.concatenate(
        [extractor.extract([read_image(path) for path in batch]).global_ for batch in batches]
    )
    assert given.shape == (256, 256)
    product = (given * expected).sum(axis=1)
    lengths = np.linalg.norm(given, axis=1) * np.linalg.norm(expected, axis=1)
    assert (product / lengths).min() >= 0.9999
