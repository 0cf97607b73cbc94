"""Options of filtering by the target's attributes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from reid_index.errors import UsageError

if TYPE_CHECKING:
    from reid_index.attributes import Threshold

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class AutoFilter:
    """How a target's attributes filter; see reid_index/filters/agreement.py."""

    threshold: float | None
    thresholds: "Mapping[str, Threshold]"
    unused: tuple[str, ...]


def auto_filter_options(function: Function) -> Function:
    """Adds --auto-filter, --filter-at, --no-filter-by."""
    for option in reversed(
        [
            click.option(
                "--auto-filter",
                metavar="T|FILE",
                help="Leave out items that disagree with the target's attributes, where both are "
                "known with confidence T (0.7), or as a file of thresholds says.",
            ),
            click.option(
                "--filter-at",
                multiple=True,
                metavar="NAME=T",
                help="… this attribute from another confidence on, whatever its word. Can be "
                "given again.",
            ),
            click.option(
                "--no-filter-by",
                multiple=True,
                metavar="NAME",
                help="… not by this attribute: a bag can be put down. Can be given again.",
            ),
        ]
    ):
        function = option(function)
    return function


def parse_auto_filter(
    text: str | None, at: tuple[str, ...], unused: tuple[str, ...]
) -> AutoFilter | None:
    """What the options say, None where they ask for nothing. Raises UsageError, and BadSource for
    a file of thresholds that cannot be read."""
    if text is None:
        for option, given in (("--filter-at", at), ("--no-filter-by", unused)):
            if given:
                raise UsageError(f"{option} belongs to --auto-filter")
        return None
    threshold = _number(text)
    thresholds: dict[str, Threshold] = {}
    if threshold is None:
        from reid_index.filters.agreement import read_thresholds

        if not Path(text).exists():
            raise UsageError(
                f"--auto-filter {text}: a confidence from 0 to 1, or a file of thresholds, please"
            )
        thresholds = read_thresholds(Path(text))
    elif not 0 <= threshold <= 1:
        raise UsageError(f"--auto-filter {text}: a confidence is from 0 to 1")
    for one in at:
        name, _, value = one.partition("=")
        least = _number(value)
        if least is None or not 0 <= least <= 1:
            raise UsageError(
                f"--filter-at {one}: NAME=T, please, with T from 0 to 1, as in hat=0.95"
            )
        if name in unused:
            raise UsageError(f"--filter-at {one} and --no-filter-by {name} clash: give one of them")
        thresholds[name] = least
    if threshold is None and not thresholds:
        raise UsageError(
            f"--auto-filter {text}: it names no attribute, so nothing would be filtered; add "
            "--filter-at NAME=T, or leave it out"
        )
    return AutoFilter(threshold=threshold, thresholds=thresholds, unused=unused)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
