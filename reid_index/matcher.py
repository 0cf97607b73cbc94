"""How two items are compared beyond their vectors: by their parts, on a shortlist of the nearest.

A matcher belongs to the extractor that made the parts; shards and galleries carry it.
"""

from dataclasses import dataclass
from typing import Any

from .errors import FormatTooNew, UsageError
from .reading import number, shown, text

ALIGNED = "aligned"
NAMES = (ALIGNED,)

HEAVIEST = 1000.0
"""The largest weight of parts beside vectors."""


@dataclass(frozen=True, kw_only=True)
class Matcher:
    """Says how pairs are scored from `global` and `parts`; lower is better.

    name: "aligned", the only one: D_global + weight · D_local, where D_global is the Euclidean
        distance of the vectors, √(2 − 2·cosine), and D_local the shortest path through the
        distances of stripes (see aligned.py). Parts are stripes in order, top to bottom; galleries
        are cosine ones.
    weight: of D_local, more than 0, at most HEAVIEST.

    Raises UsageError for another name or weight.
    """

    name: str
    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            raise UsageError(f"there is no matcher {self.name!r}; there is {', '.join(NAMES)}")
        try:
            _weight(self.weight)
        except ValueError as error:
            raise UsageError(f"the matcher's {error}") from None

    def to_json(self) -> dict[str, Any]:
        """A JSON object with every field."""
        return {"name": self.name, "weight": self.weight}

    @classmethod
    def from_json(cls, data: Any) -> "Matcher":
        """The inverse of `to_json`. Raises ValueError for anything that is not a matcher,
        FormatTooNew for one of another name or with unknown fields: what they say decides the
        answers."""
        if not isinstance(data, dict) or not {"name", "weight"} <= data.keys():
            raise ValueError(f"the matcher is {shown(data)}, not an object with name and weight")
        name = text(data["name"], name="the matcher's name")
        if name not in NAMES:
            raise FormatTooNew(
                f"its items are compared by the matcher {shown(name)}, which this reid-index does "
                "not know; upgrade reid-index, or restore the file if that is no matcher"
            )
        unknown = data.keys() - {"name", "weight"}
        if unknown:
            raise FormatTooNew(
                "the matcher has fields that this reid-index does not know "
                f"({', '.join(map(shown, sorted(unknown)))}); upgrade reid-index"
            )
        return cls(name=name, weight=_weight(data["weight"]))


def _weight(value: Any) -> float:
    weight = number(value, name="weight", least=0, most=HEAVIEST)
    if weight == 0:
        raise ValueError("weight is 0: without parts no matcher is needed")
    return weight


def told(matcher: Matcher | None) -> str:
    """A matcher in a few words."""
    if matcher is None:
        return "vectors alone"
    return f"{matcher.name} parts, weight {matcher.weight:g}"
