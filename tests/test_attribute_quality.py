"""Predicted attributes against labels, by hand and against definitions."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reid_index.errors import BadItems, UsageError
from reid_index.evaluation.attributes import (
    Word,
    average_precision,
    judge_attributes,
    mean_of_groups,
)


def cells(values, sure=None, origin=None, *, name="hat", kind=None):
    columns = {f"attr.{name}": pa.array(values, kind or pa.string())}
    if sure is not None:
        columns[f"attr.{name}.confidence"] = pa.array(sure, pa.float32())
    if origin is not None:
        columns[f"attr.{name}.origin"] = pa.array(origin, pa.string())
    return pa.table({"item": np.arange(len(values)), **columns})


SETS = pa.list_(pa.string())


def test_words_by_hand() -> None:
    truth = cells(["yes", "yes", "no", "no", "no", None, "yes"])
    guess = cells(
        ["yes", "no", "no", "no", "yes", "yes", None], [0.9, 0.6, 0.8, 0.7, 0.55, 0.9, None]
    )

    (found,) = judge_attributes(guess, truth).values()

    assert (found.labelled, found.judged, found.said) == (6, 5, 0)
    assert found.coverage == 5 / 6
    assert found.accuracy == 3 / 5
    assert found.balanced_accuracy == pytest.approx((1 / 2 + 2 / 3) / 2)
    # "yes" by probability: 0.9 (right), 0.55 (wrong), 0.4 (right), 0.3, 0.2.
    yes, no = (1 + 2 / 3) / 2, (1 + 1 + 3 / 4) / 3
    assert found.words["yes"] == Word(
        labelled=2, predicted=2, recall=1 / 2, precision=1 / 2, ap=pytest.approx(yes)
    )
    assert found.words["no"].ap == pytest.approx(no)
    assert found.ap == pytest.approx((yes + no) / 2)


def test_sets_are_hit_by_one_word_and_judged_by_each() -> None:
    truth = cells([["black", "red"], ["blue"], ["blue"], ["red"]], kind=SETS)
    guess = cells([["red"], ["blue"], ["black"], ["blue", "red"]], [0.8, 0.5, 0.6, 1.0], kind=SETS)

    (found,) = judge_attributes(guess, truth).values()

    assert found.accuracy == 3 / 4
    assert {word: one.recall for word, one in found.words.items()} == {
        "black": 0, "blue": 1 / 2, "red": 1,
    }  # fmt: skip
    assert found.balanced_accuracy == pytest.approx(1 / 2)
    # Three words: what is not said shares 1 − c. black: .1, .25, .6 (wrong), 0; blue: .1 .5 .2 1;
    # red: .8, .25, .2, 1.
    assert found.words["black"].ap == pytest.approx(1 / 3)
    assert found.words["blue"].ap == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert found.words["red"].ap == 1


def test_what_is_not_said_shares_the_rest_among_all_other_words() -> None:
    """Of four words, c = 0.2 for one leaves 0.8 / 3 for "a", less than 0.28 for who says it."""
    truth = cells(["a", "b", "c", "d"])
    guess = cells(["a", "b", "c", "d"], [0.28, 0.2, 0.9, 0.9])

    (found,) = judge_attributes(guess, truth).values()

    assert found.words["a"].ap == 1


def test_labels_are_found_by_item_and_what_somebody_said_is_not_judged() -> None:
    origin = ["model m 1 0123456789ab", "label", "person", None]
    guess = cells(["yes", "yes", "yes", "yes"], [0.9, None, None, None], origin)
    truth = cells(["no", "no", "yes", "no"]).take([3, 1, 0])

    (found,) = judge_attributes(guess, truth).values()

    assert (found.labelled, found.judged, found.said) == (1, 1, 2)
    assert found.accuracy == 0


def test_nothing_to_judge() -> None:
    (found,) = judge_attributes(cells([None, "yes"]), cells(["yes", None])).values()

    assert (found.labelled, found.judged, found.accuracy, found.ap) == (1, 0, None, None)
    assert mean_of_groups({"hat": found}, ["hat"]) is None
    assert mean_of_groups({}, ["hat"]) is None


def test_means_are_of_the_groups_alone() -> None:
    truth, guess = cells(["yes", "no"]), cells(["yes", "yes"], [0.9, 0.6])
    both = judge_attributes(
        guess.append_column("attr.coat", pa.array(["no", "no"])),
        truth.append_column("attr.coat", pa.array(["no", "no"])),
    )

    assert mean_of_groups(both, ["hat"]) == (0.5, 0.5, 1.0)
    assert mean_of_groups(both, ["hat", "coat", "gender"]) == (0.75, 0.75, 1.0)
    assert both["coat"].ap is None


def test_refusals() -> None:
    with pytest.raises(UsageError, match="items predict hat, and labels know coat: no attribute"):
        judge_attributes(cells(["yes"]), cells(["yes"], name="coat"))
    with pytest.raises(UsageError, match="items predict no attributes"):
        judge_attributes(cells(["yes"]).select(["item"]), cells(["yes"]))
    with pytest.raises(BadItems, match="one word in labels or items, and a set in the other"):
        judge_attributes(cells(["red"]), cells([["red"]], kind=SETS))


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.sampled_from([0.1, 0.2, 0.5, 0.9])), min_size=1))
def test_average_precision_is_the_sum_over_thresholds(pairs) -> None:
    right, scores = (np.array(one) for one in zip(*pairs, strict=True))
    total, before = 0.0, 0.0
    for threshold in (0.9, 0.5, 0.2, 0.1):
        chosen = right[scores >= threshold]
        if right.any() and len(chosen):
            recall = chosen.sum() / right.sum()
            total, before = total + (recall - before) * chosen.mean(), recall

    found = average_precision(right, scores)

    if right.all() or not right.any():
        assert found is None
    else:
        assert found == pytest.approx(total)
