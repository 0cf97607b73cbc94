"""What a training is put together from: batches, augmentation, losses, schedules, crops."""

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional
from training_world import FED, HEIGHT, WIDTH, crop, write_people

from extractors.pictures import find_pictures
from extractors.systems import Plan, make_system, plan_from
from extractors.systems.system import Trained
from extractors.training.augment import Augment, prepare
from extractors.training.batches import Batches
from extractors.training.crops import decode, read_labelled
from extractors.training.losses import Losses, LossPlan
from extractors.training.schedule import Schedule
from reid_index.errors import BadWeights, NothingToIndex, UnreadableImage, UsageError

Rng = np.random.Generator


# Batches


@given(
    sizes=st.lists(st.integers(1, 9), min_size=4, max_size=20),
    persons=st.integers(2, 4),
    crops=st.integers(2, 5),
    seed=st.integers(0, 3),
)
@settings(max_examples=60, deadline=None)
def test_batches_have_p_persons_of_k_crops_each(sizes, persons, crops, seed) -> None:
    classes = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    batches = Batches(classes, persons=persons, crops=crops, seed=seed)
    found = batches.epoch(0)
    assert found
    for batch in found:
        counts = Counter(classes[batch].tolist())
        assert (len(batch), len(counts)) == (persons * crops, persons)
        assert set(counts.values()) == {crops}
    again = Batches(classes, persons=persons, crops=crops, seed=seed)
    assert [batch.tolist() for batch in again.epoch(0)] == [batch.tolist() for batch in found]
    # A crop comes again only to fill up the last group of its person.
    seen = Counter(np.concatenate(found).tolist())
    for person, size in enumerate(sizes):
        times = sum(seen[row] for row in np.flatnonzero(classes == person))
        assert times <= -(-size // crops) * crops


def test_all_crops_come_once_where_they_fit() -> None:
    classes = np.repeat(np.arange(6), 8)
    batches = Batches(classes, persons=3, crops=4, seed=0)
    epochs = [np.concatenate(batches.epoch(number)) for number in range(2)]
    whole = [epoch for epoch in epochs if len(epoch) == 48]
    assert whole
    assert sorted(whole[0].tolist()) == list(range(48))
    assert epochs[0].tolist() != epochs[1].tolist()


@pytest.mark.parametrize("seed", range(4))
def test_hardly_a_crop_is_left_out_where_persons_have_very_different_numbers(seed: int) -> None:
    sizes = np.random.default_rng(seed).lognormal(2.5, 1.0, 40).astype(int) + 2
    classes = np.repeat(np.arange(40), sizes)
    batches = Batches(classes, persons=8, crops=4, seed=seed).epoch(0)
    groups = int((-(-sizes // 4)).sum())
    # A person with more groups than there are batches cannot have them all.
    most = int(np.minimum(-(-sizes // 4), groups // 8).sum()) // 8
    assert len(batches) >= 0.9 * most


def test_too_few_persons_are_refused() -> None:
    with pytest.raises(UsageError, match="a batch of 4 persons cannot be had of 3"):
        Batches(np.array([0, 0, 1, 2]), persons=4, crops=2, seed=0)
    with pytest.raises(UsageError, match="two persons of two crops at least, not 2 × 1"):
        Batches(np.array([0, 0, 1, 2]), persons=2, crops=1, seed=0)


# Augmentation

PLAIN = Augment(flip=0, pad=0, erase=0)


def prepared(augment: Augment, *, seed: int = 0, person: int = 1) -> np.ndarray:
    picture = crop(person, seed=3)[None]
    return prepare(picture, augment, FED, np.random.default_rng(seed))[0]


def test_nothing_changes_where_nothing_is_asked_for() -> None:
    np.testing.assert_array_equal(prepared(PLAIN), FED.normalise(crop(1, seed=3)))


def test_a_mirrored_crop_is_the_crop_the_other_way_round() -> None:
    flipped = prepared(Augment(flip=1, pad=0, erase=0))
    np.testing.assert_array_equal(flipped[:, :, ::-1], prepared(PLAIN))


@pytest.mark.parametrize("seed", range(8))
def test_a_shifted_crop_is_part_of_the_crop_on_black(seed: int) -> None:
    whole = np.full((1, HEIGHT, WIDTH, 3), 255, np.uint8)
    whole[0, :, :, 0] = np.arange(HEIGHT)[:, None] + 60
    whole[0, :, :, 1] = np.arange(WIDTH)[None, :] + 60
    shifted = prepare(whole, Augment(flip=0, pad=7, erase=0), FED, np.random.default_rng(seed))[0]
    pixels = np.rint((shifted * 0.25 + 0.5) * 255).astype(int)
    inside = pixels[2] == 255
    assert inside.mean() >= (1 - 7 / HEIGHT) * (1 - 7 / WIDTH) - 1e-9
    assert (pixels[:, ~inside] == 0).all()
    rows, columns = np.nonzero(inside)
    assert len(set((pixels[0][inside] - rows).tolist())) == 1
    assert len(set((pixels[1][inside] - columns).tolist())) == 1


def test_erased_rectangles_have_the_published_size_and_the_mean_colour() -> None:
    shares = []
    for seed in range(200):
        erased = prepared(Augment(flip=0, pad=0, erase=1), seed=seed) == 0
        gone = erased.all(axis=0)
        rows, columns = np.nonzero(gone)
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert gone[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].mean() > 0.99
        shares.append(height * width / (HEIGHT * WIDTH))
        assert 0.2 < height / width < 5
    assert 0.015 < min(shares) < 0.06
    assert 0.3 < max(shares) < 0.43


@pytest.mark.parametrize("name", ["flip", "erase"])
def test_it_happens_as_often_as_is_said(name: str) -> None:
    augment = Augment(**{"flip": 0.0, "pad": 0, "erase": 0.0, name: 0.3})
    plain = prepared(PLAIN)
    changed = [not np.array_equal(prepared(augment, seed=seed), plain) for seed in range(400)]
    assert 0.22 < np.mean(changed) < 0.38


@pytest.mark.parametrize("options", [{"flip": 1.5}, {"erase": -0.1}, {"pad": -1}])
def test_chances_beyond_all_are_refused(options) -> None:
    with pytest.raises(UsageError, match="chances from 0 to 1"):
        Augment(**options)


# Losses


def outputs(count: int = 12, *, classes: int = 6, seed: int = 0) -> tuple[Trained, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    metric = torch.randn(count, 5, generator=generator)
    logits = torch.randn(count, classes, generator=generator)
    return Trained(metrics=(metric,), logits=(logits,)), torch.arange(count) // 3


def losses(**options) -> Losses:
    options = {"identity": 0.0, "metric": "none", **options}
    return Losses(LossPlan(**options), classes=6, dims=(5,))


def test_smoothed_identity_is_the_published_sum() -> None:
    out, classes = outputs()
    _, parts = losses(identity=2.0, smoothing=0.1)(out, classes)
    logs = functional.log_softmax(out.logits[0], dim=1)
    wanted = torch.full_like(logs, 0.1 / 6)
    wanted[torch.arange(12), classes] += 0.9
    torch.testing.assert_close(parts["identity"], -2 * (wanted * logs).sum(dim=1).mean())


def test_triplets_are_the_hardest_of_the_batch() -> None:
    out, classes = outputs()
    total, parts = losses(metric="triplet", margin=0.3)(out, classes)
    distance = torch.cdist(out.metrics[0], out.metrics[0])
    found = []
    for row in range(12):
        same = classes == classes[row]
        farthest = distance[row][same].max()
        nearest = distance[row][~same].min()
        found.append(max(0.0, float(farthest - nearest + 0.3)))
    assert float(parts["triplet"]) == pytest.approx(np.mean(found), rel=1e-5)
    assert float(total) == pytest.approx(float(parts["triplet"]))


def test_several_classifiers_and_vectors_count_as_their_mean() -> None:
    (one, classes), (other, _) = outputs(), outputs(seed=1)
    both = Trained(
        metrics=one.metrics + other.metrics,
        logits=one.logits + other.logits,
        also={"own": torch.tensor(0.25)},
    )
    plan = LossPlan(metric="triplet+circle", center=0.1)
    learning = Losses(plan, classes=6, dims=(5, 5))
    total, parts = learning(both, classes)
    assert parts.keys() == {"identity", "triplet", "circle", "center", "own"}
    torch.testing.assert_close(total, sum(parts.values()))
    for name in ("identity", "triplet", "circle"):
        alone = [
            losses(identity=1.0, metric="triplet+circle")(out, classes)[1] for out in (one, other)
        ]
        torch.testing.assert_close(parts[name], sum(some[name] for some in alone) / 2)
    apart = (torch.cat(both.metrics, dim=1) - learning.centers[classes]) ** 2
    torch.testing.assert_close(parts["center"], 0.1 * apart.sum(dim=1).mean())


def test_circle_loss_is_the_published_sum() -> None:
    """Equation 6 with the weights of equation 5 and the margins of equation 8, for each anchor."""
    out, classes = outputs()
    m, gamma = 0.25, 32.0
    _, parts = losses(metric="circle", relax=m, gamma=gamma)(out, classes)
    unit = functional.normalize(out.metrics[0])
    similarity = (unit @ unit.T).numpy()
    found = []
    for row in range(12):
        positives = [
            similarity[row, j] for j in range(12) if classes[j] == classes[row] and j != row
        ]
        negatives = [similarity[row, j] for j in range(12) if classes[j] != classes[row]]
        p = sum(math.exp(-gamma * max(0, 1 + m - s) * (s - (1 - m))) for s in positives)
        n = sum(math.exp(gamma * max(0, s + m) * (s - m)) for s in negatives)
        found.append(math.log(1 + n * p))
    assert float(parts["circle"]) == pytest.approx(np.mean(found), rel=1e-4)


def test_centers_pull_and_move() -> None:
    out, classes = outputs()
    both = losses(metric="none", center=0.5)
    total, parts = both(out, classes)
    apart = ((out.metrics[0] - both.centers.detach()[classes]) ** 2).sum(dim=1).mean()
    torch.testing.assert_close(parts["center"], 0.5 * apart)
    total.backward()
    assert both.centers.grad is not None
    # Persons 4 and 5 are absent from the batch.
    assert both.centers.grad.abs().sum(dim=1).bool().tolist() == [True] * 4 + [False] * 2


@pytest.mark.parametrize("metric", ["triplet", "circle"])
def test_persons_with_one_crop_each_have_nothing_to_compare(metric: str) -> None:
    out, _ = outputs(6)
    total, parts = losses(identity=1.0, metric=metric)(out, torch.arange(6))
    assert float(parts[metric]) == 0
    assert torch.isfinite(total)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"metric": "contrastive"}, "no loss 'contrastive'"),
        ({"identity": -1.0}, "from 0 up"),
        ({"smoothing": 1.0}, "below 1"),
        ({"identity": 0.0, "metric": "none"}, "nothing would be learnt"),
    ],
)
def test_losses_that_make_no_sense_are_refused(options, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        LossPlan(**options)


# Schedules


def test_the_rate_warms_up_and_goes_down_along_a_cosine() -> None:
    schedule = Schedule(warmup=5, first=0.1, last=0.01)
    factors = [schedule.factor(epoch, epochs=25) for epoch in (0, 2.5, 5, 15, 25)]
    assert factors == pytest.approx([0.1, 0.55, 1.0, (1 + 0.01) / 2, 0.01])


def test_the_rate_goes_down_by_steps() -> None:
    schedule = Schedule(kind="step", warmup=0, steps=(1 / 3, 7 / 12))
    factors = [schedule.factor(epoch, epochs=120) for epoch in (0, 39.9, 40, 69.9, 70, 119)]
    assert factors == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_a_warm_up_longer_than_the_training_is_no_error() -> None:
    schedule = Schedule(warmup=5)
    assert schedule.factor(3, epochs=3) < 1
    with pytest.raises(UsageError, match="no schedule 'linear'"):
        Schedule(kind="linear")


# Labelled crops


def test_persons_of_two_sources_are_different_ones(tmp_path: Path) -> None:
    one = write_people(tmp_path / "one", range(1, 4), crops=2)
    two = write_people(tmp_path / "two", range(2, 6), crops=2)
    labelled = read_labelled([find_pictures([one]), find_pictures([two])])
    assert (len(labelled), len(labelled.persons), labelled.lonely) == (14, 7, 0)
    assert labelled.persons == ["0001", "0002", "0003", "0002", "0003", "0004", "0005"]
    crops = decode(labelled, FED)
    assert crops.shape == (14, HEIGHT, WIDTH, 3)
    for number, (picture, _) in enumerate(labelled.people):
        np.testing.assert_array_equal(crops[number], np.asarray(Image.open(picture.path)))


def test_crops_of_other_sizes_are_resized_as_when_searching(tmp_path: Path) -> None:
    folder = write_people(tmp_path / "one", range(1, 3), crops=2)
    large = np.random.default_rng(0).integers(0, 256, (150, 70, 3), np.uint8)
    Image.fromarray(large).save(folder / "0001_c1s1_000000_01.png")
    crops = decode(read_labelled([find_pictures([folder])]), FED)
    np.testing.assert_allclose(FED.normalise(crops[0]), FED.apply(large), atol=1e-6)


def test_without_pairs_there_is_nothing_to_train_on(tmp_path: Path) -> None:
    one = write_people(tmp_path / "one", range(1, 2), crops=5)
    with pytest.raises(NothingToIndex, match="1 labelled persons are there to train on, and two"):
        read_labelled([find_pictures([one])])
    lonely = write_people(tmp_path / "lonely", range(1, 9), crops=1)
    with pytest.raises(NothingToIndex, match="each of the 8 persons has one crop only"):
        read_labelled([find_pictures([lonely])])


def test_a_broken_picture_stops_the_training(tmp_path: Path) -> None:
    folder = write_people(tmp_path / "one", range(1, 3), crops=2)
    (folder / "0001_c1s1_000000_01.png").write_bytes(b"no picture")
    with pytest.raises(
        UnreadableImage, match=r"0001_c1s1_000000_01\.png: not a picture.*on a part"
    ):
        decode(read_labelled([find_pictures([folder])]), FED)


# Systems


def test_a_system_is_made_again_from_its_plan() -> None:
    plan = Plan(system="plain", backbone="osnet_x0_25", pooling="gem", dim=7)
    assert plan_from(plan.to_json(), where="here") == plan
    wrongs = [{"system": "vit"}, {"dim": -1}, {"dim": 1.5}, {"dim": 65536}, {"width": 3}]
    for wrong in (*wrongs, {"neck": False}, {"neck": "no"}, {"backbone": 5}, {"backbone": []}):
        with pytest.raises(BadWeights, match="here: its card describes no system"):
            plan_from({**plan.to_json(), **wrong}, where="here")


def test_classes_are_told_behind_the_neck_and_distances_before_it() -> None:
    """Figure 4 of the paper: f to the triplets, f' to the classes and, when searching, to both."""
    torch.manual_seed(0)
    system = make_system(Plan(backbone="resnet18_x0_125", dim=6), classes=3)
    x = torch.randn(4, 3, 64, 32)
    with torch.inference_mode():
        out = system.train()(x)
        behind = functional.batch_norm(out.metrics[0], None, None, training=True)
        expected = behind @ system.classifier.weight.T
        torch.testing.assert_close(out.logits[0], expected, rtol=1e-3, atol=1e-5)
        system.eval()
        torch.testing.assert_close(system.embed(x), system.bottleneck(system(x).metrics[0]))
    assert not system.bottleneck.bias.requires_grad
    bare = make_system(Plan(backbone="resnet18_x0_125", neck=False), classes=3).eval()
    assert bare.dim == 64
    with torch.inference_mode():
        torch.testing.assert_close(bare.embed(x), bare(x).metrics[0])
