"""Filtering by itself: rows that confidently disagree with the target's attributes are dropped.

Source 002: attributes that both sides are sure of are compared before anything is sorted. A row
stays where either side does not know an attribute, or is not sure of it.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from .. import files
from ..attributes import (
    CONFIDENCE,
    ORIGIN,
    PREFIX,
    Said,
    Threshold,
    check_name,
    least_for,
    names_in,
    vote,
)
from ..errors import BadSource, FormatTooNew, UsageError
from ..reading import number, read_json, shown, text
from .columns import Bitmap, Columns, IsNull, OfValues, Step, counted, kind_of, packed, plain_type

Words = str | Collection[str]

_FORMAT = 1
"""Of files of thresholds."""


@dataclass(frozen=True)
class Agreement:
    """What is known of a target, and from which confidence on a disagreement counts.

    target: attribute → its word, or set of words, and how sure it is, in [0, 1]; None: certain, as
    what somebody said is. Attributes that are not known are left out.
    threshold: for all attributes; None: those without one of their own are not used. thresholds:
    attribute → its own: a number, None: not used, or word → number, None or not there: a value of
    that word is never used. unused: attributes that are not used, whatever else is said, as a bag
    can be put down.

    A row is dropped where, for one attribute that is used, the target and the row are both known
    with at least the threshold, and their words differ, or their sets have no word in common (a
    word beside a set is a set of one). With a threshold for each word, target and row each have to
    reach that of their own word, a set the highest of its words'. A null confidence beside a value
    is 1. Confidences and thresholds are compared as float32, which galleries keep.

    Raises UsageError for confidences and thresholds outside [0, 1], NaN among them, for words that
    are no text, and for a target of which nothing is known.
    """

    target: Mapping[str, tuple[Words, float | None]]
    threshold: float | None = 0.7
    thresholds: Mapping[str, Threshold] = field(default_factory=dict)
    unused: Collection[str] = ()

    def __post_init__(self) -> None:
        target = {name: _known(name, *told) for name, told in self.target.items()}
        if not target:
            raise UsageError("nothing is known of the target's attributes: filter by where instead")
        if self.threshold is not None:
            _check_share(self.threshold, "the threshold")
        thresholds = {name: _checked(name, own) for name, own in self.thresholds.items()}
        if isinstance(self.unused, str):
            raise UsageError(f"unused is a list of attributes, got {self.unused!r}")
        unused = frozenset(self.unused)
        # Copies: a caller may go on with theirs, and what is kept for an agreement must not change.
        object.__setattr__(self, "target", target)
        object.__setattr__(self, "thresholds", thresholds)
        object.__setattr__(self, "unused", unused)

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        own = frozenset(
            (name, frozenset(one.items()) if isinstance(one, Mapping) else one)
            for name, one in self.thresholds.items()
        )
        return hash((frozenset(self.target.items()), self.threshold, own, self.unused))

    def threshold_of(self, name: str) -> Threshold:
        """From which confidence on an attribute counts; None: it is not used."""
        if name in self.unused:
            return None
        return self.thresholds.get(name, self.threshold)

    def compared(self, schema: pa.Schema) -> "tuple[Compared, ...]":
        """Every attribute of the target, and of columns of that schema, and whether it is used.

        Raises UsageError where a threshold of its own, or `unused`, names an attribute that the
        columns have not, and where the target has none of theirs.
        """
        there = names_in(schema.names)
        listed = ", ".join(there) or "none"
        for name in (*self.thresholds, *sorted(self.unused)):
            if name not in there:
                raise UsageError(
                    f"the gallery has no attribute {name!r}, so nothing can be said of filtering "
                    f"by it; its attributes: {listed}"
                )
        if not self.target.keys() & set(there):
            raise UsageError(
                f"the gallery has none of the target's attributes ({', '.join(self.target)}); its "
                f"attributes: {listed}"
            )
        names = [*self.target, *(name for name in there if name not in self.target)]
        return tuple(self._compared(name, schema) for name in names)

    def _compared(self, name: str, schema: pa.Schema) -> "Compared":
        words, confidence = self.target.get(name, ((), None))
        whole = self.threshold_of(name)
        threshold = least_for(whole, words) if words else None
        reason = None
        if not words:
            reason = "not known of the target"
        elif PREFIX + name not in schema.names:
            reason = "not in the gallery"
        elif kind_of(plain_type(schema.field(PREFIX + name).type)) not in ("text", "set"):
            reason = f"no words in the gallery, but {schema.field(PREFIX + name).type}"
        elif name in self.unused or (whole is None and name in self.thresholds):
            reason = "not to be used"
        elif whole is not None and threshold is None:
            reason = f"{', '.join(words)} is not to be used"
        elif threshold is None:
            reason = "it has no threshold"
        elif confidence is not None and np.float32(confidence) < np.float32(threshold):
            reason = "not sure enough"
        return Compared(
            name=name,
            words=tuple(words),
            confidence=confidence,
            threshold=threshold,
            of_items=whole,
            unused=reason,
        )

    def disagreement(self, columns: Columns, allowed: Bitmap) -> "tuple[Bitmap, Agreed]":
        """Which rows disagree, by `allowed`, those that everything else lets through, without a
        bit behind the last row; and what came of it. Raises UsageError as `compared` does."""
        asked = self.compared(columns.schema)
        found = {
            one.name: columns.answer(_disagree(one, columns.schema))[0] & allowed
            for one in asked
            if one.unused is None
        }
        some, many = np.zeros_like(allowed), np.zeros_like(allowed)
        for bitmap in found.values():
            many |= some & bitmap
            some |= bitmap
        told = [
            one
            if one.name not in found
            else replace(
                one,
                dropped=counted(found[one.name]),
                only=counted(found[one.name] & ~many),
            )
            for one in asked
        ]
        return some, Agreed(allowed=counted(allowed), dropped=counted(some), attributes=tuple(told))

    def keeps(self, items: pa.Table) -> NDArray[np.bool_]:
        """Which rows of a table it does not drop: bool (N,). Nothing is kept for the next one.
        Raises UsageError as `compared` does."""
        everything = packed(np.ones(items.num_rows, np.bool_))
        columns = Columns(items)
        return columns.unpacked(~self.disagreement(columns, everything)[0])


@dataclass(frozen=True, kw_only=True)
class Compared:
    """An attribute of a target and a gallery.

    words: of the target, sorted; none where it is not known of it. confidence: of these; None:
    certain, or not known. threshold: from which confidence on these words count; None: at none.
    of_items: the same of rows, as `Agreement.thresholds` has it. unused: why it is not used, None
    where it is. dropped: how many rows disagree in it, of those that were allowed otherwise; only:
    how many of these in nothing else.
    """

    name: str
    words: tuple[str, ...]
    confidence: float | None
    threshold: float | None
    of_items: Threshold
    unused: str | None
    dropped: int = 0
    only: int = 0


@dataclass(frozen=True, kw_only=True)
class Agreed:
    """What an agreement did: allowed: the rows that everything else let through; dropped: how many
    of them disagree; attributes: the target's in its order, then the others of the gallery."""

    allowed: int
    dropped: int
    attributes: tuple[Compared, ...]


