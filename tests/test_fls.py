"""Source 002's network: regions that are found, attributes told from them, and what is learnt."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli_world import run, succeed
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from training_world import FED, HEIGHT, WIDTH, crop, people, small, write_people

from extractors.predictors import predictor_of
from extractors.systems import Plan, make_system, plan_from
from extractors.systems.fls import FLS, places_of
from extractors.systems.system import System, Trained, make_backbone
from extractors.told import told_columns
from extractors.trained import DEFAULT, Model, TrainedExtractor, write_model
from extractors.training import train as train_module
from extractors.training.augment import Augment, prepare, prepare_both
from extractors.training.crops import read_labelled
from extractors.training.looks import Looks, read_words, shares_of, words_of
from extractors.training.losses import Losses, LossPlan
from extractors.training.parsing import read_parsed
from extractors.training.regions import band_maps, cluster_maps, clusters, joined, smooth
from extractors.training.train import Epoch, train
from reid_index import Gallery
from reid_index.errors import BadSource, BadWeights, UsageError
from reid_index.matcher import Matcher

CPU = torch.device("cpu")
WORDS = (
    ("hat", ("no", "yes")),
    ("lower_color", ("black", "blue", "red")),
    ("mood", ("bad", "good")),
)
PLAN = Plan(
    system="fls",
    backbone="resnet18_x0_125",
    dim=8,
    regions=3,
    words=WORDS,
    told_from="weighted",
)
BARE = Plan(system="fls", backbone="resnet18_x0_125", dim=8, regions=3)


def system(plan: Plan = PLAN, *, classes: int = 4) -> FLS:
    torch.manual_seed(3)
    made = make_system(plan, classes=classes)
    assert isinstance(made, FLS)
    return made


def inputs(count: int = 4) -> torch.Tensor:
    made = [FED.apply(crop(person, seed=1)) for person in range(count)]
    return torch.from_numpy(np.stack(made))


# The network


@pytest.mark.parametrize(
    "name",
    [
        "resnet18_x0_125",
        "resnet50_ibn_x0_125",
        "convnext_atto_x0_25",
        "osnet_x0_25",
        "osnet_ain_x0_25",
        "osnet_ibn_x1_0",
    ],
)
def test_the_last_of_a_backbones_scales_is_its_map_and_the_first_a_quarter(name: str) -> None:
    backbone = make_backbone(name).eval()
    x = torch.randn(2, 3, 64, 32, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        maps = backbone.scales(x)
        assert torch.equal(maps[-1], backbone(x))
    assert maps[0].shape[2:] == (16, 8)
    assert tuple(one.shape[1] for one in maps) == backbone.scale_channels


def test_it_yields_a_whole_parts_what_is_visible_and_words() -> None:
    made = system().eval()
    with torch.inference_mode():
        whole, parts, visible, words = made.embed_parts(inputs())
        assert torch.equal(whole, made.embed(inputs()))
        pixels = made.pixels(made.map(inputs()))
    assert (whole.shape, parts.shape, visible.shape) == ((4, 8), (4, 5, 8), (4, 5))
    torch.testing.assert_close(parts.norm(dim=2), torch.ones(4, 5))
    assert visible.dtype == torch.uint8
    # Foreground and global with attributes always are; a region, where a pixel is likeliest it.
    assert visible[:, :2].all()
    likeliest = pixels.argmax(dim=1).flatten(1)
    seen = [[number in one for number in (1, 2, 3)] for one in likeliest.tolist()]
    assert visible[:, 2:].bool().tolist() == seen
    sums = [one.sum(dim=1) for one in words.split([2, 3, 2], dim=1)]
    torch.testing.assert_close(torch.stack(sums), torch.ones(3, 4))
    assert made.matcher == Matcher(name="visibility", distance="cosine")


def test_parts_are_means_of_the_map_weighted_by_what_pixels_are() -> None:
    made = system(BARE).eval()
    with torch.inference_mode():
        seen = made.map(inputs())
        shares = made.pixels(seen).softmax(dim=1)
        vectors = made._found(inputs()).vectors
    for vector, weights in (
        (vectors[0], torch.ones_like(shares[:, 0])),
        (vectors[1], 1 - shares[:, 0]),
        (vectors[2][:, 8:16], shares[:, 2]),
    ):
        expected = (seen * weights[:, None]).sum(dim=(2, 3)) / weights.sum(dim=(1, 2))[:, None]
        torch.testing.assert_close(vector, expected, rtol=1e-4, atol=1e-5)


def test_without_attributes_there_is_one_vector_less() -> None:
    whole, parts, visible = system(BARE).eval().embed_parts(inputs())
    assert (whole.shape, parts.shape, visible.shape) == ((4, 8), (4, 4, 8), (4, 4))


def test_regions_learn_from_labels_of_pixels_alone() -> None:
    made = system()
    out = made(inputs())
    out.logits[-1].sum().backward(retain_graph=True)
    assert made.pixels.score.weight.grad is None
    assert out.regions is not None
    out.regions.sum().backward()
    assert made.pixels.score.weight.grad is not None


def test_attributes_learn_from_their_labels_not_from_who_it_is() -> None:
    made = system()
    assert made.looks is not None
    out = made(inputs())
    out.logits[2].sum().backward(retain_graph=True)
    assert made.looks.join.weight.grad is not None
    assert all(one.grad is None for one in made.looks.tell.parameters())
    out.words[-1].sum().backward()
    assert all(one.grad is not None for one in made.looks.tell.parameters())


@pytest.mark.parametrize(
    ("name", "belongings", "expected"),
    [
        ("hat", False, [1, 0, 0, 0, 0, 0]),
        ("upper_color", False, [0, 1, 1, 1, 0, 0]),
        ("lower_color", False, [0, 0, 0, 1, 1, 1]),
        ("gender", False, [1, 1, 1, 1, 1, 1]),
        ("gender", True, [1, 1, 1, 1, 1, 0]),
        ("backpack", True, [0, 0, 0, 0, 0, 1]),
    ],
)
def test_attributes_belong_to_regions(name: str, belongings: bool, expected: list[int]) -> None:
    assert places_of(name, 6, belongings=belongings) == expected


@given(st.integers(1, 32), st.booleans(), st.sampled_from(["hat", "shoes", "bag", "mood"]))
def test_every_attribute_has_a_region(regions: int, belongings: bool, name: str) -> None:
    if belongings and regions == 1:
        return
    places = places_of(name, regions, belongings=belongings)
    assert len(places) == regions
    assert sum(places) >= 1


def test_attributes_are_told_from_their_regions_or_from_the_whole() -> None:
    of_regions, of_whole = system(), system(Plan(**{**vars(PLAN), "told_from": "global"}))
    for made, moves in ((of_regions, False), (of_whole, True)):
        assert made.looks is not None
        made.eval()
        sums, areas = torch.rand(1, 3, 8), torch.ones(1, 3, 1)
        other = sums.clone()
        other[:, 1:] = 9  # not where a hat is
        whole = torch.rand(1, 8)
        before = made.looks(whole, sums, areas)[0][:, :2]
        torch.testing.assert_close(made.looks(whole, other, areas)[0][:, :2], before)
        assert torch.equal(made.looks(whole + 1, sums, areas)[0][:, :2], before) != moves


def test_what_goes_together_raises_confidences() -> None:
    """A weighing that has learnt nothing changes nothing; one that has, does, and what it gives are
    probabilities."""
    made = system().eval()
    assert made.looks is not None
    assert made.looks.weigh is not None
    sums, areas, whole = torch.rand(2, 3, 8), torch.ones(2, 3, 1), torch.rand(2, 8)
    first, weighed = made.looks(whole, sums, areas)
    torch.testing.assert_close(first, weighed)
    with torch.no_grad():
        made.looks.weigh.weight[1, 3] = 4  # who wears blue has a hat
        made.looks.weigh.bias[1] = 1
    first, weighed = made.looks(whole, sums, areas)
    assert (weighed[:, 1] > first[:, 1]).all()
    torch.testing.assert_close(weighed[:, :2].exp().sum(dim=1), torch.ones(2))
    torch.testing.assert_close(weighed[:, 2:], first[:, 2:])


# Plans and cards


def test_a_plan_comes_back_from_its_card() -> None:
    assert plan_from(json.loads(json.dumps(PLAN.to_json())), where="m") == PLAN
    assert "words" not in Plan().to_json()


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"system": "bot"}, "has no regions and attributes"),
        ({"regions": 33}, "1 to 32 regions"),
        ({"regions": 1, "belongings": True}, "two with belongings"),
        ({"told_from": "torso"}, "told from global, regions, weighted"),
        ({"words": ()}, "without attributes nothing is told"),
        ({"words": (("hat", ("yes",)),)}, "two words"),
        ({"words": (("hat", ("yes", "yes")),)}, "two words"),
        ({"words": (("Hat", ("yes", "no")),)}, "cannot be called"),
        ({"words": (WORDS[0], WORDS[0])}, "twice"),
        ({"stripes": 3}, "no stripes"),
    ],
)
def test_plans_that_make_no_sense_are_refused(changes: dict[str, object], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        Plan(**{**vars(PLAN), **changes})


@pytest.mark.parametrize(
    "words", [5, [["hat"]], [["hat", 5]], [["hat", ["no", "yes"], 1]], {"a": 1}]
)
def test_a_card_with_other_words_is_refused(words: object) -> None:
    with pytest.raises(BadWeights, match="describes no system"):
        plan_from({**PLAN.to_json(), "words": words}, where="m")


# What is known


def test_words_are_those_that_are_told_apart() -> None:
    known = [{"hat": "yes", "color": ["red", "blue"], "age": "old"}, {"hat": "no", "color": None}]
    assert words_of([*known, {}]) == (("color", ("blue", "red")), ("hat", ("no", "yes")))


def test_several_words_share_what_is_known() -> None:
    known = [{"hat": "yes", "color": ["blue", "red"]}, {"hat": None, "color": ["red"]}, {}]
    words = (("color", ("blue", "red")), ("hat", ("no", "yes")))
    assert shares_of(known, words).tolist() == [[0.5, 0.5, 0, 1], [0, 1, 0, 0], [0, 0, 0, 0]]


def test_labels_are_of_the_persons_that_are_trained_on(tmp_path: Path) -> None:
    write_people(tmp_path / "p", range(1, 4), crops=2)
    labels = tmp_path / "l.csv"
    labels.write_text("person,hat,upper_color\n0001,yes,red|blue\n0003,no,\n0009,yes,green\n")
    labelled = read_labelled([_source(tmp_path / "p")])
    words, shares, notes = read_words(labels, labelled)
    assert words == (("hat", ("no", "yes")), ("upper_color", ("blue", "red")))
    assert shares.tolist() == [[0, 1, 0.5, 0.5], [0, 0, 0, 0], [1, 0, 0, 0]]
    assert any("1 of 3 persons have no row" in note for note in notes)
    labels.write_text("person,hat\n0009,yes\n")
    with pytest.raises(UsageError, match="tells no attribute that differs"):
        read_words(labels, labelled)


def _source(folder: Path):  # type: ignore[no-untyped-def]
    from cli.sources import find_source

    return find_source([folder], layout="auto", boxes=None, keep_junk=False)


@pytest.mark.parametrize(
    ("plan", "looks", "text"),
    [
        (Plan(), Looks(words=np.ones((4, 7), np.float32)), "tells no regions and attributes"),
        (PLAN, Looks(), "who has what"),
        (BARE, Looks(words=np.ones((4, 7), np.float32)), "who has what"),
        (PLAN, Looks(words=np.ones((4, 6), np.float32)), "7 words of 4 persons"),
        (BARE, Looks(parsed=np.ones((8, 4, 4), np.uint8)), "belongings"),
        (
            Plan(**{**vars(BARE), "belongings": True}),
            Looks(parsed=np.full((8, 4, 4), 3, np.uint8)),
            "3 parts, and 2 are told",
        ),
        (
            Plan(**{**vars(BARE), "belongings": True}),
            Looks(parsed=np.ones((7, 4, 4), np.uint8)),
            "8 maps are needed",
        ),
    ],
)
def test_what_does_not_fit_the_plan_is_refused(plan: Plan, looks: Looks, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        looks.check(plan, crops=8, persons=4)


def test_a_parsers_map_is_read_in_the_middle_of_each_cell() -> None:
    parsed = np.arange(16, dtype=np.uint8).reshape(1, 4, 4)
    assert np.array_equal(Looks(parsed=parsed).parsed_at(2, 2), [[[5, 7], [13, 15]]])
    assert np.array_equal(Looks(parsed=parsed).parsed_at(4, 1), [[[2], [6], [10], [14]]])


# Regions


def figure(seed: int) -> NDArray[np.float32]:
    """A map of 24 × 12 of 4 channels: nothing much, and a figure of three colours, top to bottom,
    that stands somewhere else in every picture."""
    rng = np.random.default_rng(seed)
    seen = rng.uniform(0, 0.1, (4, 24, 12)).astype(np.float32)
    left, top = int(rng.integers(1, 5)), int(rng.integers(0, 6))
    for part in range(3):
        rows = slice(top + 6 * part, top + 6 * part + 6)
        seen[1 + part, rows, left : left + 6] = 1
    return seen


def test_clusters_are_the_parts_of_a_figure_from_the_top() -> None:
    seen = np.stack([figure(seed) for seed in range(6)])
    expected = np.where(seen[:, 1:].max(axis=1) > 0.5, 1 + seen[:, 1:].argmax(axis=1), 0)
    assert np.array_equal(clusters(torch.from_numpy(seen), regions=3), expected)


def test_regions_that_do_not_differ_are_fewer() -> None:
    seen = torch.zeros(1, 2, 8, 4)
    assert not clusters(seen, regions=3).any()
    seen[:, :, :1] = 1  # one row only
    found = clusters(seen, regions=3)
    assert set(found[0, 0]) <= {1, 2, 3}
    assert not found[:, 1:].any()


def test_what_a_parser_misses_is_what_people_carry() -> None:
    parsed = np.array([[[0, 1], [2, 0]]], np.uint8)
    there = np.array([[[True, True], [False, False]]])
    assert joined(there, parsed, belongings=3).tolist() == [[[3, 1], [2, 0]]]


def test_pixels_by_themselves_are_smoothed_away() -> None:
    maps = np.zeros((1, 5, 5), np.uint8)
    maps[0, 2, 2] = 1
    assert not smooth(maps, labels=2).any()
    maps[0, :, :2] = 1
    expected = maps.copy()
    expected[0, 2, 2] = 0
    # Of a straight border nothing is lost.
    assert np.array_equal(smooth(maps, labels=2), expected)


def test_bands_go_from_the_top_over_the_whole_crop() -> None:
    assert band_maps(1, height=6, width=2, regions=3)[0].tolist() == [
        *[[1, 1]] * 2,
        *[[2, 2]] * 2,
        *[[3, 3]] * 2,
    ]


def test_maps_do_not_depend_on_who_is_looked_at_together(monkeypatch: pytest.MonkeyPatch) -> None:
    crops, classes = people(5, crops=3)
    shuffled = np.random.default_rng(0).permutation(len(crops))
    made = system(BARE)
    every = cluster_maps(made, crops, classes, preprocess=FED, device=CPU)
    assert every.shape == (15, HEIGHT // 4, WIDTH // 4)
    assert made.training
    monkeypatch.setattr("extractors.training.regions._BATCH", 4)
    some = cluster_maps(made, crops[shuffled], classes[shuffled], preprocess=FED, device=CPU)
    assert (some == every[shuffled]).mean() > 0.99


# Crops and maps changed alike


@given(st.integers(0, 2**32))
def test_maps_are_changed_as_their_crops(seed: int) -> None:
    """A crop that shows its map stays one that does."""
    rng = np.random.default_rng(seed)
    maps = rng.integers(1, 4, (3, 16, 8), np.uint8)
    large = maps.repeat(4, axis=1).repeat(4, axis=2)
    crops = np.repeat(60 * large[..., None], 3, axis=3)
    # By whole cells, so that their middles say it all.
    augment = Augment(flip=0.5, pad=0, erase=0.7)
    images, changed = prepare_both(crops, maps, augment, FED, np.random.default_rng(seed))
    plain = prepare(crops, augment, FED, np.random.default_rng(seed))
    assert np.array_equal(images, plain)
    shown = images[:, 0, 2::4, 2::4]
    erased = shown == 0
    assert np.array_equal(changed == 0, erased)
    assert np.allclose(shown[~erased], (60 * changed[~erased] / 255 - 0.5) / 0.25, atol=1e-5)


def test_what_comes_in_from_beside_is_nothing_of_the_person() -> None:
    maps = np.full((20, 16, 8), 2, np.uint8)
    crops = np.full((20, HEIGHT, WIDTH, 3), 200, np.uint8)
    augment = Augment(flip=0, pad=8, erase=0)
    images, changed = prepare_both(crops, maps, augment, FED, np.random.default_rng(1))
    assert np.array_equal(changed == 2, images[:, 0, 2::4, 2::4] > 0)
    assert (changed == 0).any()
    assert (maps == 2).all()


# Losses


def test_pixels_and_attributes_are_the_published_sums() -> None:
    words = np.array([[0, 1, 0.5, 0.5], [0, 0, 1, 0]], np.float32)
    plan = LossPlan(metric="none", regions=0.5, attributes=2.0)
    losses = Losses(plan, classes=2, dims=(), words=words)
    logs = torch.tensor([[0.3, 0.7, 0.6, 0.4], [0.5, 0.5, 0.9, 0.1]]).log()
    scores = torch.randn(2, 3, 2, 2)
    maps = torch.tensor([[[0, 1], [2, 2]], [[1, 1], [0, 2]]], dtype=torch.uint8)
    out = Trained(logits=(torch.zeros(2, 2),), regions=scores, words=(logs, logs))
    _, parts = losses(out, torch.tensor([0, 1]), maps)
    first = -np.log(0.7) - (np.log(0.6) + np.log(0.4)) / 2
    assert float(parts["attributes"]) == pytest.approx(2 * (first - np.log(0.9)) / 2, rel=1e-5)
    shares = scores.softmax(dim=1)
    places = [(n, y, x) for n in range(2) for y in range(2) for x in range(2)]
    of_pixels = [-shares[n, int(maps[n, y, x]), y, x].log() for n, y, x in places]
    assert float(parts["regions"]) == pytest.approx(0.5 * float(sum(of_pixels)) / 8, rel=1e-5)


# Training


def known(count: int) -> Looks:
    said = [
        {
            "hat": ("no", "yes")[person % 2],
            "lower_color": [("black", "blue", "red")[person % 3]],
            "mood": None if person == 0 else ("bad", "good")[person // 2 % 2],
        }
        for person in range(count)
    ]
    assert words_of(said) == WORDS
    return Looks(words=shares_of(said, WORDS))


class Stopped(Exception):
    pass


def told(epoch: Epoch, _system: System) -> dict[str, float]:
    return epoch.losses


def stop_at(number: int) -> Callable[[Epoch, System], dict[str, float]]:
    def stop(epoch: Epoch, _system: System) -> dict[str, float]:
        if epoch.number == number:
            raise Stopped
        return epoch.losses

    return stop


def test_a_training_learns_regions_and_attributes_and_goes_on_where_it_stopped(
    tmp_path: Path,
) -> None:
    crops, classes = people(6, crops=4)
    training = small(plan=PLAN, epochs=6)
    looks, state = known(6), tmp_path / "state"
    whole = train(training, crops, classes, state=None, device=CPU, looks=looks, after=told)
    assert {"identity", "triplet", "regions", "attributes"} <= whole.told[0].keys()
    for name in ("identity", "attributes"):
        assert whole.told[-1][name] < whole.told[0][name]
    with pytest.raises(Stopped):
        train(training, crops, classes, state=state, device=CPU, looks=looks, after=stop_at(4))
    again = train(training, crops, classes, state=state, device=CPU, looks=looks, after=told)
    ours, theirs = again.system.state_dict(), whole.system.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("is_parsed", [False, True])
def test_regions_are_bands_or_the_parsers_at_first_and_then_looked_for(
    is_parsed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    crops, classes = people(5, crops=4)
    parsed = np.full((20, HEIGHT, WIDTH), 1, np.uint8) if is_parsed else None
    looks, seen, asked = Looks(parsed=parsed), [], []

    def look(*arguments: Any, **options: Any) -> NDArray[np.uint8]:
        asked.append(options["parsed"])
        return cluster_maps(*arguments, **options)

    def learn(crops: Any, maps: NDArray[np.uint8], *rest: Any) -> Any:
        seen.append(set(np.unique(maps)))
        return prepare_both(crops, maps, *rest)

    monkeypatch.setattr(train_module, "cluster_maps", look)
    monkeypatch.setattr(train_module, "prepare_both", learn)
    training = small(plan=replace(BARE, belongings=is_parsed), epochs=6)
    train(training, crops, classes, state=None, device=CPU, looks=looks)
    # Two of six epochs are the first fifth, begun.
    assert len(asked) == 4
    assert all((one is None) != is_parsed for one in asked)
    assert seen[0] == ({1} if is_parsed else {1, 2, 3})


def test_with_other_attributes_a_training_does_not_go_on(tmp_path: Path) -> None:
    crops, classes = people(6, crops=4)
    training, looks, state = small(plan=PLAN), known(6), tmp_path / "state"
    with pytest.raises(Stopped):
        train(training, crops, classes, state=state, device=CPU, looks=looks, after=stop_at(2))
    assert looks.words is not None
    other = Looks(words=1 - looks.words)
    with pytest.raises(UsageError, match="another words_sha256"):
        train(training, crops, classes, state=state, device=CPU, looks=other)


def test_crops_that_do_not_divide_into_cells_are_refused() -> None:
    with pytest.raises(UsageError, match="4 × 4 pixels"):
        small(plan=PLAN, preprocess=replace(FED, height=66))


# A parser's maps


def write_maps(folder: Path, crops: Path, *, numbers: tuple[int, int] = (7, 3)) -> Path:
    """Head and body of every crop: the middle of its upper and of its lower half."""
    folder.mkdir()
    for path in crops.iterdir():
        parsed = np.zeros((HEIGHT, WIDTH), np.uint8)
        parsed[: HEIGHT // 2, 8:24], parsed[HEIGHT // 2 :, 8:24] = numbers
        Image.fromarray(parsed).save(folder / f"{path.stem}.png")
    return folder


def test_a_parsers_parts_are_numbered_from_the_top(tmp_path: Path) -> None:
    crops = write_people(tmp_path / "p", range(1, 3), crops=2)
    maps = write_maps(tmp_path / "maps", crops)
    found = read_parsed(maps, read_labelled([_source(crops)]), height=4, width=4)
    assert (found == [[0, 1, 1, 0]] * 2 + [[0, 2, 2, 0]] * 2).all()


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (lambda path: path.unlink(), "there is no map"),
        (lambda path: path.write_bytes(b"none"), "cannot be read as a map"),
        (lambda path: Image.new("L", (9, 9)).save(path), "9×9 for a picture of 32×64"),
        (lambda path: Image.new("RGB", (WIDTH, HEIGHT)).save(path), "this is RGB"),
    ],
)
def test_maps_that_are_none_are_refused(tmp_path: Path, spoil, text: str) -> None:
    crops = write_people(tmp_path / "p", range(1, 3), crops=2)
    maps = write_maps(tmp_path / "maps", crops)
    spoil(sorted(maps.iterdir())[1])
    with pytest.raises(BadSource, match=text):
        read_parsed(maps, read_labelled([_source(crops)]), height=4, width=4)


# Searching


def test_columns_say_the_likeliest_word_and_how_sure_it_is() -> None:
    shares = np.array([[0.25, 0.75, 0.5, 0.2, 0.3, 0.5, 0.5]], np.float32)
    assert told_columns(shares, WORDS, origin="model m") == {
        "attr.hat": ["yes"],
        "attr.hat.confidence": [0.75],
        "attr.hat.origin": ["model m"],
        "attr.lower_color": [["black"]],
        "attr.lower_color.confidence": [0.5],
        "attr.lower_color.origin": ["model m"],
        "attr.mood": ["bad"],
        "attr.mood.confidence": [0.5],
        "attr.mood.origin": ["model m"],
    }


def test_an_extractor_says_what_the_system_does(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    made = system().eval()
    write_model(path, Model(made, PLAN, FED, {}))
    extractor = TrainedExtractor(path)
    with torch.inference_mode():
        whole, parts, visible, words = made.embed_parts(inputs(2))
    found = extractor.extract([crop(person, seed=1) for person in range(2)])
    np.testing.assert_allclose(found.global_, whole, atol=1e-6)
    assert found.parts is not None
    assert found.visible is not None
    np.testing.assert_allclose(found.parts, parts, atol=1e-6)
    assert np.array_equal(found.visible, visible)
    assert found.attributes is not None
    likeliest = words[:, :2].argmax(dim=1).tolist()
    assert found.attributes["attr.hat"] == [("no", "yes")[place] for place in likeliest]
    weights = extractor.fingerprint.weights_sha256
    assert weights is not None
    assert found.attributes["attr.hat.origin"] == [f"model trained 1 {weights[:12]}"] * 2


# The command line


@pytest.fixture
def crops(tmp_path: Path) -> Path:
    write_people(tmp_path / "known", range(1, 7), crops=4)
    write_people(tmp_path / "held", range(11, 15), crops=4)
    lines = ["person,hat,upper_color", *(f"{n:04d},{'yes' if n % 2 else 'no'}," for n in range(5))]
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


TRAINED = "--system fls --backbone resnet18_x0_125 --input-size 64x32 --dim 8 --regions 3"
BUDGET = f"{TRAINED} --batch 4x2 --epochs 2 --pad 2 --warmup 0 --rate 0.002".split()


def test_on_the_command_line_it_learns_attributes_and_galleries_have_them(crops: Path) -> None:
    model, gallery = crops / "m.safetensors", crops / "g"
    told = succeed(
        "train", crops / "known", "--out", model, "--attributes", crops / "labels.csv", *BUDGET
    )
    assert "1 attribute: hat" in told.stderr
    succeed("build", crops / "held", "--out", gallery, "--weights", model)
    target = sorted((crops / "held").iterdir())[0]
    lines = succeed("query", gallery, target, "--format", "jsonl", "--top", "3").stdout
    first = json.loads(lines.splitlines()[0])
    assert first["source"] == target.name
    assert first["matched_distance"] == pytest.approx(0, abs=1e-5)
    assert first["attr.hat"] in ("yes", "no")
    assert 0.5 <= first["attr.hat.confidence"] <= 1


def test_its_attributes_go_beside_the_vectors_of_others(crops: Path) -> None:
    model, gallery = crops / "m.safetensors", crops / "g"
    made = system().eval()
    write_model(model, Model(made, PLAN, FED, {}))
    options = ("--extractor", "stripes", "--attributes", model)
    succeed("build", crops / "held", "--out", gallery, *options)
    items = Gallery.open(gallery).items
    own = TrainedExtractor(model).extract([crop(11, seed=0)]).attributes
    assert own is not None
    assert items["attr.hat"].to_pylist()[0] == own["attr.hat"][0]
    origins = set(items["attr.hat.origin"].to_pylist())
    assert origins == set(own["attr.hat.origin"])
    with pytest.raises(BadWeights, match="predicts no attributes"):
        predictor_of(DEFAULT)


def test_with_a_parsers_maps_belongings_are_a_region(crops: Path) -> None:
    model = crops / "m.safetensors"
    maps = write_maps(crops / "maps", crops / "known")
    words = [one for one in BUDGET if one not in ("--regions", "3")]
    succeed("train", crops / "known", "--out", model, "--parsing", maps, *words)
    extractor = TrainedExtractor(model)
    found = extractor.extract([crop(1, seed=1)])
    assert found.parts is not None
    assert found.parts.shape == (1, 1 + 3, 8)


@pytest.mark.parametrize("option", ["--attributes", "--parsing"])
def test_what_another_system_has_no_use_for_is_refused(crops: Path, option: str) -> None:
    words = ["bot" if one == "fls" else one for one in BUDGET if one not in ("--regions", "3")]
    result = run(
        "train",
        crops / "known",
        "--out",
        crops / "m.safetensors",
        option,
        crops / "labels.csv",
        *words,
    )
    assert result.exit_code == 2
    assert "bot has no use" in result.stderr.splitlines()[-1]
