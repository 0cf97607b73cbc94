"""`reid index`: an approximate index, made (again) and kept with a gallery."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .paths import PATH

if TYPE_CHECKING:
    from reid_index import Gallery
    from reid_index.search.index import Index

KINDS = ("auto", "flat", "ivf", "ivf-sq8", "ivf-pq", "hnsw", "hnsw-sq8")


@click.command(name="index", short_help="Make an approximate index of GALLERY.")
@click.argument("gallery", type=PATH)
@click.option(
    "--kind",
    type=click.Choice(KINDS),
    default="auto",
    show_default=True,
    help="auto: by items, memory and recall; flat: none, every allowed item is compared.",
)
@click.option(
    "--recall",
    type=float,
    default=0.95,
    show_default=True,
    help="The share of the true matches that answers are to have; between 0 and 1.",
)
@click.option(
    "--memory-budget",
    type=click.IntRange(min=1),
    metavar="MIB",
    help="What auto may take, in MiB.  [default: half of the free memory]",
)
def command(gallery: Path, kind: str, recall: float, memory_budget: int | None) -> None:
    """Make an approximate index for galleries too large to compare with every item.

    `reid query --recall` uses it where it is faster; everything else stays exact. Filters are
    honoured, and answers in doubt are found again exactly. Items added later are compared one by
    one; run this, or `reid compact`, when they have become many.
    """
    from reid_index import Gallery

    memory = None if memory_budget is None else memory_budget * 2**20
    with Gallery.open(gallery) as opened:
        build_index(opened, kind, recall=recall, memory=memory)


def build_index(gallery: "Gallery", kind: str, *, recall: float, memory: int | None) -> None:
    """Make the index and say on standard error what was made. memory: bytes, or None."""
    from .progress import progress_bar

    former = gallery.attached("index")
    with progress_bar(2 * len(gallery), unit=" rows") as bar:  # to add, and to tune
        index = gallery.build_index(kind, recall=recall, memory=memory, progress=bar.update)
        bar.clear()
    line = _built(gallery, index, kind=kind, recall=recall)
    if index is None and former is not None:
        line += "; the former one was removed"
    click.echo(line, err=True)


def _built(gallery: "Gallery", index: "Index | None", *, kind: str, recall: float) -> str:
    """What was built, in a line, and how well it searches, in another."""
    if index is None:
        why = "" if kind == "flat" else ", comparing every allowed one being the better choice"
        return f"{gallery.path}: no index of {len(gallery):,} items was built{why}"
    facts, k = index.facts, 10
    reached = [
        f"{entry.effort.recall:.3f} of {entry.share:.0%}"
        for entry in facts.tuned
        if (entry.wanted, entry.k) == (recall, k)
    ]
    line = (
        f"{gallery.path}: {index.kind} index of {index.rows:,} items, built in "
        f"{facts.build_seconds:.1f} s, tuned in {facts.tune_seconds:.1f} s"
    )
    if not reached:
        return f"{line}\nrecall@{k} of {recall:g} not reached: all is compared exactly"
    return f"{line}\nrecall@{k} where a filter allows a share of them: {', '.join(reached)}"
