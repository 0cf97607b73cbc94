"""How pairs of segments make a score: what --aggregate and --proportion say, and the options of an
evaluation of tracklets by their segments."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from reid_index.errors import UsageError

Function = TypeVar("Function", bound=Callable[..., Any])


def aggregate_options(function: Function) -> Function:
    """Adds --aggregate, --proportion, --segment, --stride."""
    for option in reversed(
        [
            click.option(
                "--aggregate",
                metavar="sum|mean|above:S",
                help="Compare tracklets by their segments: the best pairs, or all that reach S "
                "[default of galleries of segments: mean]",
            ),
            click.option(
                "--proportion",
                type=float,
                metavar="P",
                help="How many are the best: this share of all pairs [default: 0.2]",
            ),
            click.option(
                "--segment",
                type=click.IntRange(1),
                metavar="N",
                help="Of dataset folders: frames in a segment [default: the other side's, or 8]",
            ),
            click.option(
                "--stride",
                type=click.IntRange(1),
                metavar="N",
                help="… from one to the next [default: the other side's, or half of --segment]",
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
