"""What is known of the people who are trained on, beside who they are: attributes, body parts."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reid_index.attributes import PREFIX
from reid_index.errors import UsageError

from ..attribute_labels import read_labels
from ..systems import OF_REGIONS, Plan
from ..systems.fls import REGIONS
from .crops import Labelled

Words = tuple[tuple[str, tuple[str, ...]], ...]
"""Attribute → its words, in pairs."""


@dataclass(frozen=True, kw_only=True)
class Looks:
    """words: of each class, float32 (classes, words): for each attribute of the plan the shares of
    its words, together 1, or all 0 where it is not known. parsed: a human parser's maps of all
    crops, uint8 (N, h, w), 0 for background and 1, 2, … for parts from the top."""

    words: NDArray[np.float32] | None = None
    parsed: NDArray[np.uint8] | None = None

    def check(self, plan: Plan, *, crops: int, persons: int) -> None:
        """Raise UsageError where a training by that plan has no use for it, or needs more."""
        if plan.system not in OF_REGIONS and (self.words is not None or self.parsed is not None):
            raise UsageError(
                f"{plan.system} tells no regions and attributes: {', '.join(OF_REGIONS)} does"
            )
        count = sum(len(words) for _, words in plan.words)
        if (self.words is not None) != (count > 0):
            raise UsageError("a plan with attributes, and only one, needs to know who has what")
        if self.words is not None and self.words.shape != (persons, count):
            raise UsageError(
                f"{count} words of {persons} persons are needed, not {self.words.shape}"
            )
        if (self.parsed is not None) != plan.belongings:
            raise UsageError(
                "belongings are what a parser does not tell: they need its maps, and with those "
                "they are a region"
            )
        if self.parsed is not None:
            if self.parsed.ndim != 3 or len(self.parsed) != crops:
                raise UsageError(f"{crops} maps are needed, not {self.parsed.shape}")
            most = int(self.parsed.max(initial=0))
            told = (plan.regions or REGIONS) - 1
            if most > told:
                raise UsageError(
                    f"the parser's maps have {most} parts, and {told} are told beside belongings"
                )

    def parsed_at(self, height: int, width: int) -> NDArray[np.uint8] | None:
        """The parser's maps, each cell as its middle: uint8 (N, height, width)."""
        if self.parsed is None:
            return None
        rows = (2 * np.arange(height) + 1) * self.parsed.shape[1] // (2 * height)
        columns = (2 * np.arange(width) + 1) * self.parsed.shape[2] // (2 * width)
        return np.ascontiguousarray(self.parsed[:, rows][:, :, columns])

    def to_json(self) -> dict[str, Any]:
        """What tells it from others."""
        both = {"words": self.words, "parsed": self.parsed}
        return {
            f"{name}_sha256": hashlib.sha256(np.ascontiguousarray(one).data).hexdigest()
            for name, one in both.items()
            if one is not None
        }


def read_words(path: Path, labelled: Labelled) -> tuple[Words, NDArray[np.float32], Sequence[str]]:
    """The attributes of labelled people, as a file tells them (see attribute_labels.py): words,
    shares, and what is to be told: of the file, and how many persons have no row.

    Raises BadSource, UsageError for a file whose rows are not of persons, or that tells nothing.
    """
    labels = read_labels(path, by="person")
    rows = labels.table.to_pylist()
    by_person = {row["person"]: {name: row[PREFIX + name] for name in labels.names} for row in rows}
    people = [by_person.get(name, {}) for name in labelled.persons]
    words = words_of(people)
    if not words:
        raise UsageError(f"{path}: of the persons to train on it tells no attribute that differs")
    missing = sum(not person for person in people)
    notes = list(labels.notes)
    if missing:
        notes.append(f"{path}: {missing:,} of {len(people):,} persons have no row: not known")
    return words, shares_of(people, words), notes


def words_of(people: Sequence[Mapping[str, Any]]) -> Words:
    """The words of some people's attributes, each in order of the alphabet, attributes, too; those
    of which nobody has a second word say nothing and are left out.

    people: attribute → word, several words, or None where it is not known.
    """
    found: dict[str, set[str]] = {}
    for person in people:
        for name, said in person.items():
            found.setdefault(name, set()).update(_several(said))
    return tuple(
        (name, tuple(sorted(words))) for name, words in sorted(found.items()) if len(words) > 1
    )


def shares_of(people: Sequence[Mapping[str, Any]], words: Words) -> NDArray[np.float32]:
    """`Looks.words` of some people: of several words each has an equal share."""
    shares = np.zeros((len(people), sum(len(some) for _, some in words)), np.float32)
    first = 0
    for name, some in words:
        for row, person in enumerate(people):
            for word in _several(person.get(name)):
                shares[row, first + some.index(word)] = 1
        here = shares[:, first : first + len(some)]
        here /= np.maximum(here.sum(axis=1, keepdims=True), 1)
        first += len(some)
    return shares


def _several(said: Any) -> list[str]:
    if said is None:
        return []
    return [said] if isinstance(said, str) else list(said)
