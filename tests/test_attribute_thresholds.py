"""Thresholds chosen from labelled people, on made-up ones."""

import numpy as np
import pyarrow as pa
import pytest
from judged_world import labels_of, people, predicted

from reid_index.errors import UsageError
from reid_index.evaluation.attribute_thresholds import (
    GRID,
    _different,
    _lowered,
    _matches,
    _Pairs,
    _Values,
    choose_thresholds,
)
from reid_index.evaluation.filter_quality import Coded, code, filter_quality
from reid_index.evaluation.protocol import NOBODY, Labels

ERRORS = {"hat": 0.05, "gender": 0.01, "sleeve": 0.05, "upper_color": 0.02}
NAMES = tuple(ERRORS)


def world(seed: int, *, persons: int = 150) -> tuple[Coded, Labels]:
    rng = np.random.default_rng(seed)
    items = predicted(rng, people(rng, persons=persons, crops=4), errors=ERRORS)
    return code(items, items, NAMES)[0], labels_of(items)


def quality(items: Coded, labels: Labels, thresholds: dict[str, float | None]):
    named = np.flatnonzero(labels.person != NOBODY)
    asked = Labels(labels.person[named], labels.camera[named], labels.item[named])
    return filter_quality(items.take(named), items, asked, labels, thresholds, same_item=True)


def test_what_was_asked_for_is_kept_of_other_people_too() -> None:
    elsewhere = []
    for seed in range(3):
        chosen = choose_thresholds(*world(seed), keep=0.95)
        assert chosen.quality == quality(*world(seed), chosen.thresholds)
        assert chosen.kept_elsewhere - 1.645 * chosen.standard_error >= 0.95
        assert chosen.quality.kept_share > 0.95
        elsewhere.append(quality(*world(100 + seed), chosen.thresholds).kept_share)
    assert np.mean(elsewhere) > 0.95
    assert min(elsewhere) > 0.94


def test_more_is_dropped_than_by_any_flat_threshold_that_keeps_as_much() -> None:
    items, labels = world(1)
    chosen = choose_thresholds(items, labels, keep=0.95)
    flat = [quality(items, labels, dict.fromkeys(NAMES, float(one))) for one in GRID]
    as_good = [one.dropped for one in flat if one.kept_share >= chosen.quality.kept_share]

    assert chosen.quality.dropped > 1.2 * max(as_good)


def test_an_attribute_that_tells_nothing_is_not_used() -> None:
    """A hat that is there and gone at random costs true matches and brings no more than others."""
    rng = np.random.default_rng(3)
    items = people(rng, persons=150, crops=4)
    hats = [str(rng.choice(["yes", "no"])) for _ in range(items.num_rows)]
    at = items.column_names.index("attr.hat")
    items = items.set_column(at, "attr.hat", pa.array(hats))
    coded, _ = code(items, items, ("hat", "gender"))

    chosen = choose_thresholds(coded, labels_of(items), keep=0.98)

    assert chosen.thresholds == {"hat": None, "gender": {"female": 0.0, "male": 0.0}}
    assert chosen.quality.missed == 0
    assert (chosen.kept_elsewhere, chosen.standard_error) == (1, 0)


def test_chosen_again_they_are_the_same() -> None:
    once, again = (choose_thresholds(*world(4), keep=0.9) for _ in range(2))

    assert once == again


def suspicious(seed: int) -> tuple[Coded, Labels]:
    """People whose model is wrong about half of the hats that it sees, and about no others."""
    rng = np.random.default_rng(seed)
    items = people(rng, persons=150, crops=4)
    hats, count = items["attr.hat"].to_pylist(), items.num_rows
    wrong = (rng.random(count) < 0.15) & (np.array(hats) == "no")
    hats = ["yes" if bad else hat for hat, bad in zip(hats, wrong, strict=True)]
    sure = np.where(wrong, 0.5 + 0.3 * rng.random(count), 0.5 + 0.5 * rng.random(count))
    at = items.column_names.index("attr.hat")
    items = items.set_column(at, "attr.hat", pa.array(hats))
    items = items.append_column("attr.hat.confidence", pa.array(sure, pa.float32()))
    return code(items, items, ["hat"])[0], labels_of(items)


