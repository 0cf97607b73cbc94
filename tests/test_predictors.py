"""What predicts attributes: the contract, model 0230, and an extractor with a predictor beside."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from attribute_world import NAMES, openvino_or_skip, write_model
from numpy.typing import NDArray

from extractors import open_extractor, open_recipe, recipe
from extractors.attributes import (
    AttributePredictor,
    WithAttributes,
    columns_of,
    origin_of,
    voted,
)
from extractors.attributes_0230 import Predictor0230
from extractors.colors import market_shades
from extractors.extractor import Embedding, Extractor, joined
from extractors.images import read_image
from extractors.predictors import open_predictor, predictor_of, recipe_of
from extractors.stripes import StripesExtractor
from reid_index.attributes import MODEL
from reid_index.errors import BadSource, BadWeights, ExtractorMismatch
from reid_index.fingerprint import Fingerprint

DATA = Path(__file__).parents[2] / "shared" / "data"
REAL = DATA / "models" / "person-attributes-recognition-crossroad-0230.xml"

RED, GREEN, BLACK, WHITE = (200, 20, 40), (20, 110, 70), (12, 10, 14), (240, 240, 240)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "tiny.xml")


def crop(upper: tuple[int, int, int], lower: tuple[int, int, int]) -> NDArray[np.uint8]:
    """160 × 80: the upper half of one colour, the lower of another."""
    pixels = np.empty((160, 80, 3), np.uint8)
    pixels[:80], pixels[80:] = upper, lower
    return pixels


def test_words_by_hand(model: Path) -> None:
    """Mean blue 0.4 is female at 0.6, green 0.8 a bag at 0.8, red 0.1 no backpack at 0.9, …"""
    plain = np.full((160, 80, 3), (25.5, 204, 102), np.uint8)  # red 25, green 204, blue 102
    said = predictor_of(model).extract([plain, plain[:, ::-1]])
    blue, green, red = 102 / 255, 204 / 255, 25 / 255
    expected = {
        "gender": ("female", 1 - blue),
        "bag": ("yes", green),
        "backpack": ("no", 1 - red),
        "hat": ("no", 1 - blue),
        "sleeve": ("long", green),
        "lower_length": ("short", 1 - red),
        "hair": ("short", 1 - blue),
        "coat": ("yes", green),
    }
    for name, (word, sure) in expected.items():
        assert said[f"attr.{name}"] == [word, word]
        assert said[f"attr.{name}.confidence"] == pytest.approx([sure, sure], abs=1e-5)
    sha = hashlib.sha256(model.read_bytes() + model.with_suffix(".bin").read_bytes()).hexdigest()
    assert said["attr.hat.origin"] == [f"model crossroad-0230 1 {sha[:12]}"] * 2
    names = predictor_of(model).names
    assert names == (*expected, "upper_color", "lower_color")
    columns = (f"attr.{name}{what}" for name in names for what in ("", ".confidence", ".origin"))
    assert list(said) == list(columns)


def test_colors_are_those_around_the_points(tmp_path: Path, model: Path) -> None:
    said = predictor_of(model).extract([crop(RED, BLACK), crop(GREEN, WHITE)])
    assert said["attr.upper_color"] == [["red"], ["green"]]
    assert said["attr.lower_color"] == [["black"], ["white"]]
    of_green = market_shades("upper").probabilities(np.array([GREEN])).max()
    assert said["attr.upper_color.confidence"][1] == pytest.approx(of_green)
    # x is the first of a point's numbers: a point in the right half sees the right half.
    sides = np.concatenate([np.full((160, 40, 3), RED), np.full((160, 40, 3), GREEN)], axis=1)
    left = write_model(tmp_path / "left.xml", points=((0.0, 0.5), (1.0, 0.5)))
    both = predictor_of(left).extract([sides.astype(np.uint8)])
    assert (both["attr.upper_color"], both["attr.lower_color"]) == ([["red"]], [["green"]])


@pytest.mark.parametrize("point", [(1.01, 0.5), (0.5, -0.01), (float("nan"), 0.5)])
def test_a_point_outside_leaves_a_color_unknown(tmp_path: Path, point: tuple[float, float]) -> None:
    path = write_model(tmp_path / "tiny.xml", points=(point, (0.5, 0.75)))
    said = predictor_of(path).extract([crop(RED, BLACK)])
    columns = ("attr.upper_color", "attr.upper_color.confidence", "attr.upper_color.origin")
    assert [said[name] for name in columns] == [[None]] * 3
    assert said["attr.lower_color"] == [["black"]]


def test_crops_of_any_size_and_batches(model: Path, rng: np.random.Generator) -> None:
    predictor = predictor_of(model)
    crops = [rng.integers(0, 256, (h, w, 3), np.uint8) for h, w in ((1, 1), (128, 64), (300, 90))]
    together = predictor.extract(crops)
    alone = [predictor.extract([one]) for one in crops]
    for name, values in together.items():
        assert len(values) == 3
        for value, one in zip(values, alone, strict=True):
            assert value == (pytest.approx(one[name][0]) if "conf" in name else one[name][0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attributes": 7}, r"its outputs are 453 \[1,7,1,1\], 456 .*, not those of person-attr"),
        ({"names": ("453", "456", "460")}, r"its outputs are .* 460 \[1,2,1,1\], not those of"),
        ({"outputs": 1}, r"its outputs are 453 \[1,8,1,1\], not those of .*459 \[1,2,1,1\]"),
        ({"shape": (1, 3, 256, 128)}, r"its input is .*\[1,3,256,128\], that of .*\[1,3,160,80\]"),
    ],
    ids=["seven", "names", "one", "input"],
)
def test_other_models_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = write_model(tmp_path / "other.xml", **changes)
    with pytest.raises(BadWeights, match=f"^{path}: {message}") as told:
        predictor_of(path)
    assert "\n" not in str(told.value)


def test_files_that_are_none(tmp_path: Path, model: Path) -> None:
    for name in ("m.safetensors", "m.onnx"):
        with pytest.raises(BadWeights, match=f"^{tmp_path / name}: "):
            predictor_of(tmp_path / name)
    with pytest.raises(BadWeights, match=r"there is no such file; an IR model is \.xml and \.bin"):
        predictor_of(tmp_path / "away.xml")
    model.write_text("this is no model")
    with pytest.raises(BadWeights, match=f"^{model}: OpenVINO cannot run it: "):
        predictor_of(model)


class Said(AttributePredictor):
    """A predictor of one attribute that says what it is told."""

    def __init__(self, word: str, shape: tuple[int, ...] = (2,)) -> None:
        self._word, self._shape = word, shape

    @property
    def fingerprint(self) -> Fingerprint:
        return Fingerprint(name="said", version="2", weights_sha256="0123456789abcdef" * 4)

    @property
    def names(self) -> tuple[str, ...]:
        return ("hat",)

    def prepare(self, crop: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return np.full(self._shape, crop[0, 0, 0], np.uint8)

    def predict(self, batch: NDArray[Any]) -> Mapping[str, Sequence[Any]]:
        words = [f"{self._word}{one.flat[0]}" for one in batch]
        return columns_of("hat", words, [0.5] * len(batch), self.origin)


class WithHat(StripesExtractor):
    """Stripes with attributes of their own."""

    def embed(self, batch: NDArray[Any]) -> Embedding:
        made = super().embed(batch)
        said = columns_of("hat", ["no"] * len(batch), [1.0] * len(batch), "model own 1")
        bag = columns_of("bag", [None] * len(batch), [1.0] * len(batch), "model own 1")
        return Embedding(global_=made.global_, parts=made.parts, attributes={**said, **bag})


@pytest.mark.parametrize("shape", [(2,), (160, 80, 3), ()])
def test_vectors_beside_attributes_are_the_same(
    shape: tuple[int, ...], rng: np.random.Generator
) -> None:
    alone, both = StripesExtractor(), WithAttributes(StripesExtractor(), Said("w", shape))
    crops = [rng.integers(0, 256, (40, 20, 3), np.uint8) for _ in range(5)]
    made, given = alone.extract(crops), both.extract(crops)
    np.testing.assert_array_equal(made.global_, given.global_)
    assert given.attributes is not None
    assert given.attributes["attr.hat"] == [f"w{one[0, 0, 0]}" for one in crops]
    assert given.attributes["attr.hat.origin"] == ["model said 2 0123456789ab"] * 5
    assert (both.fingerprint, both.dim) == (alone.fingerprint, alone.dim)
    assert both.matcher == alone.matcher
    assert (alone.predicted_by, both.predicted_by) == (None, Said("w").fingerprint)


def test_the_predictors_word_wins() -> None:
    made = WithAttributes(WithHat(), Said("w")).extract([crop(RED, BLACK)])
    assert made.attributes is not None
    assert made.attributes["attr.hat"] == ["w200"]
    assert made.attributes["attr.hat.confidence"] == [0.5]
    assert made.attributes["attr.bag"] == [None]


def test_a_wrapped_extractor_keeps_its_parts_matcher_and_segments() -> None:
    wrapped = open_extractor("trained")
    both = WithAttributes(wrapped, Said("w"))
    assert both.matcher == wrapped.matcher
    assert type(both.segments) is type(wrapped.segments)
    made, given = wrapped.extract([crop(RED, BLACK)]), both.extract([crop(RED, BLACK)])
    np.testing.assert_array_equal(made.global_, given.global_)


def test_a_recipe_makes_both_again(model: Path) -> None:
    said = recipe(
        "stripes",
        weights=None,
        preprocess=None,
        attributes=recipe_of(model, predictor_of(model)),
    )
    again = open_recipe(said)
    assert again.predicted_by == predictor_of(model).fingerprint
    assert open_recipe(said, predict=False).predicted_by is None
    moved = model.rename(model.with_name("moved.xml"))
    model.with_suffix(".bin").rename(moved.with_suffix(".bin"))
    with pytest.raises(BadWeights, match=f"^{model}: .*--attributes FILE says where it is now"):
        open_recipe(said)
    assert open_recipe(said, attributes=moved).predicted_by == again.predicted_by
    other = write_model(model.with_name("other.xml"), shift=0.25)
    with pytest.raises(ExtractorMismatch, match=f"^{other}: .*another model .weights_sha256: "):
        open_recipe(said, attributes=other)
    for broken in ("x", {}, {"weights": str(moved)}, {"weights": str(moved), "fingerprint": []}):
        with pytest.raises(BadSource, match="recipe does not say properly"):
            open_predictor(broken)


def test_embeddings_are_joined_in_order() -> None:
    extractor: Extractor = WithAttributes(StripesExtractor(), Said("w"))
    crops = [np.full((8, 4, 3), shade, np.uint8) for shade in (1, 2, 3)]
    one = joined([extractor.extract(crops[:2]), extractor.extract(crops[2:])])
    assert one.attributes is not None
    assert one.attributes["attr.hat"] == ["w1", "w2", "w3"]
    np.testing.assert_array_equal(one.global_, StripesExtractor().extract(crops).global_)
    assert joined([StripesExtractor().extract(crops)]).attributes is None


def test_origin_of_a_model_without_weights() -> None:
    assert origin_of(Fingerprint(name="n", version="3")) == f"{MODEL} n 3"


# Votes


MODEL_A = "model a 1 000000000000"


def items(**columns: Any) -> pa.Table:
    kinds = {"": pa.dictionary(pa.int32(), pa.string()), ".confidence": pa.float32()}
    table = {}
    for name, values in columns.items():
        whole = "attr." + name.replace("__", ".")
        is_set = any(isinstance(value, list) for value in values)
        kind = pa.list_(pa.string()) if is_set else kinds.get("." + whole.split(".")[-1])
        if kind is None:
            kind = pa.string() if whole.endswith(".origin") else kinds[""]
        table[whole] = (
            pa.array(values, pa.string()).cast(kind)
            if kind == kinds[""]
            else pa.array(values, kind)
        )
    return pa.table(table)


def test_votes_by_hand() -> None:
    """Three rows: no 0.6 + no 0.7 against yes 0.9: no, at 1.3 / 3."""
    table = items(
        hat=["no", "yes", "no", None],
        hat__confidence=[0.6, 0.9, 0.7, None],
        hat__origin=[MODEL_A, MODEL_A, MODEL_A, None],
    )
    said = voted(table, [[0, 1, 2, 3], [1, 3], [3], [1, 0]])
    assert said["attr.hat"].to_pylist() == ["no", "yes", None, "yes"]
    sure = said["attr.hat.confidence"].to_pylist()
    assert sure == [pytest.approx(1.3 / 3), pytest.approx(0.9), None, pytest.approx(0.45)]
    assert said["attr.hat.origin"].to_pylist() == [MODEL_A, MODEL_A, None, MODEL_A]
    assert said["attr.hat"].type == table.schema.field("attr.hat").type


def test_votes_of_equal_weight_go_to_the_first() -> None:
    table = items(hat=["no", "yes"], hat__confidence=[0.75, 0.75])
    assert voted(table, [[0, 1], [1, 0]])["attr.hat"].to_pylist() == ["no", "yes"]


def test_what_people_say_outvotes_models() -> None:
    table = items(
        hat=["no", "no", "yes"],
        hat__confidence=[0.9, 0.9, None],
        hat__origin=[MODEL_A, MODEL_A, "label"],
    )
    said = voted(table, [[0, 1, 2]])
    assert [column.to_pylist() for column in said.values()] == [["yes"], [None], ["label"]]


def test_sets_are_voted_on_as_a_whole_and_labels_have_one_column() -> None:
    table = items(upper_color=[["black", "red"], ["red"], ["black", "red"]])
    said = voted(table, [[0, 1, 2], [1]])
    assert {name: column.to_pylist() for name, column in said.items()} == {
        "attr.upper_color": [["black", "red"], ["red"]]
    }


@pytest.mark.skipif(not REAL.is_file(), reason="the research data are not here")
def test_the_real_model_equals_a_direct_run() -> None:
    """As its page says: BGR 0…255, 160 × 80; who is a man by more than 0.5."""
    openvino = openvino_or_skip()
    compiled = openvino.Core().compile_model(REAL, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    paths = sorted((DATA / "market1501" / "bounding_box_train").glob("*.jpg"))[::400]
    predictor = Predictor0230(REAL)
    said = predictor.extract([read_image(path) for path in paths])
    for row, path in enumerate(paths):
        fed = predictor.prepare(read_image(path))[:, :, ::-1].transpose(2, 0, 1)[None]
        given = compiled(fed.astype(np.float32))
        male = float(given[NAMES[0]].reshape(8)[0])
        assert said["attr.gender"][row] == ("male" if male >= 0.5 else "female")
        sure = said["attr.gender.confidence"][row]
        assert sure == pytest.approx(max(male, 1 - male), abs=1e-4)
    assert None not in said["attr.upper_color"]
