"""HAA: conditions, boxes, weights, who learns from what, ways of weighting, and from the command
line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli_world import assert_refused, run, succeed
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from training_world import HEIGHT, WIDTH, crop, small, write_people

from extractors import open_extractor, open_recipe, recipe
from extractors.conditions import LIMITS, Limits, measure, measure_inputs
from extractors.onnx_export import export_onnx
from extractors.preprocess import MEAN, STD, Preprocess
from extractors.systems import Plan, make_system
from extractors.systems.haa import (
    BOX_HEIGHT,
    BOX_WIDTH,
    HAA,
    LEAST,
    Locator,
    Weights,
    cut,
    weak_boxes,
)
from extractors.trained import Model, TrainedExtractor, read_card, read_model, write_model
from extractors.training.augment import Augment
from extractors.training.train import train
from extractors.weighting import RULE, Weighting, read_table, weighting_from, weighting_of
from reid_index.errors import BadSource, UsageError

DIM = 8
FED = Preprocess(height=HEIGHT, width=WIDTH, scale=1 / 255, mean=MEAN, std=STD)
PLAN = Plan(system="haa", backbone="resnet18_x0_125", dim=DIM)
CPU = torch.device("cpu")


def system(*, classes: int = 5) -> HAA:
    torch.manual_seed(3)
    made = make_system(PLAN, classes=classes)
    assert isinstance(made, HAA)
    return made


def fed(crops: NDArray[np.uint8]) -> torch.Tensor:
    return torch.from_numpy(np.stack([FED.apply(one) for one in crops]))


def inputs(count: int = 6) -> torch.Tensor:
    return fed(np.stack([crop(person, seed=1) for person in range(count)]))


# What is measured


@pytest.mark.parametrize("size", [(128, 64), (100, 41), (64, 32), (257, 90), (20, 9), (1, 1)])
def test_crops_and_inputs_are_measured_alike(size: tuple[int, int], rng) -> None:
    crops = (
        rng.integers(0, 256, (4, *size, 3), np.uint8) // np.uint8([1, 2, 4, 9])[:, None, None, None]
    )
    own = [measure(one) for one in crops]
    told = measure_inputs(
        torch.from_numpy((crops / 255 - MEAN) / STD).permute(0, 3, 1, 2), mean=MEAN, std=STD
    )
    for name in ("brightness", "black", "sharpness"):
        expected = [getattr(one, name) for one in own]
        np.testing.assert_allclose(getattr(told, name), expected, rtol=1e-4, atol=1e-5)
    assert told.present().tolist() == [one.present() for one in own]


def plain_crop(shirt: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Somebody in one colour before a light, finely patterned wall."""
    picture = np.full((128, 64, 3), 150, np.uint8)
    picture[::4, ::4] = 240
    picture[5:25, 24:40] = (200, 150, 120)
    picture[25:120, 16:48] = shirt
    return picture


def test_dark_black_and_blurred_crops_are_found() -> None:
    light = plain_crop((180, 60, 50))
    assert measure(light).features(Limits(sharpness=100.0)) == ()
    dark = (light * 0.3).astype(np.uint8)
    assert "dark" in measure(dark).features()
    assert measure(plain_crop((20, 22, 25))).features(Limits(sharpness=100.0)) == ("black",)
    # As dark, but of a colour.
    assert measure(plain_crop((48, 0, 0))).black == 0
    blurred = np.asarray(Image.fromarray(light).filter(ImageFilter.GaussianBlur(4)))
    found, before = measure(blurred), measure(light)
    assert found.sharpness < LIMITS.sharpness < before.sharpness
    assert found.features() == ("blurred",)
    assert found.brightness == pytest.approx(before.brightness, abs=0.01)


def test_what_is_measured_has_the_units_that_are_documented() -> None:
    white = np.full((64, 32, 3), 255, np.uint8)
    assert measure(white) == measure(np.full((128, 64, 3), 255, np.uint8))
    assert (measure(white).brightness, measure(white).sharpness) == (pytest.approx(1.0), 0.0)
    assert measure(np.zeros((9, 9, 3), np.uint8)).black == 1
    assert measure(np.full((9, 9, 3), (0, 255, 0), np.uint8)).brightness == pytest.approx(0.587)
    board = np.zeros((64, 32, 3), np.uint8)
    board[np.indices((64, 32)).sum(axis=0) % 2 == 0] = 255
    # ±4 · 255 at every place.
    assert measure(board).sharpness == pytest.approx((4 * 255) ** 2)


