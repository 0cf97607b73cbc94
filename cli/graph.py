"""`reid graph`: the neighbour graph that re-ranking uses, made (again) and kept with a gallery."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .paths import PATH
from .rerank_options import make_reranking, rerank_options

if TYPE_CHECKING:
    from reid_index import Gallery, Reranking


@click.command(name="graph")
@click.argument("gallery", type=PATH)
@click.option(
    "--mode",
    type=click.Choice(["auto", "exact", "approximate"]),
    default="auto",
    show_default=True,
    help="Compare all pairs, or ask an approximate index; auto: exact up to 300,000 items.",
)
@rerank_options
def command(gallery: Path, mode: str, k1: int, k2: int, lambda_: float) -> None:
    """Make the neighbour graph that re-ranking uses.

    `reid query --rerank` needs it in galleries of more than some 10,000 items. Adding and
    deleting items make it stale; run this, or `reid compact`, then.
    """
    from reid_index import Gallery

    with Gallery.open(gallery) as opened:
        build_graph(opened, make_reranking(k1=k1, k2=k2, lambda_=lambda_), mode=mode)


def build_graph(gallery: "Gallery", reranking: "Reranking", *, mode: str) -> None:
    """Make the graph and say on standard error what was made."""
    wanted = {"auto": None, "exact": True, "approximate": False}[mode]
    kind = "exact" if gallery.build_graph(reranking, exact=wanted) else "approximate"
    click.echo(
        f"{gallery.path}: neighbour graph of {len(gallery):,} items, k1 = {reranking.k1}, {kind}",
        err=True,
    )


def tell_stale(gallery: "Gallery") -> None:
    """Say on standard error that there is a graph that can no longer be used, if there is one."""
    if len(gallery) and gallery.attached("graph") is not None and gallery.is_stale("graph"):
        click.echo(
            f"{gallery.path}: its neighbour graph is stale now; `reid graph` or `reid compact` "
            "makes it again",
            err=True,
        )