def _known(name: str, words: Words, confidence: float | None) -> tuple[Words, float | None]:
    several = (words,) if isinstance(words, str) or not isinstance(words, Collection) else words
    if len(several) == 0 or not all(isinstance(word, str) for word in several):
        raise UsageError(
            f"the target's {name} is a word, or a set of words, got {words!r}: leave out what is "
            "not known"
        )
    if confidence is not None:
        _check_share(confidence, f"the confidence of the target's {name}")
        confidence = float(confidence)
    return tuple(sorted(set(several))), confidence


def _check_share(value: Any, what: str) -> None:
    """Raise UsageError unless it is a number from 0 to 1."""
    is_number = isinstance(value, int | float | np.integer | np.floating)
    if isinstance(value, bool) or not is_number or not 0 <= value <= 1:
        raise UsageError(f"{what} is a number from 0 to 1, got {value!r}")


def _checked(name: str, threshold: Any) -> Threshold:
    """A threshold of its own, a copy. Raises UsageError for what is none."""
    if threshold is None:
        return None
    if not isinstance(threshold, Mapping):
        _check_share(threshold, f"the threshold of {name}")
        return float(threshold)
    for word, least in threshold.items():
        if not isinstance(word, str):
            raise UsageError(f"thresholds of {name} are those of words, got {word!r}")
        if least is not None:
            _check_share(least, f"the threshold of {name}, {word},")
    return {word: None if least is None else float(least) for word, least in threshold.items()}


def _disagree(one: Compared, schema: pa.Schema) -> list[Step]:
    """Where rows are known to have other words, and are sure of it, in postfix order."""
    column = PREFIX + one.name
    kind = plain_type(schema.field(column).type)
    is_set = kind_of(kind) == "set"
    kind = pa.string() if is_set else kind
    steps: list[Step] = [OfValues(column, "IN", one.words, kind), "not"]
    if not isinstance(one.of_items, Mapping):
        return [*steps, *_sure(column, one.of_items, schema)]
    # A row's threshold is at most t where all of its words' are. So one predicate for each number
    # is enough, and it is the same for every target: its answer is kept.
    told = {word: least for word, least in one.of_items.items() if least is not None}
    for at, least in enumerate(sorted(set(told.values()))):
        words = tuple(sorted(word for word, its in told.items() if its <= least))
        steps.append(OfValues(column, "WITHIN" if is_set else "IN", words, kind))
        steps += [*_sure(column, least, schema), *(["or"] if at else [])]
    return [*steps, "and"]


