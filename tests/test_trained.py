"""Model files: written, read, refused; as an extractor; and as ONNX, which gives the same."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from training_world import FED, crop

from extractors import open_extractor, open_recipe, recipe
from extractors.onnx import OnnxExtractor
from extractors.onnx_export import export_onnx
from extractors.systems import Plan, make_system
from extractors.trained import Model, read_card, read_model, write_model
from reid_index.errors import BadWeights, UsageError

CROPS = [crop(person, seed=1) for person in range(5)]


def model(**plan: Any) -> Model:
    torch.manual_seed(1)
    made = Plan(**{"backbone": "resnet18_x0_125", "dim": 9, **plan})
    system = make_system(made, classes=11).eval()
    for name, one in system.state_dict().items():
        if "running_mean" in name:
            one.normal_(0.0, 0.1)
    about = {"data": "drawn people", "figures": {"mAP": 0.5}, "licence": None}
    return Model(system, made, FED, about)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_model(tmp_path / "m.safetensors", model())
    return tmp_path / "m.safetensors"


def test_a_model_is_read_as_it_was_written(path: Path) -> None:
    found, written = read_model(path), model()
    assert (found.plan, found.preprocess, found.about) == (written.plan, FED, written.about)
    state, expected = found.system.state_dict(), written.system.state_dict()
    for name in expected.keys() - {"classifier.weight"}:
        assert torch.equal(state[name], expected[name]), name
    assert not any(name.startswith("classifier") for name in load_file(path))
    card = read_card(path)
    assert card["plan"]["backbone"] == "resnet18_x0_125"
    before = path.read_bytes()
    write_model(path, model())
    assert path.read_bytes() == before


def test_its_vectors_are_the_systems(path: Path) -> None:
    extractor = open_extractor("trained", weights=path)
    fed = torch.from_numpy(np.stack([FED.apply(one) for one in CROPS]))
    with torch.inference_mode():
        expected = model().system.embed(fed).numpy()
    np.testing.assert_allclose(extractor.extract(CROPS).global_, expected, rtol=1e-5, atol=1e-6)
    said = extractor.fingerprint
    assert (extractor.dim, said.name, said.height, said.width) == (9, "trained", 64, 32)
    assert open_recipe(recipe("trained", weights=path, preprocess=None)).fingerprint == said
    with pytest.raises(UsageError, match="knows its own preprocessing"):
        open_extractor("trained", weights=path, preprocess=FED)


def test_other_weights_are_another_extractor(path: Path, tmp_path: Path) -> None:
    other = model()
    torch.nn.init.ones_(other.system.get_submodule("backbone.bn1").bias)
    write_model(tmp_path / "other.safetensors", other)
    one, two = (
        open_extractor("trained", weights=file).fingerprint
        for file in (path, tmp_path / "other.safetensors")
    )
    assert one.differences(two)


def changed(path: Path, **card: Any) -> None:
    """The same file with another card."""
    said = {**read_card(path), **card}
    save_file(load_file(path), path, metadata={"reid-index": json.dumps(said)})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": 2}, "written by a newer reid-index"),
        ({"plan": {"backbone": "resnet18_x0_25"}}, "does not fit BoT: .*wrong shape"),
        ({"format": -5}, "no model of `reid train`"),
        ({"format": True}, "no model of `reid train`"),
        ({"plan": {"backbone": "resnet" + "9" * 5000}}, "describes no system"),
        ({"plan": {"system": "mgn"}}, "its card describes no system"),
        ({"plan": []}, "no system|cannot be read"),
        ({"preprocess": {}}, "height, width, .* missing"),
    ],
)
def test_a_card_that_does_not_fit_is_refused(path: Path, change: Any, words: str) -> None:
    changed(path, **change)
    with pytest.raises(BadWeights, match=words) as raised:
        read_model(path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("spoiled", ["nan", "complex", "bool"])
def test_weights_that_are_no_numbers_are_refused(path: Path, spoiled: str) -> None:
    tensors, card = load_file(path), read_card(path)
    first = tensors["backbone.conv1.weight"]
    tensors["backbone.conv1.weight"] = {
        "nan": first * float("nan"),
        "complex": first.to(torch.complex64),
        "bool": first.bool(),
    }[spoiled]
    save_file(tensors, path, metadata={"reid-index": json.dumps(card)})
    with pytest.raises(BadWeights, match=r"backbone\.conv1\.weight is torch.* or holds NaN"):
        read_model(path)


def test_half_precision_halves_the_file_and_hardly_changes_vectors(path: Path) -> None:
    half = path.with_name("half.safetensors")
    write_model(half, model(), half=True)
    assert half.stat().st_size < 0.65 * path.stat().st_size
    one, other = (open_extractor("trained", weights=file).extract(CROPS) for file in (path, half))
    cosine = (one.global_ * other.global_).sum(1)
    cosine /= np.linalg.norm(one.global_, axis=1) * np.linalg.norm(other.global_, axis=1)
    assert cosine.min() > 0.999


def test_files_that_are_no_models_are_refused(path: Path, tmp_path: Path) -> None:
    with pytest.raises(BadWeights, match="there is no such model file"):
        read_model(tmp_path / "nowhere.safetensors")
    tensors = load_file(path)
    save_file(tensors, path)
    with pytest.raises(BadWeights, match="no model of `reid train`"):
        read_model(path)
    torch.save(tensors, path)
    with pytest.raises(BadWeights, match="no model of `reid train`"):
        read_model(path)
    for content in (b"", b"\xff" * 30, b"\0" * 7):
        path.write_bytes(content)
        with pytest.raises(BadWeights, match="no model of `reid train`"):
            read_model(path)


def test_damage_gives_errors_of_this_project_only(path: Path, rng: np.random.Generator) -> None:
    whole = path.read_bytes()
    header = int.from_bytes(whole[:8], "little") + 8
    for _ in range(150):
        content = bytearray(whole)
        content[int(rng.integers(header))] ^= int(rng.integers(1, 256))
        path.write_bytes(
            content if rng.random() < 0.8 else content[: int(rng.integers(len(whole)))]
        )
        with suppress(BadWeights):
            read_model(path)


# As ONNX


@pytest.mark.parametrize(
    "plan",
    [
        {},
        {"backbone": "osnet_x0_25", "system": "plain", "pooling": "gem"},
        {"backbone": "resnet18_ibn_x0_125", "neck": False},
    ],
    ids=["bot", "osnet, gem", "ibn"],
)
def test_as_onnx_it_gives_the_same_vectors(tmp_path: Path, plan: dict[str, Any]) -> None:
    made = model(**plan)
    path = tmp_path / "m.onnx"
    assert export_onnx(path, made.system, FED) >= 0.9999
    found = OnnxExtractor(path).extract(CROPS).global_
    fed = torch.from_numpy(np.stack([FED.apply(one) for one in CROPS]))
    with torch.inference_mode():
        expected = made.system.embed(fed).numpy()
    cosine = (
        (found * expected).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(expected, axis=1)
    )
    assert cosine.min() >= 0.9999
    assert sorted(one.name for one in tmp_path.iterdir()) == ["m.json", "m.onnx"]


def test_what_gives_other_vectors_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from extractors import onnx_export

    run = onnx_export._run
    monkeypatch.setattr(onnx_export, "_run", lambda *given: run(*given) + 1)
    with pytest.raises(BadWeights, match=r"m\.onnx: not written, as ONNX gives other vectors"):
        export_onnx(tmp_path / "m.onnx", model().system, FED)
    assert list(tmp_path.iterdir()) == []
