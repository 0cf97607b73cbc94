"""Options of a search whose answer are candidates: videos, tracks, compared segment by segment."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from reid_index.errors import UsageError

from .paths import PATH

Function = TypeVar("Function", bound=Callable[..., Any])

_OF_ITEMS = {
    "threshold": "it is of single items; --aggregate above:S counts the pairs that reach S",
    "false_match_rate": "it belongs to --threshold, which is of single items",
    "combine": "the segments of a target are compared one by one",
    "recall": "no index is asked for candidates",
    "rerank": "re-ranking is of single items",
    "search_device": "candidates are compared on the processor",
}
"""Parameters of `reid query` that say nothing where the answer is candidates, and why."""


def candidate_options(function: Function) -> Function:
    """Adds the options that say which segments a target has, and how scores are made of pairs."""
    for option in reversed(
        [
            click.option(
                "--tracks", type=PATH, help="The boxes of the people in a TARGET that is a video."
            ),
            click.option("--track", metavar="T", help="Whom of them to look for."),
            click.option(
                "--segment",
                type=click.IntRange(1),
                metavar="N",
                help="Frames in a segment of the target [default: as in GALLERY, else 8]",
            ),
            click.option(
                "--stride",
                type=click.IntRange(1),
                metavar="N",
                help="… from one to the next [default: half of --segment, else as in GALLERY]",
            ),
            click.option(
                "--aggregate",
                metavar="sum|mean|above:S",
                help="A candidate's score: of its best pairs of segments, or of all that reach S. "
                "[default: mean; sum where the model is of co-attention]",
            ),
            click.option(
                "--proportion",
                type=float,
                metavar="P",
                help="How many are the best: this share of all pairs [default: 0.2]",
            ),
        ]
    ):
        function = option(function)
    return function


@dataclass(frozen=True)
class Aggregate:
    """How a candidate's score is made of its pairs. how: "sum", "mean" or "above"; above: the S of
    the latter, else None; proportion: which share of the pairs are the best."""

    how: str
    above: float | None
    proportion: float

    @property
    def rule(self) -> str:
        """In words."""
        if self.above is not None:
            return f"the sum of all pairs of segments that reach {self.above:g}"
        return f"the {self.how} of the best {100 * self.proportion:g} % of all pairs of segments"


def parse_aggregate(text: str | None, proportion: float | None, *, default: str) -> Aggregate:
    """What --aggregate and --proportion say. Raises UsageError."""
    how, colon, limit = (text or default).partition(":")
    if how not in ("sum", "mean", "above") or bool(colon) != (how == "above"):
        raise UsageError(f"--aggregate {text!r}: sum, mean or above:S, please")
    above = None
    if how == "above":
        try:
            above = float(limit)
        except ValueError:
            above = math.nan
        if not math.isfinite(above):
            raise UsageError(f"--aggregate {text!r}: above:S, where S is a number, please")
        if proportion is not None:
            raise UsageError(f"--aggregate {text} takes all that reach it: leave --proportion out")
    share = 0.2 if proportion is None else proportion
    if not 0 < share <= 1:
        raise UsageError(f"--proportion must be above 0 and at most 1, got {share:g}")
    return Aggregate(how, above, share)


def refuse_candidate_options(**given: Path | str | float | None) -> None:
    """Raise UsageError where one of the options is given and no candidates are asked for."""
    for name, value in given.items():
        if value is not None:
            raise UsageError(
                f"--{name} belongs to videos: give a video, or say --aggregate sum to compare the "
                "tracks of a gallery of crops"
            )


def refuse_with_candidates() -> None:
    """Raise UsageError where an option is given on the command line that is of single items."""
    context = click.get_current_context()
    for name, reason in _OF_ITEMS.items():
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            raise UsageError(
                f"--{name.replace('_', '-')} says nothing where videos and tracks are compared: "
                f"{reason}"
            )