def _sure(column: str, least: float | None, schema: pa.Schema) -> list[Step]:
    """That rows are at least so sure of a column, too: what follows a step."""
    told = column + CONFIDENCE
    if told not in schema.names:
        return []
    sure = schema.field(told).type
    sure = sure if pa.types.is_floating(sure) else pa.float64()
    (value,) = pa.array([least], pa.float64()).cast(sure).to_pylist()
    return [OfValues(told, ">=", (value,), sure), IsNull(told), "or", "and"]


def known_of(columns: Mapping[str, Sequence[Any]]) -> dict[str, tuple[Words, float | None]]:
    """What some pictures of one person, or rows, tell of it, as `Agreement.target` has it.

    columns: `attr.<name>` and its `.confidence`, as an item table or an embedding has them, with
    n ≥ 1 values each; others are not looked at, nor are values that are no words.
    They vote: see `reid_index.attributes.vote`; sets are the same whatever their order. An
    attribute that none knows is left out. Raises UsageError for confidences outside [0, 1].
    """
    known: dict[str, tuple[Words, float | None]] = {}
    for name in names_in(columns):
        values = columns[PREFIX + name]
        nothing = [None] * len(values)
        confidences = columns.get(PREFIX + name + CONFIDENCE, nothing)
        origins = columns.get(PREFIX + name + ORIGIN, nothing)
        said: list[Said] = []
        for value, confidence, origin in zip(values, confidences, origins, strict=True):
            if not isinstance(value, str | list | tuple | set | frozenset):
                continue  # null, or of a column that holds no words
            if confidence is not None:
                _check_share(confidence, f"the confidence of the target's {name}")
            words: Words = value if isinstance(value, str) else tuple(sorted(set(value)))
            said.append((words, confidence, origin))
        if said:
            word, sure, _ = vote(said)
            known[name] = (word, 1.0 if sure is None else sure)
    return known


def read_thresholds(path: Path) -> dict[str, Threshold]:
    """Attribute → from which confidence on it is filtered by, of all words or of each, None: not at
    all; of a JSON file such as
    `{"format": 1, "thresholds": {"hat": {"yes": 0.9, "no": 0.99}, "bag": null}, "about": {…}}`.

    Raises BadSource where it cannot be read or says anything else, FormatTooNew.
    """
    try:
        content = read_json(path)
        if not isinstance(content, dict):
            raise ValueError(f"it is {shown(content)}, not an object")
        made = content.get("format")
        if type(made) is int and made > _FORMAT:
            raise FormatTooNew(
                f"{path}: thresholds of format {made}; this version reads {_FORMAT}: update "
                "reid-index"
            )
        if type(made) is not int or made != _FORMAT:
            raise ValueError(f"its format is {shown(made)}, not {_FORMAT}")
        if not {"thresholds"} <= content.keys() <= {"format", "thresholds", "about"}:
            raise ValueError("it has other fields than format, thresholds and about")
        thresholds, about = content["thresholds"], content.get("about", {})
        if not isinstance(thresholds, dict) or not isinstance(about, dict):
            raise ValueError("thresholds and about are objects")
        return {check_name(name): _read(value, name) for name, value in thresholds.items()}
    except FormatTooNew:
        raise
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise BadSource(f"{path}: no thresholds of attributes can be read: {reason}") from None


def _read(value: Any, name: str) -> Threshold:
    if isinstance(value, dict):
        return {
            text(word, name=f"a word of {name}"): _share(least, f"{name}, {shown(word)},")
            for word, least in value.items()
        }
    return _share(value, name)


def _share(value: Any, name: str) -> float | None:
    return None if value is None else number(value, name=f"that of {name}", least=0, most=1)


def write_thresholds(
    path: Path, thresholds: Mapping[str, Threshold], *, about: Mapping[str, Any]
) -> None:
    """Write the file that `read_thresholds` reads, in one step, in place of a former one. about:
    JSON on how they were found. Raises UsageError for thresholds outside [0, 1]."""
    told = {name: _checked(check_name(name), value) for name, value in thresholds.items()}
    content = {"format": _FORMAT, "thresholds": told, "about": dict(about)}
    files.replace_file(path, files.json_bytes(content))