# Where head and shoulders are


def test_what_is_in_a_box_is_cut_out(rng) -> None:
    picture = rng.random((2, 12, 8, 3)).astype(np.float32)
    x = torch.from_numpy(picture).permute(0, 3, 1, 2)

    def found(box: tuple[float, ...], height: int, width: int) -> NDArray[np.float32]:
        boxes = torch.tensor([box, box])
        return cut(x, boxes, height=height, width=width).permute(0, 2, 3, 1).numpy()

    np.testing.assert_allclose(found((0, 0, 1, 1), 12, 8), picture, atol=1e-5)
    part = picture[:, 3:9, 2:6]
    box = (2 / 8, 3 / 12, 6 / 8, 9 / 12)
    np.testing.assert_allclose(found(box, 6, 4), part, atol=1e-5)
    halves = part.reshape(2, 3, 2, 2, 2, 3).mean(axis=(2, 4))
    np.testing.assert_allclose(found(box, 3, 2), halves, atol=1e-5)
    twice = resized(resized(picture, 24, axis=1), 16, axis=2)
    np.testing.assert_allclose(found(box, 12, 8), twice[:, 6:18, 4:12], atol=1e-5)


def resized(picture: NDArray[np.float32], count: int, *, axis: int) -> NDArray[np.float32]:
    """Bilinear: between the middles of pixels, those at the border going on beyond it."""
    length = picture.shape[axis]
    places = np.clip((np.arange(count) + 0.5) * length / count - 0.5, 0, length - 1)
    low = np.floor(places).astype(int)
    high = np.minimum(low + 1, length - 1)
    shape = [1] * picture.ndim
    shape[axis] = count
    share = (places - low).reshape(shape)
    one, other = picture.take(low, axis=axis), picture.take(high, axis=axis)
    return ((1 - share) * one + share * other).astype(np.float32)


def test_each_box_is_cut_from_its_own_picture() -> None:
    x = torch.arange(2.0)[:, None, None, None].expand(2, 1, 4, 4)
    boxes = torch.tensor([[0.0, 0, 1, 1], [0.5, 0, 1, 0.5]])
    found = cut(x, boxes, height=2, width=2)
    assert torch.equal(found, torch.tensor([0.0, 1.0])[:, None, None, None].expand(2, 1, 2, 2))


def test_boxes_are_boxes_whatever_the_locator_says() -> None:
    found = []
    for seed in range(40):
        torch.manual_seed(seed)
        locator = Locator().eval()
        torch.nn.init.normal_(locator.linear.weight)
        torch.nn.init.normal_(locator.linear.bias, std=3.0)
        found.append(locator(torch.randn(2, 3, HEIGHT, WIDTH) * 3))
    boxes = torch.cat(found)
    assert boxes.std(dim=0).min() > 0.05
    sizes = boxes[:, 2:] - boxes[:, :2]
    assert (sizes >= LEAST - 1e-6).all()
    assert ((boxes >= 0) & (boxes <= 1 + 1e-6)).all()


def test_a_new_locator_says_head_and_shoulders_of_somebody_in_the_middle() -> None:
    boxes = Locator().eval()(torch.zeros(2, 3, HEIGHT, WIDTH))
    side = (1 - BOX_WIDTH) / 2
    expected = torch.tensor([side, 0.02, side + BOX_WIDTH, 0.02 + BOX_HEIGHT])
    torch.testing.assert_close(boxes, expected.expand(2, 4), atol=0.01, rtol=0)


