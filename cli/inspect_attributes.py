"""`reid inspect --attributes`: what is known of attributes, how surely, and who says so."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reid_index import Gallery

_BINS = 10
_BARS = "▁▂▃▄▅▆▇█"
_NONE = "·"
_WORDS = 8
"""Words that a table has of an attribute; further ones are counted."""


def attribute_facts(gallery: "Gallery") -> dict[str, Any]:
    """The attributes of the items, and `edges`, of the bins in which their confidences are counted:
    from 0.5, where none is below, else from 0, up to 1, which the last bin has, too.

    Of each attribute: how many items it is known of, the words, how many items have each, and who
    says them; `certain`, how many have no confidence, as somebody said so; `confidence`, how many
    of the others are in each bin.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    from reid_index.attributes import LABEL, columns_of, names_in

    items = gallery.items
    confidences: dict[str, Any] = {}
    attributes = []
    for name in names_in(items.column_names):
        of_value, of_confidence, of_origin = columns_of(name)
        value = items[of_value]
        known = value.is_valid()
        said = items.filter(known)
        is_set = pa.types.is_list(value.type)
        words = (pc.list_flatten(value) if is_set else value.drop_null()).cast(pa.string())
        told = np.empty(0, np.float32)
        if of_confidence in said.column_names:
            told = said[of_confidence].drop_null().to_numpy()
        confidences[name] = told
        origins = pa.chunked_array([[LABEL] * said.num_rows], pa.string())
        if of_origin in said.column_names:
            origins = pc.fill_null(said[of_origin].cast(pa.string()), LABEL)
        attributes.append(
            {
                "name": name,
                "sets": is_set,
                "known": said.num_rows,
                "unknown": items.num_rows - said.num_rows,
                "words": _counts(words),
                "origins": _counts(origins),
                "certain": said.num_rows - len(told),
            }
        )
    first = 0.0 if any((told < 0.5).any() for told in confidences.values()) else 0.5
    edges = np.linspace(first, 1, _BINS + 1)
    for one in attributes:
        one["confidence"] = np.histogram(confidences[one["name"]], edges)[0].tolist()
    return {"items": items.num_rows, "edges": edges.round(4).tolist(), "attributes": attributes}


def _counts(texts: Any) -> dict[str, int]:
    """Of each text how often it is there, the most frequent first."""
    import pyarrow.compute as pc

    counted = [(one["values"], one["counts"]) for one in pc.value_counts(texts).to_pylist()]
    return dict(sorted(counted, key=lambda one: (-one[1], one[0])))


def attribute_table(facts: dict[str, Any]) -> str:
    """The same for people; each attribute has a line, its confidences a bar for each bin."""
    from .formats import aligned

    if not facts["attributes"]:
        return "no attribute is known of any item: `reid attributes` tells them\n"
    first, last = facts["edges"][0], facts["edges"][-1]
    rows = [["attribute", "known", "unknown", "words", "certain", f"sure {first:g}…{last:g}", "by"]]
    for one in facts["attributes"]:
        rows.append(
            [
                one["name"],
                f"{one['known']:,}",
                f"{one['unknown']:,}",
                _listed(one["words"]),
                f"{one['certain']:,}",
                _bars(one["confidence"]),
                _listed(one["origins"]),
            ]
        )
    return aligned(rows)


def _listed(counts: dict[str, int]) -> str:
    shown = [f"{text} {count:,}" for text, count in list(counts.items())[:_WORDS]]
    if len(counts) > _WORDS:
        shown.append(f"{len(counts) - _WORDS:,} more")
    return ", ".join(shown) or "-"


def _bars(counts: Sequence[int]) -> str:
    """A bar for each count, the largest as high as bars are; - where all are 0."""
    most = max(counts)
    if most == 0:
        return "-"
    return "".join(
        _NONE if count == 0 else _BARS[(count * len(_BARS) - 1) // most] for count in counts
    )
