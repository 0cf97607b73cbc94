"""Options of an evaluation of tracklets by their segments."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

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