def test_weak_boxes_follow_a_shifted_person() -> None:
    """Before a wall on the left and something else on the right."""
    crops = []
    for middle in (18, 26, 32, 38, 46):
        picture = np.full((128, 64, 3), (120, 120, 110), np.uint8)
        picture[:, middle:] = (60, 90, 60)
        picture[4:50, middle - 10 : middle + 10] = (200, 40, 40)
        crops.append(picture)
    boxes = weak_boxes(fed(np.stack(crops)))
    middles = (boxes[:, 0] + boxes[:, 2]) / 2
    expected = torch.tensor([max(1 / 3, 18 / 64), 26 / 64, 0.5, 38 / 64, min(2 / 3, 46 / 64)])
    torch.testing.assert_close(middles, expected, atol=0.03, rtol=0)
    torch.testing.assert_close(boxes[:, 2] - boxes[:, 0], torch.full((5,), BOX_WIDTH))
    torch.testing.assert_close(boxes[:, 3] - boxes[:, 1], torch.full((5,), BOX_HEIGHT))
    assert ((boxes >= -1e-6) & (boxes <= 1 + 1e-6)).all()


def test_without_contrast_the_weak_box_is_in_the_middle() -> None:
    boxes = weak_boxes(torch.zeros(2, 3, 50, 20))
    assert boxes[0].tolist() == pytest.approx([1 / 6, 0, 5 / 6, 1 / 3])


# The weights


def test_the_whole_weighs_less_exactly_where_it_is_told_to_be_of_less_use() -> None:
    torch.manual_seed(0)
    for slope in (-6.0, 0.0, 3.0):
        weigh = Weights(DIM)
        torch.nn.init.constant_(weigh.second, slope)
        told, w_g = weigh(torch.randn(500, DIM))
        says = told[:, 1] > told[:, 0]
        assert 50 < says.sum() < 450
        assert torch.equal((w_g < 1 - w_g)[:, 0], says)
        assert len(w_g.unique()) > 400
        assert ((w_g >= 0) & (w_g <= 1)).all()


def test_it_weighs_less_where_rounding_would_not_tell() -> None:
    weigh = Weights(DIM)
    torch.nn.init.zeros_(weigh.first.weight)
    with torch.no_grad():
        weigh.first.bias.copy_(torch.tensor([0.0, 1e-12]))
    _, w_g = weigh(torch.zeros(1, DIM))
    assert w_g < 1 - w_g


def test_vectors_are_both_features_by_their_weights() -> None:
    made = system().eval()
    with torch.inference_mode():
        whole, shoulder, w_g = made.features(inputs())
        vectors = made.embed(inputs())
    assert vectors.shape == (6, made.dim) == (6, 4 * DIM)
    assert (whole.shape, shoulder.shape, w_g.shape) == ((6, DIM), (6, 3 * DIM), (6, 1))
    torch.testing.assert_close(vectors[:, :DIM].norm(dim=1), w_g[:, 0])
    torch.testing.assert_close(vectors[:, DIM:].norm(dim=1), 1 - w_g[:, 0])
    assert len(w_g.unique()) == 6


def test_shapes_in_training() -> None:
    out = system(classes=7)(inputs())
    assert [one.shape for one in out.metrics] == [(6, DIM), (6, 3 * DIM), (6, 4 * DIM)]
    assert system().metric_dims == (DIM, 3 * DIM, 4 * DIM)
    assert [one.shape for one in out.logits] == [(6, 7)] * 3
    assert out.also.keys() == {"corners", "condition"}


# Who learns from what


def learners(loss: torch.Tensor, made: HAA) -> set[str]:
    made.zero_grad()
    loss.backward(retain_graph=True)
    return {
        name
        for name, one in made.named_parameters()
        if one.grad is not None and one.grad.abs().sum() > 0
    }


def below(names: set[str]) -> set[str]:
    """The modules that they are of."""
    return {".".join(name.split(".")[: 2 if "classifier" in name else 1]) for name in names}


