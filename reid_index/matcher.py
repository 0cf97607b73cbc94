"""How two items are compared beyond their vectors: by their parts, or those that both show, on a
shortlist of the nearest, or by their frames, as the target's segment attends to them.

A matcher belongs to the extractor that made the parts or frames; shards and galleries carry it.
"""

from dataclasses import dataclass
from typing import Any

from .errors import FormatTooNew, UsageError
from .reading import number, shown, text

ALIGNED = "aligned"
COATTENTION = "coattention"
VISIBILITY = "visibility"

FIELDS = {ALIGNED: ("weight",), COATTENTION: ("head", "bias"), VISIBILITY: ("distance",)}
"""Name → the fields that a matcher of that name has beside it."""

NAMES = tuple(FIELDS)

_UNLESS_SAID: dict[str, Any] = {"weight": 1.0, "head": (), "bias": 0.0, "distance": "cosine"}

DISTANCES = ("cosine", "euclidean")
"""How visibility compares two parts, and two vectors."""

HEAVIEST = 1000.0
"""The largest weight of parts beside vectors."""

WIDEST = 65_536
"""The most numbers of a head."""

LARGEST = 1e9
"""The largest number of a head, and the largest bias, by size."""


@dataclass(frozen=True, kw_only=True)
class Matcher:
    """Says how pairs are scored beyond their vectors. Galleries with one are cosine ones.

    name: "aligned", "coattention" or "visibility".

    aligned: by `global` and `parts`, stripes in order, top to bottom; D_global + weight · D_local,
        lower is better, where D_global is the Euclidean distance of the vectors, √(2 − 2·cosine),
        and D_local the shortest path through the distances of stripes (see aligned.py).
        weight: of D_local, more than 0, at most HEAVIEST.
    coattention: segments by their frames (see coattention.py): the probability that both show one
        person, sigmoid(bias + Σ_d head_d · (e_p − e_g)_d²), higher is better. head: a number for
        each dimension of the codes, at most WIDEST; each, and bias, at most LARGEST by size.
    visibility: by `global`, and those of `parts` that are `visible` in both: the mean of their
        distances, lower is better (see visibility.py). distance: "cosine", 1 − cosine, or
        "euclidean", of parts and vectors at length 1.

    Raises UsageError for another name, other numbers, and fields of another matcher.
    """

    name: str
    weight: float = 1.0
    head: tuple[float, ...] = ()
    bias: float = 0.0
    distance: str = "cosine"

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            raise UsageError(f"there is no matcher {self.name!r}; there is {', '.join(NAMES)}")
        try:
            if self.of_frames:
                object.__setattr__(self, "head", _head(self.head))
                object.__setattr__(self, "bias", _bias(self.bias))
            elif self.has_visible:
                _distance(self.distance)
            else:
                _weight(self.weight)
        except ValueError as error:
            raise UsageError(f"the matcher's {error}") from None
        others = _UNLESS_SAID.keys() - FIELDS[self.name]
        if any(getattr(self, field) != _UNLESS_SAID[field] for field in others):
            raise UsageError(
                f"the matcher {self.name} has {', '.join(FIELDS[self.name])}: leave the rest out"
            )

    @property
    def of_frames(self) -> bool:
        """Whether it compares frames, not parts."""
        return self.name == COATTENTION

    @property
    def has_visible(self) -> bool:
        """Whether it compares only parts that are to be seen, and rows say which are."""
        return self.name == VISIBILITY

    def to_json(self) -> dict[str, Any]:
        """A JSON object with every field of a matcher of that name."""
        if self.of_frames:
            return {"name": self.name, "head": list(self.head), "bias": self.bias}
        if self.has_visible:
            return {"name": self.name, "distance": self.distance}
        return {"name": self.name, "weight": self.weight}

    @classmethod
    def from_json(cls, data: Any) -> "Matcher":
        """The inverse of `to_json`. Raises ValueError for anything that is not a matcher,
        FormatTooNew for one of another name or with unknown fields: what they say decides the
        answers."""
        if not isinstance(data, dict) or "name" not in data:
            raise ValueError(f"the matcher is {shown(data)}, not an object with a name")
        name = text(data["name"], name="the matcher's name")
        if name not in NAMES:
            raise FormatTooNew(
                f"its items are compared by the matcher {shown(name)}, which this reid-index does "
                "not know; upgrade reid-index, or restore the file if that is no matcher"
            )
        fields = FIELDS[name]
        missing = [field for field in fields if field not in data]
        if missing:
            raise ValueError(f"the matcher {name} has no {', '.join(missing)}")
        unknown = data.keys() - {"name", *fields}
        if unknown:
            raise FormatTooNew(
                "the matcher has fields that this reid-index does not know "
                f"({', '.join(map(shown, sorted(unknown)))}); upgrade reid-index"
            )
        if name == COATTENTION:
            if not isinstance(data["head"], list):
                raise ValueError(f"the matcher's head is {shown(data['head'])}, not a list")
            return cls(name=name, head=_head(data["head"]), bias=_bias(data["bias"]))
        if name == VISIBILITY:
            return cls(name=name, distance=_distance(data["distance"]))
        return cls(name=name, weight=_weight(data["weight"]))


def _weight(value: Any) -> float:
    weight = number(value, name="weight", least=0, most=HEAVIEST)
    if weight == 0:
        raise ValueError("weight is 0: without parts no matcher is needed")
    return weight


def _head(value: Any) -> tuple[float, ...]:
    if not isinstance(value, list | tuple) or not 1 <= len(value) <= WIDEST:
        raise ValueError(f"head is {shown(value)}, not 1 to {WIDEST} numbers")
    return tuple(number(one, name="head", least=-LARGEST, most=LARGEST) for one in value)


def _bias(value: Any) -> float:
    return number(value, name="bias", least=-LARGEST, most=LARGEST)


def _distance(value: Any) -> str:
    if not isinstance(value, str) or value not in DISTANCES:
        raise ValueError(f"distance is {shown(value)}, not {' or '.join(DISTANCES)}")
    return value


def told(matcher: Matcher | None) -> str:
    """A matcher in a few words."""
    if matcher is None:
        return "vectors alone"
    if matcher.of_frames:
        return f"{matcher.name} over frames, {len(matcher.head)} dimensions"
    if matcher.has_visible:
        return f"{matcher.name} parts, {matcher.distance} distance"
    return f"{matcher.name} parts, weight {matcher.weight:g}"