def test_a_word_that_is_often_wrong_has_to_be_surer() -> None:
    items, labels = suspicious(0)
    chosen = choose_thresholds(items, labels, keep=0.98)
    hat = chosen.thresholds["hat"]
    assert isinstance(hat, dict)
    assert hat["yes"] > 0.7
    assert hat["no"] == 0
    one = choose_thresholds(items, labels, keep=0.98, by_word=False)
    assert isinstance(one.thresholds["hat"], float)
    assert one.quality == quality(items, labels, one.thresholds)
    assert one.kept_elsewhere - 1.645 * one.standard_error >= 0.98
    assert chosen.quality.dropped > 1.2 * one.quality.dropped
    assert quality(*suspicious(1), chosen.thresholds).kept_share > 0.97


def pairs(seed: int) -> tuple[_Pairs, _Pairs]:
    items, labels = world(seed, persons=40)
    rng = np.random.default_rng(seed)
    values = _Values.of(items)
    return _Pairs(values, *_matches(labels, rng)), _Pairs(values, *_different(labels, rng))


@pytest.mark.parametrize("seed", range(3))
def test_what_each_step_would_drop_is_what_it_drops(seed: int) -> None:
    _, others = pairs(seed)
    owners, count = others.values.owners, others.values.value.shape[1]
    rng = np.random.default_rng(seed)
    limits = rng.integers(20, 50, len(owners))
    left = others.which(~others.dropped(limits))
    told = left.further(limits)
    assert told.shape[0] == count + len(owners)
    for step in range(len(told)):
        its = owners == step if step < count else np.arange(len(owners)) == step - count
        for level in range(1, 50, 7):
            lowered = np.where(its, np.minimum(limits, level), limits)
            assert told[step, level] == left.dropped(lowered).sum()
    assert told[:count, 1].min() > told[count:, 1].max() > 0


def test_steps_of_a_larger_loss_lead_to_the_same() -> None:
    same, others = pairs(5)
    path = _lowered(same, others, loss=0.08, by_word=True)
    for loss in (0.08, 0.05, 0.01, 0.0):
        alone = _lowered(same, others, loss=loss, by_word=True)
        after = _lowered(same, others, loss=loss, by_word=True, path=path)
        np.testing.assert_array_equal(after, alone)
        assert same.dropped(after[-1]).mean() <= loss
    assert len(path) > len(alone)


def test_matches_of_one_camera_do_not_count() -> None:
    """Hats change within a camera, never between two: nothing is lost by them."""
    person = np.repeat(np.arange(10), 4)
    camera = np.tile([1, 1, 2, 2], 10)
    hats = np.where(person % 2 == 1, "yes", "no").tolist()
    sure = np.full(40, 0.9, np.float32)
    for first in range(0, 40, 4):  # taken on and off before one camera, unseen by the other
        hats[first : first + 4] = (
            ["yes", "no", None, None] if first < 12 else hats[first : first + 4]
        )
    items = pa.table({
        "item": np.arange(40), "person": [f"{one:04d}" for one in person], "camera": camera,
        "attr.hat": hats, "attr.hat.confidence": sure,
    })  # fmt: skip
    coded, _ = code(items, items, ["hat"])

    chosen = choose_thresholds(coded, labels_of(items), keep=0.98)

    assert chosen.thresholds == {"hat": {"no": 0.0, "yes": 0.0}}
    assert (chosen.quality.matches, chosen.quality.missed) == (80, 0)
    assert chosen.persons == 10


def test_refusals() -> None:
    items, labels = world(5, persons=10)
    for keep in (0, 1, -1, 2, float("nan")):
        with pytest.raises(UsageError, match="between 0 and 1"):
            choose_thresholds(items, labels, keep=keep)
    alone = Labels(labels.person, np.ones(len(labels), np.int64), labels.item)
    with pytest.raises(UsageError, match="0 persons have items of two cameras"):
        choose_thresholds(items, alone)