def test_each_loss_teaches_only_its_own() -> None:
    made = system()
    out = made(inputs())
    one, two, both = out.metrics
    whole = {"backbone", "reduction"}
    shoulders = {"shoulders", "parts"}
    assert below(learners((one**3).sum(), made)) == whole
    assert below(learners((two**3).sum(), made)) == shoulders
    # A joined vector has a length that the weights alone decide.
    assert below(learners((both**2).sum(), made)) == {"weights"}
    told = [(logits**2).sum() for logits in out.logits]
    assert below(learners(told[0], made)) == {*whole, "neck", "classifier.whole"}
    shoulders |= {"neck_shoulders", "classifier.shoulders"}
    assert below(learners(told[1], made)) == shoulders
    assert below(learners(told[2], made)) == {"weights", "classifier.joined"}
    assert {"weights.second", "weights.first.weight"} <= learners(told[2], made)
    assert below(learners(out.also["corners"], made)) == {"locator"}
    assert learners(out.also["condition"], made) == {"weights.first.weight", "weights.first.bias"}


def half_in_black(*, crops: int, first: int = 0) -> NDArray[np.uint8]:
    """Eight persons, the first four of them in black."""
    seeds = range(first, first + crops)
    found = np.stack([crop(person, seed=seed) for person in range(8) for seed in seeds])
    found[: 4 * crops, HEIGHT // 4 :] = found[: 4 * crops, HEIGHT // 4 :] // 16
    return found


@pytest.fixture(scope="module")
def learnt() -> Any:
    plan = Plan(system="haa", backbone="resnet18_x0_125", dim=32)
    return train(
        small(plan=plan, preprocess=FED, augment=Augment(pad=2, erase=0.0), epochs=10),
        half_in_black(crops=6),
        np.repeat(np.arange(8), 6),
        state=None,
        device=CPU,
        after=lambda epoch, _system: epoch.losses,
    )


def test_training_lowers_every_loss(learnt) -> None:
    told = learnt.told
    assert told[0].keys() == {"identity", "triplet", "corners", "condition"}
    for name, first in told[0].items():
        assert told[-1][name] < 0.9 * first, name


def test_the_whole_weighs_less_of_unseen_crops_in_black(learnt) -> None:
    with torch.inference_mode():
        w_g = learnt.system.features(fed(half_in_black(crops=2, first=20)))[2][:, 0]
    assert (w_g[:8] < 0.5).float().mean() >= 0.75
    assert (w_g[8:] > 0.5).float().mean() >= 0.75


def test_other_inputs_cannot_be_measured() -> None:
    with pytest.raises(UsageError, match="haa measures light and blur on its inputs: normalise"):
        small(plan=PLAN)
    with pytest.raises(UsageError, match="haa measures light"):
        small(plan=PLAN, preprocess=Preprocess(height=64, width=32, scale=1, mean=MEAN, std=STD))


def test_plans_of_haa() -> None:
    assert make_system(Plan(system="haa", backbone="resnet18_x0_125"), classes=2).dim == 4 * 256
    for wrong in ({"stripes": 3}, {"neck": False}):
        with pytest.raises(UsageError, match="haa has no "):
            Plan(system="haa", **wrong)


def test_both_backbones_begin_with_the_same_weights() -> None:
    state = {
        name.removeprefix("backbone."): one
        for name, one in make_system(Plan(backbone="resnet18_x0_125"), classes=1)
        .state_dict()
        .items()
        if name.startswith("backbone.")
    }
    made = system()
    made.begin(state, path=Path("m"))
    for name, one in state.items():
        assert torch.equal(made.state_dict()[f"backbone.{name}"], one)
        assert torch.equal(made.state_dict()[f"shoulders.{name}"], one)


# As a file


def trained_model() -> Model:
    made = system().eval()
    with torch.no_grad():
        # New locators say the same of everybody.
        torch.nn.init.normal_(made.locator.linear.weight, std=1.0)
    return Model(made, PLAN, FED, {"data": "drawn people"})


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("haa") / "m.safetensors"
    write_model(file, trained_model())
    return file


def test_a_model_is_read_as_it_was_written(path: Path) -> None:
    found = read_model(path)
    assert found.plan == PLAN
    with torch.inference_mode():
        assert torch.equal(found.system.embed(inputs()), trained_model().system.embed(inputs()))


def test_as_onnx_it_gives_the_same_vectors(tmp_path: Path) -> None:
    assert export_onnx(tmp_path / "m.onnx", trained_model().system, FED) >= 0.9999


# Ways of weighting

TABLE = """feature,w_g,w_h
none,0.6,0.5
black,0.1,0.9
dark,0.25,0.5
blurred,0.3,1
"""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    (tmp_path / "table.csv").write_text(TABLE)
    return tmp_path / "table.csv"


def conditioned() -> list[NDArray[np.uint8]]:
    """Crops that are fine, dark, black, blurred, and dark and black; see `test_crops_are_so`."""
    fine = np.asarray(Image.fromarray(plain_crop((180, 60, 50))).resize((WIDTH, HEIGHT)))
    patterned = fine.copy()
    patterned[::2, ::2] = 250
    black = plain_crop((20, 22, 25))[::2, ::2]
    return [patterned, patterned // 4 + 25, black, np.full_like(fine, 120), black // 4]


def test_crops_are_so() -> None:
    found = [measure(one).features() for one in conditioned()]
    assert found == [(), ("dark",), ("black",), ("blurred",), ("dark", "black")]


def halves(path: Path, weighting: Weighting | None) -> tuple[NDArray[Any], NDArray[Any]]:
    """How long both parts of the vectors are, and the parts themselves made as long as 1."""
    vectors = TrainedExtractor(path, weighting=weighting).extract(conditioned()).global_
    parts = np.split(vectors, [DIM], axis=1)
    lengths = [np.linalg.norm(one, axis=1, keepdims=True) for one in parts]
    units = [one / length for one, length in zip(parts, lengths, strict=True)]
    return np.concatenate(lengths, axis=1), np.concatenate(units, axis=1)


def test_ways_of_weighting_give_what_is_documented(path: Path, table: Path) -> None:
    ways = {said: halves(path, weighting_of(said)) for said in ("adaptive", "plain", "rule")}
    ways["table"] = halves(path, read_table(table))
    with torch.inference_mode():
        fed_ = fed(np.stack(conditioned()))
        w_g = read_model(path).system.features(fed_)[2].numpy()
    expected = {
        "adaptive": np.concatenate([w_g, 1 - w_g], axis=1),
        "plain": np.full((5, 2), 0.5),
        "rule": [[0.5, 0.5], *[[0.3, 0.7]] * 4],
        "table": [[0.6, 0.5], [0.25, 0.5], [0.1, 0.9], [0.3, 1.0], [0.1, 0.9]],
    }
    for way, (lengths, parts) in ways.items():
        np.testing.assert_allclose(lengths, expected[way], atol=1e-5, err_msg=way)
        np.testing.assert_allclose(parts, ways["plain"][1], atol=1e-5)
    np.testing.assert_array_equal(halves(path, None)[0], ways["adaptive"][0])


def test_other_feeding_is_measured_all_the_same(tmp_path: Path) -> None:
    other = Preprocess(
        height=HEIGHT,
        width=WIDTH,
        color_order="BGR",
        scale=1 / 128,
        mean=(0.5, 0.8, 1.1),
        std=(0.3, 0.6, 1.2),
    )
    write_model(tmp_path / "o.safetensors", Model(trained_model().system, PLAN, other, {}))
    # Light red, which is dark blue with its channels exchanged.
    red = np.full((HEIGHT, WIDTH, 3), (245, 40, 20), np.uint8)
    red[::2, ::2] = (255, 60, 20)
    crops = [*conditioned(), red]
    assert measure(red).features() == ()
    assert "dark" in measure(red[:, :, ::-1]).features()
    rows = {"dark": (0.1, 0.9), "black": (0.2, 0.8), "blurred": (0.3, 0.7), "none": (0.5, 0.5)}
    weighting = Weighting(way="table", rows=rows)
    found = TrainedExtractor(tmp_path / "o.safetensors", weighting=weighting).extract(crops)
    weights = np.linalg.norm(found.global_[:, :DIM], axis=1)
    np.testing.assert_allclose(weights, [0.5, 0.1, 0.2, 0.3, 0.1, 0.5], atol=1e-5)


def test_fingerprints_tell_ways_apart(path: Path, table: Path) -> None:
    said = {
        way: open_extractor("trained", weights=path, weighting=weighting).fingerprint
        for way, weighting in {
            "none": None,
            "adaptive": Weighting(),
            "plain": weighting_of("plain"),
            "rule": weighting_of("rule"),
            "table": read_table(table),
        }.items()
    }
    assert said["none"] == said["adaptive"]
    assert len({one.pooling for one in said.values()}) == 4
    assert said["plain"].pooling == "average, weights: plain"
    assert said["table"].pooling == (
        "average, weights: table dark 0.25/0.5, black 0.1/0.9, blurred 0.3/1.0, none 0.6/0.5; "
        "dark < 0.3, black > 0.48, blurred < 1000.0"
    )
    lines = TABLE.splitlines()
    table.write_text("\n".join([lines[0], *reversed(lines[1:])]))
    assert read_table(table) == weighting_of(str(table))
    again = open_extractor("trained", weights=path, weighting=read_table(table))
    assert again.fingerprint == said["table"]


def test_recipes_keep_the_weighting(path: Path, table: Path) -> None:
    for weighting in (None, Weighting(), weighting_of("rule"), read_table(table)):
        known = recipe("trained", weights=path, preprocess=None, weighting=weighting)
        made = open_extractor("trained", weights=path, weighting=weighting)
        assert open_recipe(known).fingerprint == made.fingerprint
        assert ("weighting" in known) == (weighting is not None)
    for wrong in ("other", {"dark": [0.1, 0.2]}, {"dark": "x"}, 3):
        with pytest.raises(BadSource, match=r"^the gallery's recipe: "):
            weighting_from(wrong)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("black,0.1,0.9\n", ""), "no row says how much counts where a crop is 'black'; add one"),
        (("none,0.6,0.5\n", ""), "no row says how much counts where a crop is 'none'"),
        (("0.1,0.9", "0.5,0.5"), "black: w_g 0.5 is not below w_h 0.5"),
        (("0.1,0.9", "0.9,0.1"), "black: w_g 0.9 is not below w_h 0.1"),
        (("0.3,1\n", "0.3,1.5\n"), r"blurred: w_g 0.3 and w_h 1.5 are not 0 to 1"),
        (("0.1,0.9", "-0.1,0.9"), "black: w_g -0.1"),
        (("0.6,0.5", "0,0"), "none: w_g 0.0 and w_h 0.0 are not 0 to 1, or both are 0"),
        (("0.1,0.9", "nan,0.9"), "black: 'nan' is not a number"),
        (("0.1,0.9", "much,0.9"), "black: 'much' is not a number"),
        (("black", "wet"), "a row for 'wet', unknown or there twice"),
        (("black", "dark"), "a row for 'dark', unknown or there twice"),
        (("0.1,0.9", "0.1"), "the row of 'black' has not 3 values"),
        (("feature,", "name,"), "its first line is not feature,w_g,w_h"),
        ((TABLE, ""), "its first line is not"),
        (("black", "\0"), "a row for|cannot be read as a table"),
        (("black", '"black'), "cannot be read as a table"),
    ],
)
def test_tables_that_do_not_say_it_are_refused(
    table: Path, change: tuple[str, str], words: str
) -> None:
    assert change[0] in TABLE
    table.write_text(TABLE.replace(*change))
    with pytest.raises(BadSource, match=words) as raised:
        read_table(table)
    assert str(raised.value).startswith(f"{table}: ")
    assert "\n" not in str(raised.value)


