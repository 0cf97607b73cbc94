"""`reid delete`: items that are to be found no more."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .graph import tell_stale
from .paths import PATH
from .sources import told_unchanged

if TYPE_CHECKING:
    import pyarrow as pa

    from reid_index import Gallery

_ITEMS = 2**62
"""No item id is that large."""

_MOST = 10
"""Persons and sources that a dry run names; the others are counted."""


@click.command(name="delete", short_help="Delete items of GALLERY.")
@click.argument("gallery", type=PATH)
@click.option("--where", metavar="EXPR", help="All items for which this holds: person = '0012'")
@click.option("--item", "items", type=int, multiple=True, help="This item. Can be given again.")
@click.option(
    "--receipt",
    type=PATH,
    help="A new file, outside the gallery, by which reid verify --erased proves the erasure.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be deleted, and delete nothing.")
def command(
    gallery: Path, where: str | None, items: tuple[int, ...], receipt: Path | None, dry_run: bool
) -> None:
    """Delete the items for which --where holds, and those that --item names.

    They are found no more from now on; their bytes stay until `reid compact`. A receipt can only
    be had now: without one, nobody can prove later that they are gone.
    """
    from reid_index import Gallery
    from reid_index.errors import UsageError

    from .formats import counted

    if where is None and not items:
        raise UsageError("say what is to be deleted: --where EXPR, --item N, or both")
    if any(item >= _ITEMS for item in items):
        raise UsageError(f"--item {max(items)}: item ids are below 2^62 = {_ITEMS}")
    if receipt is not None and not receipt.name:
        raise UsageError("--receipt needs the name of a new file")
    if dry_run and receipt is not None:
        raise UsageError("--dry-run deletes nothing, so there is nothing to give a --receipt for")
    with Gallery.open(gallery) as opened:
        if dry_run:
            _tell(_found(opened, where, items))
            return
        with told_unchanged(gallery):
            deleted = opened.delete(where=where, items=items or None, receipt=receipt)
        if deleted == 0:
            click.echo(f"{gallery}: no item is like that; nothing was deleted", err=True)
            return
        line = f"{gallery}: {counted(deleted, 'item')} deleted, {len(opened):,} left; the bytes of "
        line += "deleted ones stay in it until `reid compact`"
        if receipt is None:
            line += ", and without a --receipt their erasure cannot be proven later"
        click.echo(line, err=True)
        tell_stale(opened)


def _found(gallery: "Gallery", where: str | None, items: tuple[int, ...]) -> "pa.Table":
    """The items that would be deleted."""
    import numpy as np
    import pyarrow as pa

    from reid_index.filters.where import compile_where

    mask = np.zeros(len(gallery), np.bool_)
    if where is not None:
        mask |= compile_where(where).mask(gallery.items)
    mask[[gallery.row_of(item) for item in items]] = True
    return gallery.items.filter(pa.array(mask))


def _tell(found: "pa.Table") -> None:
    from .formats import aligned

    rows = [["items", f"{found.num_rows:,}"]]
    if found.num_rows:
        for name in ("camera", "person"):
            counts = Counter(found[name].to_pylist())
            rows.append([f"{name}s", _counted(counts)])
        sources = [source or "-" for source in found["source"].to_pylist()]
        shown = sources[:_MOST]
        if len(sources) > _MOST:
            shown.append(f"… and {len(sources) - _MOST:,} more")
        rows += [["" if line else "sources", source] for line, source in enumerate(shown)]
    click.echo(aligned(rows), nl=False)


def _counted(counts: "Counter[object]") -> str:
    """Values with how many items each has, the most frequent first."""
    known = sorted(
        ((value, count) for value, count in counts.items() if value is not None),
        key=lambda one: (-one[1], one[0]),
    )
    parts = [f"{value}: {count:,}" for value, count in known[:_MOST]]
    if len(known) > _MOST:
        parts.append(f"{len(known) - _MOST:,} others")
    if counts[None]:
        parts.append(f"unknown: {counts[None]:,}")
    return ", ".join(parts)
