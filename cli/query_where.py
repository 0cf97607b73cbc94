"""`reid query` without a target: the items that an expression describes, the surest first."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from reid_index.errors import UsageError

from .cameras import parse_cameras

if TYPE_CHECKING:
    from reid_index import Gallery

_OF_TARGETS = (
    *("box", "boxes", "position", "combine", "false_match_rate", "recall", "exact", "shortlist"),
    *("tracks", "track", "segment", "stride", "aggregate", "proportion"),
    *("rerank", "k1", "k2", "lambda_", "rerank_graph", "person"),
    *(
        "auto_filter",
        "filter_at",
        "no_filter_by",
        "weights",
        "attributes",
        "device",
        "search_device",
    ),
)
"""Parameters of `reid query` that say nothing where there is no target."""


@dataclass(frozen=True, kw_only=True)
class Described:
    """What the command line says of a search without a target."""

    where: str
    not_camera: tuple[str, ...]
    k: int
    threshold: str | None
    title: str | None
    root: Path | None


def refuse_of_targets() -> None:
    """Raise UsageError where an option is given on the command line that is of a target."""
    context = click.get_current_context()
    for name in _OF_TARGETS:
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            raise UsageError(
                f"--{name.strip('_').replace('_', '-')} belongs to a target: name a TARGET or "
                "--item N, or leave it out"
            )


def answer_description(
    gallery: "Gallery", asked: Described, *, form: str, times: Mapping[str, float]
) -> tuple[str, list[str], str]:
    """The answer in the form asked for, lines for whoever reads it, and how it was found. times:
    seconds of the stages so far. Raises UsageError, WhereError."""
    from .formats import csv_text, jsonl, named_attributes, table

    result = gallery.select(
        asked.where,
        k=asked.k,
        not_camera=parse_cameras(asked.not_camera, None),
        threshold=_confidence(asked.threshold),
    )
    attributes = named_attributes(asked.where, gallery.items.schema)
    notes = [] if result.note is None else [result.note]
    if form == "html":
        from .item_sheet import item_sheet

        text, hidden = item_sheet(
            gallery,
            result,
            images=[],
            label=asked.where,
            person=None,
            is_described=True,
            attributes=attributes,
            title=asked.title or f"A description in {gallery.path.absolute().name}",
            rules={"not camera": ", ".join(asked.not_camera) or "-"},
            root=asked.root,
        )
        notes += [] if hidden is None else [hidden]
    elif form == "csv":
        text = csv_text(result, columns=gallery.items.column_names, is_described=True)
    elif form == "jsonl":
        text = jsonl(result)
    else:
        text = table(result, attributes=attributes, is_described=True)
    stages = {**times, **result.seconds}
    spent = " · ".join(f"{name} {1000 * seconds:.1f}" for name, seconds in stages.items())
    lines = [
        f"generation  {result.generation}",
        f"where       {asked.where}",
        f"not camera  {', '.join(asked.not_camera) or '-'}",
        f"allowed     {result.allowed:,} of {result.rows:,} items",
        f"plan        {result.plan}",
        f"exact       {'yes' if result.exact else 'no'}",
        f"ms          {spent}",
    ]
    return text, notes, "\n".join(lines)


def _confidence(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        raise UsageError(
            f"--threshold {text!r}: without a target it is a confidence from 0 to 1"
        ) from None
