"""`reid verify`: is every byte of a gallery as it was written, and is what was erased gone?"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .compact import held
from .paths import PATH
from .progress import progress_bar
from .sources import interrupted_runs

if TYPE_CHECKING:
    from reid_index import Gallery
    from reid_index.erasure.receipt import Receipt
    from reid_index.erasure.traces import Traces

_MOST = 10
"""Items and files that an advice names; the others are counted."""


@click.command(name="verify", short_help="Check every byte and every count of GALLERY.")
@click.argument("gallery", type=PATH)
@click.option(
    "--repair",
    is_flag=True,
    help="Make damaged or stale indexes, graph and calibration again from the shards.",
)
@click.option(
    "--erased",
    type=PATH,
    metavar="RECEIPT",
    help="Prove that nothing is left of what `reid delete --receipt` wrote RECEIPT for.",
)
@click.pass_context
def command(ctx: click.Context, gallery: Path, repair: bool, erased: Path | None) -> None:
    """Read every byte of GALLERY; exit 1 and name the file if anything is wrong.

    Shards are never touched: what is damaged in them is to be restored from a copy. Of a damaged
    gallery nothing is proven.
    """
    from reid_index import Gallery
    from reid_index.erasure.receipt import read_receipt

    receipt = None if erased is None else read_receipt(erased)
    with Gallery.open(gallery) as opened:
        good = _repair(opened) if repair else _verify(opened)
        if good and receipt is not None:
            good = _prove(opened, receipt)
    if not good:
        ctx.exit(1)


def _verify(gallery: "Gallery") -> bool:
    """Print what is wrong, a line each; whether nothing is."""
    from reid_index import verify_gallery
    from reid_index.upkeep.verify import all_files, unlisted_files

    files = [entry.size for _, entry in all_files(gallery)]
    with progress_bar(sum(files), unit="B") as bar:
        problems = verify_gallery(gallery, progress=bar.update)
        bar.clear()
    for problem in problems:
        click.echo(problem)
    for note in unlisted_files(gallery):
        click.echo(note, err=True)
    if problems:
        remedy = (
            "restore what is named from a copy; where a command is named, it or --repair makes it "
            "again"
        )
        click.echo(f"reid: {gallery.path} is damaged: {remedy}", err=True)
        return False
    click.echo(
        f"{gallery.path} is whole: {len(gallery):,} items, {len(files)} files, {sum(files):,} bytes"
    )
    return True


def _repair(gallery: "Gallery") -> bool:
    """Print what was made again and what is left, a line each; whether the gallery is whole."""
    from reid_index.upkeep.verify import all_files, repair_gallery

    with progress_bar(sum(entry.size for _, entry in all_files(gallery)), unit="B") as bar:
        repaired = repair_gallery(gallery, progress=bar.update)
        bar.clear()
    for kind in repaired.made:
        click.echo(f"{gallery.path}: the {kind} was made again")
    for line in repaired.left:
        click.echo(line)
    if not repaired.whole:
        click.echo(f"reid: {gallery.path} is damaged: restore what is named from a copy", err=True)
    elif not repaired.made and not repaired.left:
        click.echo(f"{gallery.path} is whole: there was nothing to repair")
    else:
        click.echo(f"{gallery.path} is whole")
    return repaired.whole


def _prove(gallery: "Gallery", receipt: "Receipt") -> bool:
    """Print where something erased is still to be found, a line each, or else what was looked
    at; whether all is gone."""
    from reid_index.erasure.traces import bytes_below, find_traces

    size = bytes_below(gallery.path)
    with progress_bar(size, unit="B") as bar:
        traces = find_traces(gallery.path, receipt, progress=bar.update)
        bar.clear()
    for line in traces.lines:
        click.echo(line)
    what = "one item" if receipt.items == 1 else f"{receipt.items:,} items"
    erased = f"the {what} deleted from generation {receipt.generation}"
    if traces.lines:
        remedies = "; ".join(_remedies(gallery.path, traces))
        click.echo(f"reid: {gallery.path} still has bytes of {erased}: {remedies}", err=True)
        return False
    click.echo(
        f"nothing is left of {erased}: looked at {size:,} bytes, {gallery.items.num_columns} "
        f"columns and {gallery.manifest.stored:,} rows"
    )
    remarks = [f"{folder} is beside the gallery" for folder in interrupted_runs(gallery.path)]
    for remark in remarks + receipt.remarks():
        click.echo(f"not proven: {remark}")
    return True


def _remedies(path: Path, traces: "Traces") -> Iterator[str]:
    """What is to be done, one after the other."""
    from reid_index.store.attached import ATTACHABLE

    if traces.strays:
        names = ", ".join(traces.strays[:_MOST])
        yield f"remove what is no part of the gallery, {names}{_more(traces.strays)}"
    if traces.items:
        named = " ".join(f"--item {item}" for item in traces.items[:_MOST])
        yield (
            "delete the items that have brought some of it back, "
            f"`reid delete {path} {named}`{_more(traces.items)}"
        )
    if traces.held:
        yield f"end the readers, {', '.join(map(held, traces.held))}"
    for kind in traces.wrong:
        yield f"run `{ATTACHABLE[kind]} {path}`"
    if traces.compact or traces.items or traces.held:
        yield f"run `reid compact {path}`"
    elif not (traces.strays or traces.wrong):
        yield "no command removes it: make the gallery anew"


def _more(names: Sequence[object]) -> str:
    return f" and {len(names) - _MOST:,} more" if len(names) > _MOST else ""
