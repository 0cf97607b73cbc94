"""Options of a search whose answer are candidates: videos, tracks, compared segment by segment."""

from collections.abc import Callable
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
