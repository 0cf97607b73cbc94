"""Options that say which extractor makes the vectors and how its model is fed."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from reid_index.errors import UsageError

from .paths import PATH

if TYPE_CHECKING:
    from extractors.preprocess import Preprocess, Size
    from extractors.weighting import Weighting

Function = TypeVar("Function", bound=Callable[..., Any])


def preprocess_options(function: Function) -> Function:
    """Adds --card and the options that replace one."""
    for option in reversed(
        [
            click.option(
                "--card",
                type=PATH,
                help="Preprocessing card of an onnx or openvino model [default: NAME.json beside]",
            ),
            click.option("--input-size", metavar="HxW", help="Instead of a card: input size."),
            click.option("--color-order", type=click.Choice(["RGB", "BGR"])),
            click.option("--scale", type=float, help="What pixel values 0…255 are multiplied by."),
            click.option("--mean", metavar="A,B,C", help="Subtracted after scaling."),
            click.option("--std", metavar="A,B,C", help="Divided by after that."),
            click.option("--interpolation", type=click.Choice(["bilinear", "bicubic"])),
        ]
    ):
        function = option(function)
    return function


def weighting_option(function: Function) -> Function:
    """Adds --weighting."""
    return click.option(
        "--weighting",
        metavar="NAME|FILE",
        help="Of a haa model: adaptive, plain, rule or a table, FILE.csv [default: adaptive]",
    )(function)


def attributes_option(text: str) -> Callable[[Function], Function]:
    """Adds --attributes, a model's file."""
    return click.option("--attributes", type=PATH, metavar="MODEL", help=text)


def make_weighting(said: str | None) -> "Weighting | None":
    """What --weighting says; None where it says nothing. Raises UsageError, BadSource."""
    if said is None:
        return None
    from extractors.weighting import weighting_of

    return weighting_of(said)


def make_preprocess(
    *,
    card: Path | None,
    input_size: str | None,
    color_order: str | None,
    scale: float | None,
    mean: str | None,
    std: str | None,
    interpolation: str | None,
) -> "Preprocess | Size | None":
    """What the options say; None when they say nothing. All or none are needed, but that the input
    size may stand alone, for extractors that know all else."""
    given = {
        "--input-size": input_size,
        "--color-order": color_order,
        "--scale": scale,
        "--mean": mean,
        "--std": std,
        "--interpolation": interpolation,
    }
    missing = [name for name, value in given.items() if value is None]
    if card is not None:
        if len(missing) < len(given):
            raise UsageError("--card and the options that replace it clash; give one of the two")
        from extractors.preprocess import read_card

        return read_card(card)
    if len(missing) == len(given):
        return None
    if len(missing) == len(given) - 1 and input_size is not None:
        from extractors.preprocess import Size

        return Size(*map(int, _numbers(input_size, "x", 2, "--input-size")))
    if missing:
        raise UsageError(f"preprocessing without a card needs {', '.join(missing)} too")
    from extractors.preprocess import preprocess_from

    height, width = _numbers(input_size, "x", 2, "--input-size")
    return preprocess_from(
        {
            "height": int(height),
            "width": int(width),
            "color_order": color_order,
            "scale": scale,
            "mean": _numbers(mean, ",", 3, "--mean"),
            "std": _numbers(std, ",", 3, "--std"),
            "interpolation": interpolation,
        },
        where="the options",
    )


def _numbers(text: str | None, separator: str, count: int, option: str) -> list[float]:
    try:
        numbers = [float(part) for part in (text or "").lower().split(separator)]
    except ValueError:
        numbers = []
    if len(numbers) != count:
        raise UsageError(f"{option} {text!r}: {count} numbers with {separator!r} between, please")
    return numbers
