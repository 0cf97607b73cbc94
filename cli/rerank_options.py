"""Options that say how to re-rank."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from reid_index.errors import UsageError

if TYPE_CHECKING:
    from reid_index import Reranking

Function = TypeVar("Function", bound=Callable[..., Any])


def rerank_options(function: Function) -> Function:
    """Adds --k1, --k2, --lambda, whose defaults are the paper's."""
    for option in reversed(
        [
            click.option("--k1", type=int, default=20, show_default=True, help="Re-ranking: list."),
            click.option("--k2", type=int, default=6, show_default=True, help="… averaged over."),
            click.option(
                "--lambda",
                "lambda_",
                type=float,
                default=0.3,
                show_default=True,
                help="… share of the original distance.",
            ),
        ]
    ):
        function = option(function)
    return function


def refuse_given(*names: str, without: str) -> None:
    """Raise UsageError where one of these parameters was given on the command line: they say
    nothing without the option named."""
    context = click.get_current_context()
    for name in names:
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            raise UsageError(f"--{name.strip('_').replace('_', '-')} belongs to {without}")


def make_reranking(*, k1: int, k2: int, lambda_: float) -> "Reranking":
    """What the options say. Raises UsageError."""
    from reid_index import Reranking

    return Reranking(k1=k1, k2=k2, lambda_=lambda_)
