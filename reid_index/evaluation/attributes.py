"""Predicted attributes against labels: accuracy, balanced accuracy, average precision, coverage.

Of each attribute, only items whose label is known are judged, and of these only those with a
prediction; how many have one is the coverage, told beside every figure, for whoever says nothing
where it is hard looks better than it is. What somebody said of an item (origin label or person) is
no prediction and is not judged.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ..attributes import MODEL, ORIGIN, PREFIX, certainties, names_in
from ..errors import BadItems, UsageError


@dataclass(frozen=True, kw_only=True)
class Word:
    """How well one word of an attribute is told from the rest.

    labelled: judged items that have it by their label; predicted: by the prediction. recall: the
    share of the labelled that were predicted; precision: the reverse. ap: average precision. Each
    is None where there is nothing to divide by; ap also where all items have the word.
    """

    labelled: int
    predicted: int
    recall: float | None
    precision: float | None
    ap: float | None


@dataclass(frozen=True, kw_only=True)
class AttributeQuality:
    """How well one attribute is predicted; see `judge_attribute` for the rules.

    labelled: items whose label is known. judged: of these, those with a prediction. said: those
    left out because a label or a person says the value. words: by name, those of labels and
    predictions. accuracy, balanced_accuracy, ap: None where nothing could be judged.
    """

    labelled: int
    judged: int
    said: int
    accuracy: float | None
    balanced_accuracy: float | None
    ap: float | None
    words: Mapping[str, Word]

    @property
    def coverage(self) -> float:
        """The share of the labelled items that have a prediction."""
        return self.judged / self.labelled if self.labelled else 0.0


def judge_attributes(items: pa.Table, labels: pa.Table) -> dict[str, AttributeQuality]:
    """Each attribute that items predict and labels know, in the order of the labels.

    items: N rows with `item` and `attr.*` columns. labels: columns `item`, all different, and
    `attr.*`, the values that are right; an item without a row has no label. Raises UsageError where
    they share no attribute, BadItems where one is a word in one and a set in the other.
    """
    rows = pc.index_in(items["item"], value_set=labels["item"].combine_chunks())
    labels = labels.take(rows)
    predicted = names_in(items.column_names)
    shared = [name for name in names_in(labels.column_names) if name in predicted]
    if not shared:
        raise UsageError(
            f"items predict {', '.join(predicted) or 'no attributes'}, and labels know "
            f"{', '.join(names_in(labels.column_names)) or 'none'}: no attribute can be judged"
        )
    return {name: judge_attribute(items, labels, name) for name in shared}


def judge_attribute(items: pa.Table, labels: pa.Table, name: str) -> AttributeQuality:
    """One attribute of N items and their labels, row by row, by these rules.

    A prediction is a **hit** when it is the label's word; of sets, when the two have a word in
    common, as in filtering. Accuracy is the share of hits. Balanced accuracy is the mean recall
    of the words that labels have: saying "no" to every hat gets 0.5. Average precision is that of
    each word against the rest (see `average_precision`), by how probable the prediction makes it:
    its confidence c for a word that it says, and for the others an equal share of 1 − c, which is
    exact where there are two words; ap is the mean over words.
    """
    truth, guess = labels[PREFIX + name], items[PREFIX + name]
    is_set = pa.types.is_list(truth.type)
    if is_set != pa.types.is_list(guess.type):
        raise BadItems(f"{name} is one word in labels or items, and a set in the other")
    known = _known(truth)
    said = known & _known(guess) & ~_by_model(items, name)
    rows = np.flatnonzero(known & _known(guess) & ~said)
    labelled = int(np.count_nonzero(known & ~said))
    words, right, told = _marks(truth.take(pa.array(rows)), guess.take(pa.array(rows)))
    if len(rows) == 0:
        return AttributeQuality(
            labelled=labelled,
            judged=0,
            said=int(said.sum()),
            accuracy=None,
            balanced_accuracy=None,
            ap=None,
            words={},
        )
    sure = certainties(items, name)[rows].astype(np.float64)
    several = told.sum(axis=1)
    rest = (1 - sure) / np.maximum(len(words) - several, 1)
    scores = np.where(told, sure[:, None], rest[:, None])
    each = {word: _word(right[:, at], told[:, at], scores[:, at]) for at, word in enumerate(words)}
    recalls = [one.recall for one in each.values() if one.recall is not None]
    precisions = [one.ap for one in each.values() if one.ap is not None]
    return AttributeQuality(
        labelled=labelled,
        judged=len(rows),
        said=int(said.sum()),
        accuracy=float((right & told).any(axis=1).mean()),
        balanced_accuracy=float(np.mean(recalls)),
        ap=float(np.mean(precisions)) if precisions else None,
        words=each,
    )


def mean_of_groups(
    judged: Mapping[str, AttributeQuality], groups: Sequence[str]
) -> tuple[float, float, float] | None:
    """Accuracy, balanced accuracy and average precision, each the mean over those of the attributes
    `groups` that were judged; None where none was. An attribute without an ap is left out of its
    mean."""
    some = [judged[name] for name in groups if name in judged and judged[name].judged]
    if not some:
        return None
    aps = [one.ap for one in some if one.ap is not None]
    return (
        float(np.mean([one.accuracy for one in some])),
        float(np.mean([one.balanced_accuracy for one in some])),
        float(np.mean(aps)) if aps else 0.0,
    )


def average_precision(right: NDArray[np.bool_], scores: NDArray[np.float64]) -> float | None:
    """Σ (Rₙ − Rₙ₋₁) · Pₙ over the distinct scores, falling: precision and recall of all items with
    at least that score, so that equal scores count as one and their order does not matter.

    right (n,): which items have the word. None where none has it, or all.
    """
    if right.all() or not right.any():
        return None
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(right[order])
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    precision = hits[ends] / (ends + 1)
    gained = np.diff(hits[ends], prepend=0) / hits[-1]
    return float((precision * gained).sum())


def _word(right: NDArray[np.bool_], told: NDArray[np.bool_], scores: NDArray[np.float64]) -> Word:
    both = int(np.count_nonzero(right & told))
    labelled, predicted = int(right.sum()), int(told.sum())
    return Word(
        labelled=labelled,
        predicted=predicted,
        recall=both / labelled if labelled else None,
        precision=both / predicted if predicted else None,
        ap=average_precision(right, scores),
    )


def _known(column: pa.ChunkedArray) -> NDArray[np.bool_]:
    known: NDArray[np.bool_] = column.is_valid().to_numpy()
    return known


def _by_model(items: pa.Table, name: str) -> NDArray[np.bool_]:
    """Which rows' values a model predicted; all, where no origin is kept."""
    if PREFIX + name + ORIGIN not in items.column_names:
        return np.ones(items.num_rows, np.bool_)
    origin = items[PREFIX + name + ORIGIN].cast(pa.string())
    by: NDArray[np.bool_] = pc.fill_null(pc.starts_with(origin, MODEL), False).to_numpy()
    return by


def _marks(
    truth: pa.ChunkedArray, guess: pa.ChunkedArray
) -> tuple[list[str], NDArray[np.bool_], NDArray[np.bool_]]:
    """The words of both, sorted, and which rows have which: bool (n, words) each."""
    flat = [pc.list_flatten(one) if pa.types.is_list(one.type) else one for one in (truth, guess)]
    texts = [one.cast(pa.string()).combine_chunks() for one in flat]
    words = pc.unique(pa.chunked_array(texts, pa.string())).sort()
    marks = []
    for values, column in zip(texts, (truth, guess), strict=True):
        rows = np.arange(len(column))
        if pa.types.is_list(column.type):
            rows = pc.list_parent_indices(column.combine_chunks()).to_numpy()
        mark = np.zeros((len(column), len(words)), np.bool_)
        mark[rows, pc.index_in(values, value_set=words).to_numpy()] = True
        marks.append(mark)
    return words.to_pylist(), marks[0], marks[1]
