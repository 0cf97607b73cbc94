"""Opening extractors by name and by a gallery's recipe, and what importing them loads."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from extractors import DESCRIPTIONS, open_extractor, open_recipe, recipe
from extractors.preprocess import Preprocess
from reid_index.errors import BadWeights, MissingExtra, UsageError

GIVEN = Preprocess(height=4, width=2, scale=0.5, mean=(0.0, 1.0, 2.0), std=(1.0, 2.0, 3.0))
ROOT = Path(__file__).parents[1]


def loaded_by(code: str) -> set[str]:
    """The modules that a fresh interpreter has after that code."""
    script = f"{code}\nimport sys; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_importing_loads_nothing_heavy() -> None:
    heavy = {"torch", "onnxruntime", "openvino", "faiss", "PIL", "pyarrow", "h5py"}
    loaded = loaded_by("import extractors")
    assert "extractors" in loaded
    assert not heavy & loaded


def test_stripes_loads_no_network_library() -> None:
    loaded = loaded_by("from extractors import open_extractor; open_extractor('stripes')")
    assert "extractors.stripes" in loaded
    assert not {"torch", "onnxruntime", "openvino"} & loaded


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "resnet",
            {},
            "no extractor 'resnet'; there are trained, checkpoint, stripes, osnet, onnx, openvino$",
        ),
        ("external:clip", {}, "no extractor 'external:clip'"),
        ("stripes", {"weights": "a.onnx"}, "stripes takes no weights"),
        ("stripes", {"preprocess": GIVEN}, "stripes knows its own preprocessing"),
        ("osnet", {"preprocess": GIVEN}, "osnet knows its own preprocessing"),
        ("onnx", {"weights": "a.onnx", "device": "cuda"}, "onnx runs on the CPU only, not on 'cu"),
        ("osnet", {}, "osnet needs its model file: --weights FILE"),
        ("onnx", {}, "onnx needs its model file"),
        ("openvino", {}, "openvino needs its model file"),
    ],
)
def test_wrong_usage(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        open_extractor(name, **options)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("osnet", "give a checkpoint of PyTorch"),
        ("onnx", "there is no such model file"),
        ("openvino", "an IR model is .xml and .bin|OpenVINO is not installed"),
    ],
)
def test_each_name_opens_its_own(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises((BadWeights, MissingExtra), match=message):
        open_extractor(name, weights=tmp_path / "missing.model")


def test_every_name_is_described() -> None:
    names = ["trained", "checkpoint", "stripes", "osnet", "onnx", "openvino"]
    assert list(DESCRIPTIONS) == names
    assert open_extractor("stripes").fingerprint.name == "stripes"


def test_recipe_there_and_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    known = recipe("onnx", weights=Path("m.onnx"), preprocess=GIVEN)
    assert known == {
        "extractor": "onnx",
        "weights": str(tmp_path / "m.onnx"),
        "preprocess": {
            "height": 4,
            "width": 2,
            "color_order": "RGB",
            "scale": 0.5,
            "mean": [0.0, 1.0, 2.0],
            "std": [1.0, 2.0, 3.0],
            "interpolation": "bilinear",
        },
    }
    asked: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr("extractors.open_extractor", lambda name, **o: asked.append((name, o)))
    open_recipe(known)
    open_recipe(known, weights=Path("moved.onnx"))
    open_recipe(recipe("osnet", weights=Path("m.pth"), preprocess=None), device="cuda")
    both: dict[str, Any] = {"device": "cpu", "weighting": None}
    assert asked == [
        ("onnx", {"weights": f"{tmp_path}/m.onnx", "preprocess": GIVEN, **both}),
        ("onnx", {"weights": Path("moved.onnx"), "preprocess": GIVEN, **both}),
        (
            "osnet",
            {"weights": f"{tmp_path}/m.pth", "preprocess": None, **both, "device": "cuda"},
        ),
    ]


@pytest.mark.parametrize("known", [{}, {"extractor": None}, {"extractor": "external:clip"}])
def test_recipe_of_vectors_made_elsewhere(known: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"made elsewhere: query it with a vector \(.npy\)"):
        open_recipe(known)


def test_recipe_that_was_changed() -> None:
    known = recipe("onnx", weights=Path("m.onnx"), preprocess=GIVEN)
    known["preprocess"]["std"] = [0, 0, 0]
    with pytest.raises(BadWeights, match=r"^the gallery's recipe: "):
        open_recipe(known)
