"""Filtering by a target's attributes: from what is known of it to what came of it, in words."""

from collections.abc import Mapping, Sequence
from typing import Any

from reid_index.errors import UsageError
from reid_index.filters.agreement import Agreed, Agreement, Compared, known_of

from .attribute_options import AutoFilter
from .formats import aligned


def agreement_of(
    attributes: Mapping[str, Sequence[Any]] | None, asked: AutoFilter, *, label: str, path: object
) -> Agreement:
    """Of the columns of a target's pictures, or of its item. label: what to call the target; path:
    of the gallery. Raises UsageError where they tell nothing."""
    known = known_of(attributes or {})
    if not known:
        raise UsageError(
            f"{label}: nothing is known of its attributes, so --auto-filter has nothing to go by. "
            "The model of a gallery of `reid build --attributes MODEL` predicts them, "
            f"`reid attributes {path} --from FILE` tells those of its items; or say with --where "
            "what it looks like"
        )
    return Agreement(
        known,
        threshold=asked.threshold,
        thresholds=asked.thresholds,
        unused=asked.unused,
    )


def explained(agreed: Agreed) -> str:
    """Lines on each attribute: the target's words, their confidence, from which on it counts, of
    items with other words, too, where they have thresholds of their own, how many items it dropped,
    and why none where it was not used."""
    rows = [["attribute", "target", "confidence", "threshold", "dropped", "only by it", ""]]
    for one in agreed.attributes:
        sure = "certain" if one.confidence is None else f"{one.confidence:.3f}"
        is_used = one.unused is None
        rows.append(
            [
                one.name,
                ", ".join(one.words) or "-",
                sure if one.words else "-",
                _threshold(one),
                f"{one.dropped:,}" if is_used else "-",
                f"{one.only:,}" if is_used else "-",
                one.unused or "",
            ]
        )
    first = f"auto-filter {agreed.dropped:,} of {agreed.allowed:,} items dropped\n"
    return first + "".join(f"  {line}\n" for line in aligned(rows).splitlines()).rstrip("\n")


def _threshold(one: Compared) -> str:
    """As "0.9", or "0.9, items 0.7 … 0.8"."""
    if one.threshold is None:
        return "-"
    text = f"{one.threshold:g}"
    if isinstance(one.of_items, Mapping):
        others = [
            least
            for word, least in one.of_items.items()
            if least is not None and word not in one.words
        ]
        ends = [f"{end:g}" for end in sorted({min(others), max(others)})] if others else ["never"]
        text += f", items {' … '.join(ends)}"
    return text
