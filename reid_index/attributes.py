"""Attributes as item columns, three of each.

`attr.<name>`: a word, or a set of words (a list, as of colours; `=` in a filter means "contains");
null where it is unknown, which is not "no". `attr.<name>.confidence`: float32 in 0…1, how sure the
value is; null beside a value means that somebody said so: certain. `attr.<name>.origin`: who did:
"label", "person" (who looked and corrected it), or "model NAME VERSION SHA256" with the first 12
hex digits of its weights; null beside a value is a label's.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from .errors import UsageError

PREFIX = "attr."
CONFIDENCE = ".confidence"
ORIGIN = ".origin"

LABEL = "label"
PERSON = "person"
MODEL = "model"

Threshold: TypeAlias = float | Mapping[str, float | None] | None
"""From which confidence on an attribute counts: a number for all of its words, or word → number, as
a model's yes may be worth more than its no; None, and a word that is not there: never."""

_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")


def check_name(name: str) -> str:
    """The name, if an attribute can have it. Raises UsageError."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UsageError(
            f"an attribute cannot be called {name!r}: lower-case letters, digits and underscores, "
            "please, as in upper_color"
        )
    return name


def names_in(columns: Iterable[str]) -> list[str]:
    """The attributes among some columns, in their order."""
    return [
        name.removeprefix(PREFIX)
        for name in columns
        if name.startswith(PREFIX) and not name.endswith((CONFIDENCE, ORIGIN))
    ]


def columns_of(name: str) -> tuple[str, str, str]:
    """The columns of an attribute: its value, how sure it is, who says so."""
    return PREFIX + name, PREFIX + name + CONFIDENCE, PREFIX + name + ORIGIN


def attribute_of(column: str) -> str | None:
    """The attribute that a column says something of; None for other columns."""
    if not column.startswith(PREFIX):
        return None
    return column.removeprefix(PREFIX).removesuffix(CONFIDENCE).removesuffix(ORIGIN)


def rank_of(origin: str | None) -> int:
    """How much an origin's word counts: a person's more than a label's, that more than a
    model's."""
    if origin is None or origin == LABEL:
        return 1
    return 2 if origin == PERSON else 0


Said: TypeAlias = tuple[Any, float | None, str | None]
"""What a row says of an attribute: value, confidence, origin; all None where it is unknown."""


def vote(rows: Iterable[Said]) -> Said:
    """What several rows say of one attribute together.

    Of the rows where it is known, those of the origin that counts most count (`rank_of`). Each
    gives its word, or its set as a whole, its confidence, 1 where there is none. The word with the
    largest sum wins, of equal ones the one that comes first. Its confidence is that sum divided by
    the number of rows that counted, so a row that says another word counts 0: at most the mean
    probability of the word. Where nobody's word has a confidence and all say the same, it has none
    either. Its origin is that of the first row that says it.
    """
    known = [row for row in rows if row[0] is not None]
    if not known:
        return None, None, None
    best = max(rank_of(origin) for _, _, origin in known)
    known = [row for row in known if rank_of(row[2]) == best]
    sums: dict[Any, float] = {}
    for value, sure, _ in known:
        word = _word(value)
        sums[word] = sums.get(word, 0.0) + (1.0 if sure is None else float(sure))
    winner = max(sums, key=lambda word: sums[word])  # the first of equal ones
    first, _, origin = next(row for row in known if _word(row[0]) == winner)
    is_told = len(sums) == 1 and all(sure is None for _, sure, _ in known)
    return first, None if is_told else sums[winner] / len(known), origin


def _word(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def certainties(items: pa.Table, name: str) -> NDArray[np.float32]:
    """How sure an attribute of the items is: its confidence, 1 for what somebody said, 0 where it
    is unknown: float32 (N,). The table has the attribute."""
    known = pc.is_valid(items[PREFIX + name]).to_numpy(zero_copy_only=False)
    told = PREFIX + name + CONFIDENCE
    if told not in items.column_names:
        sure: NDArray[np.float32] = known.astype(np.float32)
        return sure
    sure = pc.fill_null(items[told].cast(pa.float32()), 1.0).to_numpy()
    sure = np.where(known, sure, np.float32(0))
    return sure


def least_for(threshold: Threshold, words: Collection[str]) -> float | None:
    """From which confidence on some words of an attribute count: the highest of theirs; None: at
    none, as it is as soon as one of them has none. words: one at least."""
    if not isinstance(threshold, Mapping):
        return threshold
    told = [threshold.get(word) for word in words]
    return None if None in told else max(one for one in told if one is not None)