def test_what_is_no_weighting_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no weighting 'most'; there are adaptive, plain"):
        weighting_of("most")
    with pytest.raises(BadSource, match=r"nowhere\.csv: cannot be read: No such file"):
        weighting_of(str(tmp_path / "nowhere.csv"))
    with pytest.raises(BadSource, match="no row says"):
        Weighting(way="rule", rows={"none": RULE["none"]})


# From the command line


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`crops` of 12 persons, split by `split.csv`, and what `reid train` made of them."""
    folder = tmp_path_factory.mktemp("line")
    write_people(folder / "crops", range(1, 13), crops=4)
    rows = ["file,split"]
    for one in sorted((folder / "crops").iterdir()):
        held_out = "query" if "_c1" in one.name else "gallery"
        rows.append(f"{one.name},{held_out if int(one.name[:4]) > 8 else 'train'}")
    (folder / "split.csv").write_text("\n".join(rows))
    (folder / "table.csv").write_text(TABLE)
    words = "--backbone resnet18_x0_125 --dim 16 --input-size 64x32 --batch 4x2 --rate 0.002"
    words += " --warmup 1 --epochs 2 --pad 2"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        split = ["--split", "split.csv", *words.split()]
        succeed("train", "crops", *split, "--system", "haa", "--out", "haa.safetensors")
        succeed("train", "crops", *split, "--epochs", "1", "--out", "bot.safetensors")
    return folder


def built(place: Path, out: Path, *words: str) -> Any:
    model = ["--extractor", "trained", "--weights", place / "haa.safetensors"]
    return run("build", place / "crops", "--out", out, *model, *words)


@pytest.mark.parametrize("said", [None, "plain", "rule", "table.csv"])
def test_a_gallery_keeps_its_weighting(
    place: Path, tmp_path: Path, monkeypatch, said: str | None
) -> None:
    monkeypatch.chdir(place)
    words = [] if said is None else ["--weighting", said]
    assert built(place, tmp_path / "g", *words).exit_code == 0
    monkeypatch.chdir(tmp_path)  # where no table is: the gallery has its numbers
    picture = sorted((place / "crops").iterdir())[5]
    best = json.loads(
        succeed("query", "g", picture, "--top", "1", "--format", "jsonl").stdout.splitlines()[0]
    )
    assert best["source"].endswith(picture.name)
    assert best["similarity"] == pytest.approx(1, abs=1e-5)
    for against in ("g", place / "crops"):
        figures = succeed(
            "evaluate", "g", against, "--split", place / "split.csv", "--format", "json"
        )
        assert 0 < json.loads(figures.stdout)["mAP"] <= 1


def test_the_model_is_as_good_as_its_card_says(place: Path, tmp_path: Path) -> None:
    assert built(place, tmp_path / "g").exit_code == 0
    words = ["--split", place / "split.csv", "--format", "json"]
    found = json.loads(succeed("evaluate", tmp_path / "g", tmp_path / "g", *words).stdout)
    figures = read_card(place / "haa.safetensors")["figures"]
    assert found["mAP"] == pytest.approx(figures["mAP"], abs=2e-3)


def test_galleries_of_two_weightings_are_not_compared(place: Path, tmp_path: Path) -> None:
    assert built(place, tmp_path / "g").exit_code == 0
    assert built(place, tmp_path / "h", "--weighting", "plain").exit_code == 0
    refused = run("evaluate", tmp_path / "g", tmp_path / "h", "--split", place / "split.csv")
    assert refused.exit_code == 1
    assert "weights: adaptive" in refused.stderr
    rebuilt = ["rebuild", tmp_path / "h", "--extractor", "trained"]
    succeed(*rebuilt, "--weights", place / "haa.safetensors", "--weighting", "adaptive")
    succeed("evaluate", tmp_path / "g", tmp_path / "h", "--split", place / "split.csv")


def test_evaluating_folders_takes_a_weighting(place: Path) -> None:
    crops, split = place / "crops", place / "split.csv"
    words = ["evaluate", crops, crops, "--split", split, "--format", "json"]
    words += ["--extractor", "trained", "--weights", place / "haa.safetensors"]
    found = [succeed(*words, "--weighting", way).stdout for way in ("adaptive", "plain")]
    assert all(0 < json.loads(one)["mAP"] <= 1 for one in found)


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        ("build crops --out g --weights bot.safetensors --weighting rule", 2, "is a model of bot"),
        ("build crops --out g --weighting plain", 2, "is a model of bot"),
        ("build crops --out g --weights haa.safetensors --weighting x", 2, "no weighting 'x'"),
        ("build crops --out g --weights haa.safetensors --weighting split.csv", 1, "first line"),
        ("build crops --out g --extractor stripes --weighting rule", 2, "no parts to weigh"),
        ("train crops --out n.safetensors --system haa --no-neck", 2, "haa has no neck"),
    ],
)
def test_bad_input_gets_one_line(place: Path, monkeypatch, words: str, code: int, text: str):
    monkeypatch.chdir(place)
    assert_refused(run(*words.split()), code=code, text=text)
