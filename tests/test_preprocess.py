"""How crops become a network's input, against Pillow's resize and the formula in float64."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from extractors.model import one_row_each
from extractors.preprocess import Preprocess, preprocess_from, read_card
from extractors.preprocess import preprocess_to_json as to_json
from reid_index.errors import BadWeights
from reid_index.fingerprint import Fingerprint

CARD: dict[str, Any] = {
    "height": 32,
    "width": 16,
    "color_order": "RGB",
    "scale": 1 / 255,
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
    "interpolation": "bilinear",
}


@pytest.mark.parametrize("order", ["RGB", "BGR"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(61, 23), (7, 5), (32, 16), (1, 1)])
def test_equals_the_formula(order: str, interpolation: str, size: tuple[int, int]) -> None:
    crop = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    crop.flags.writeable = False
    card = preprocess_from(
        CARD | {"color_order": order, "interpolation": interpolation}, where="the card"
    )
    resample = Image.Resampling[interpolation.upper()]
    resized = np.asarray(Image.fromarray(crop).resize((16, 32), resample), np.float64)
    ordered = resized[:, :, :: 1 if order == "RGB" else -1]
    expected = (ordered * CARD["scale"] - CARD["mean"]) / CARD["std"]
    given = card.apply(crop)
    assert (given.dtype, given.shape) == (np.float32, (3, 32, 16))
    assert given.flags.c_contiguous
    np.testing.assert_allclose(given, expected.transpose(2, 0, 1), atol=1e-5, rtol=0)


def test_shrinking_averages() -> None:
    """A filter that does not average would see one of the two colours only."""
    card = preprocess_from(CARD | {"scale": 1, "mean": [0] * 3, "std": [1] * 3}, where="the card")
    stripes = np.zeros((64, 320, 3), np.uint8)
    stripes[:, ::2] = 200
    np.testing.assert_allclose(card.apply(stripes)[:, :, 1:-1], 100, atol=2)


@pytest.mark.parametrize(("order", "expected"), [("RGB", [19, 19, 14.25]), ("BGR", [59, 19, 4.25])])
def test_channels_by_hand(order: str, expected: list[float]) -> None:
    """(v · 2 − mean) / std of the pixel R 10, G 20, B 30: mean and std are in color_order."""
    card = Preprocess(
        height=1,
        width=1,
        color_order=order,
        scale=2.0,
        mean=(1.0, 2.0, 3.0),
        std=(1.0, 2.0, 4.0),
    )
    pixel = np.array([[[10, 20, 30]]], np.uint8)
    assert card.apply(pixel).ravel().tolist() == expected


def test_card_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    path.write_text(json.dumps(CARD | {"dim": 8, "l2_normalized": False, "scale": 1}))
    assert read_card(path) == Preprocess(
        height=32,
        width=16,
        color_order="RGB",
        scale=1.0,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        interpolation="bilinear",
    )


def test_card_there_and_back() -> None:
    card = preprocess_from(CARD, where="the card")
    assert json.loads(json.dumps(to_json(card))) == CARD
    assert preprocess_from(to_json(card), where="the card") == card


@pytest.mark.parametrize("name", CARD)
def test_each_field_is_needed(name: str) -> None:
    data = {key: value for key, value in CARD.items() if key != name}
    with pytest.raises(BadWeights, match=f"^m.json: {name} missing; the fields are height, "):
        preprocess_from(data, where="m.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"crop": 1, "pad": 2}, "crop, pad unknown; the fields are"),
        ({"height": "32"}, "height is '32'; give a whole number of pixels"),
        ({"width": 16.5}, "width is 16.5; give a whole number"),
        ({"height": True}, "height is True; give a whole number"),
        ({"height": 0}, "an input of 0 × 16 pixels"),
        ({"scale": "x"}, "scale is 'x'; give a number"),
        ({"scale": 0}, ".* std and scale cannot be 0"),
        ({"scale": float("inf")}, ".* cannot be NaN or infinite"),
        ({"mean": 0.5}, "mean is 0.5; give a list of three numbers"),
        ({"mean": "123"}, "mean is '123'; give a list of three numbers"),
        ({"mean": [0, 0]}, r"mean is \[0, 0\]; give a list of three numbers"),
        ({"mean": [0, 0, float("nan")]}, ".* cannot be NaN or infinite"),
        ({"std": [1, None, 1]}, "std is .*; give a list of three numbers"),
        ({"std": [1, 0, 1]}, ".* std and scale cannot be 0"),
        ({"color_order": "rgb"}, "color_order 'rgb': use RGB or BGR"),
        ({"interpolation": "nearest"}, "interpolation 'nearest': use bilinear or bicubic"),
        ({"interpolation": ["bilinear"]}, r"interpolation \['bilinear'\]: use bilinear or"),
    ],
)
def test_fields_that_make_no_sense(change: dict[str, Any], message: str) -> None:
    with pytest.raises(BadWeights, match=f"^m.json: {message}"):
        preprocess_from(CARD | change, where="m.json")


def test_files_that_are_no_card(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    with pytest.raises(BadWeights, match=r"m\.json: cannot be read \(No such file.*write the mod"):
        read_card(path)
    for content, message in [(b"{", "not JSON"), (b"\xff", "not JSON"), (b"[]", "not a JSON obj")]:
        path.write_bytes(content)
        with pytest.raises(BadWeights, match=f"m.json: {message}"):
            read_card(path)


def test_fingerprint_has_every_setting() -> None:
    card = preprocess_from(CARD | {"color_order": "BGR"}, where="the card")
    assert card.fingerprint(name="onnx", version="3", weights_sha256="ab") == Fingerprint(
        name="onnx",
        version="3",
        weights_sha256="ab",
        height=32,
        width=16,
        interpolation="bilinear",
        color_order="BGR",
        scale=1 / 255,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        flip=False,
        pooling="in the model",
    )
    assert len(dataclasses.fields(card)) == len(CARD)


def test_one_row_for_each_crop() -> None:
    rows = one_row_each(np.arange(6, dtype=np.float64).reshape(2, 3, 1, 1), 2)
    assert (rows.dtype, rows.tolist()) == (np.float32, [[0, 1, 2], [3, 4, 5]])
    for shape in [(1, 6), (2,), ()]:
        with pytest.raises(ValueError, match="for 2 crops, not a row for each"):
            one_row_each(np.zeros(shape), 2)
