"""What made a vector: the extractor and every setting that changes its numbers.

Two vectors can be compared only when their fingerprints are equal. This module knows nothing of
how extraction works.
"""

from dataclasses import asdict, dataclass, fields
from typing import Any

from .errors import BadShard, FormatTooNew
from .reading import number, shown, text, whole

_CHANNELS = 64
"""Numbers that mean and std may have: pictures have three channels, a few sensors some more."""


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """Identity of an extractor.

    name, version: which code; version changes when its numbers do.
    weights_sha256: of the weight file (of `.xml` then `.bin` for OpenVINO); None without weights.
    height, width: input size in pixels; None for embeddings made elsewhere, as all that follows.
    interpolation: "bilinear" or "bicubic", Pillow's antialiased filters.
    color_order: "RGB" or "BGR", as the model wants it.
    scale, mean, std: a pixel value v in 0…255 of channel c, in color_order, enters the model as
        (v · scale − mean[c]) / std[c].
    flip: whether the mirrored crop's vector was added.
    pooling: how a map became one vector, in the extractor's own word.
    """

    name: str
    version: str
    weights_sha256: str | None = None
    height: int | None = None
    width: int | None = None
    interpolation: str | None = None
    color_order: str | None = None
    scale: float | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    flip: bool = False
    pooling: str | None = None

    def to_json(self) -> dict[str, Any]:
        """A JSON object with every field."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }

    @classmethod
    def from_json(cls, data: Any) -> "Fingerprint":
        """The inverse of `to_json`. Raises BadShard for anything that is not a fingerprint,
        FormatTooNew for one with unknown fields: what they say decides the numbers."""
        if not isinstance(data, dict) or not {"name", "version"} <= data.keys():
            raise BadShard("the fingerprint is not an object with at least name and version")
        unknown = data.keys() - {field.name for field in fields(cls)}
        if unknown:
            raise FormatTooNew(
                f"the fingerprint has fields that this reid-index does not know "
                f"({', '.join(sorted(unknown))}); upgrade reid-index"
            )
        try:
            return cls(**{name: _checked(name, value) for name, value in data.items()})
        except ValueError as error:
            raise BadShard(f"the fingerprint's {error}") from None

    def differences(self, other: "Fingerprint") -> list[str]:
        """One line "field: mine ≠ theirs" for each field that differs; empty when equal."""
        return [
            f"{field.name}: {getattr(self, field.name)!r} ≠ {getattr(other, field.name)!r}"
            for field in fields(self)
            if getattr(self, field.name) != getattr(other, field.name)
        ]


def _checked(name: str, value: Any) -> Any:
    """A field as it is in a Fingerprint. Raises ValueError where it is of another type."""
    if name == "flip":
        if not isinstance(value, bool):
            raise ValueError(f"flip is {shown(value)}, not true or false")
        return value
    if name in ("name", "version"):
        return text(value, name=name)
    if value is None:
        return None
    if name in ("height", "width"):
        return whole(value, name=name, least=1)
    if name == "scale":
        return number(value, name=name)
    if name in ("mean", "std"):
        if not isinstance(value, list) or len(value) > _CHANNELS:
            raise ValueError(f"{name} is {shown(value)}, not a list of at most {_CHANNELS} numbers")
        return tuple(number(one, name=name) for one in value)
    return text(value, name=name)
