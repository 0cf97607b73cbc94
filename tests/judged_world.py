"""What tests of attributes in evaluations share: made-up people, and a model that errs."""

import numpy as np
import pyarrow as pa

from reid_index.attributes import CONFIDENCE, ORIGIN, PREFIX
from reid_index.evaluation.protocol import Labels

WORDS = {"hat": ("no", "yes"), "gender": ("female", "male"), "sleeve": ("long", "short")}
COLORS = ("black", "blue", "red", "white")
MODEL = "model made-up 1 0123456789ab"


def people(rng, *, persons=40, crops=6, cameras=3, distractors=30):
    """Items of persons and of nobody, with true attributes: `item`, `person`, `camera`, `role` and
    `attr.*`; the words of one person are the same in all of its items."""
    person = np.repeat(np.arange(persons), crops)
    count = len(person) + distractors
    names = [f"{one:04d}" for one in person] + [None] * distractors
    columns = {
        "item": np.arange(count),
        "person": pa.array(names, pa.string()),
        "camera": rng.integers(1, cameras + 1, count),
        "role": pa.array([None] * len(person) + ["distractor"] * distractors, pa.string()),
    }
    for name, words in WORDS.items():
        own = rng.integers(0, 2, persons)[person]
        code = np.concatenate([own, rng.integers(0, 2, distractors)])
        columns[PREFIX + name] = [words[one] for one in code]
    sets = [sorted(rng.choice(COLORS, rng.integers(1, 3), replace=False)) for _ in range(persons)]
    sets = [sets[one] for one in person] + [["red"]] * distractors
    columns[PREFIX + "upper_color"] = pa.array(sets, pa.list_(pa.string()))
    return pa.table(columns)


def predicted(rng, items, *, errors, unknown=0.1):
    """The same items as a model sees them: `errors` (attribute → share of wrong words), more of
    them where it is unsure; confidences from 0.5; some unknown."""
    table = items
    for name, share in errors.items():
        values = items[PREFIX + name].to_pylist()
        sure = (0.5 + 0.5 * rng.random(len(values))).astype(np.float32)
        wrong = rng.random(len(values)) < 4 * share * (1 - sure)
        told = [
            _other(rng, name, value) if bad else value
            for value, bad in zip(values, wrong, strict=True)
        ]
        lost = rng.random(len(values)) < unknown
        told = [None if gone else value for value, gone in zip(told, lost, strict=True)]
        kind = items.schema.field(PREFIX + name).type
        table = table.set_column(
            table.column_names.index(PREFIX + name), PREFIX + name, pa.array(told, kind)
        )
        table = table.append_column(PREFIX + name + CONFIDENCE, pa.array(sure, mask=lost))
        origin = pa.array([MODEL] * len(values), pa.string(), mask=lost)
        table = table.append_column(PREFIX + name + ORIGIN, origin)
    return table


def _other(rng, name, value):
    if name in WORDS:
        return next(word for word in WORDS[name] if word != value)
    return [str(rng.choice([color for color in COLORS if color not in value]))]


def drops(target, item, thresholds):
    """Whether an item is dropped for a target, two rows as dicts, from the definition."""
    for name, threshold in thresholds.items():
        if threshold is None:
            continue
        words = []
        for row in (target, item):
            value, sure = row[PREFIX + name], row.get(PREFIX + name + CONFIDENCE)
            if value is None:
                break
            its = {value} if isinstance(value, str) else set(value)
            own = [threshold.get(one) if isinstance(threshold, dict) else threshold for one in its]
            if None in own:
                break
            if any(np.float32(1 if sure is None else sure) < np.float32(one) for one in own):
                break
            words.append(its)
        if len(words) == 2 and not words[0] & words[1]:
            return True
    return False


def labels_of(items):
    """`Labels` of rows, straight from the columns."""
    names = items["person"].to_pylist()
    return Labels(
        person=np.array([-1 if name is None else int(name) for name in names], np.int64),
        camera=items["camera"].to_numpy().astype(np.int64),
        item=items["item"].to_numpy().astype(np.int64),
    )
