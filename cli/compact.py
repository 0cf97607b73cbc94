"""`reid compact`: deleted items are erased, shards merged, and what was made of them made again."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .paths import PATH
from .progress import progress_bar
from .sources import interrupted_runs, told_unchanged

if TYPE_CHECKING:
    from reid_index.store.lease import Held
    from reid_index.upkeep.compact import Compacted


@click.command(name="compact", short_help="Erase what was deleted from GALLERY, and merge shards.")
@click.argument("gallery", type=PATH)
@click.option(
    "--no-remake", is_flag=True, help="Do not make the graph, index and calibration again."
)
@click.pass_context
def command(ctx: click.Context, gallery: Path, no_remake: bool) -> None:
    """Write GALLERY without deleted items, and remove everything that still has their bytes.

    A generation that a process is still reading stays; it is named then, and the exit code is 1:
    run this again once that process has ended.
    """
    from reid_index import Gallery

    with Gallery.open(gallery) as opened, progress_bar(len(opened), unit=" rows") as bar:
        with told_unchanged(gallery):
            done = opened.compact(remake=not no_remake, progress=bar.update)
        bar.clear()
    _tell(gallery, done)
    for folder in interrupted_runs(gallery):
        click.echo(f"{folder}: it may hold deleted items: finish that run or delete it", err=True)
    if done.pending:
        generations = "; ".join(map(held, done.pending))
        click.echo(
            f"erasure pending: {generations}; run `reid compact` again once they have ended or "
            "refreshed",
            err=True,
        )
        ctx.exit(1)


def _tell(gallery: Path, done: "Compacted") -> None:
    from .formats import aligned

    rows = [
        ["items", f"{done.rows:,}"],
        removed(done),
        ["shards", f"{done.shards_before:,} before, {done.shards_after:,} now"],
        _freed(done),
    ]
    if done.remade:
        rows.append(["made again", ", ".join(done.remade)])
    rows += [["left out", f"{kind}: {why}"] for kind, why in done.dropped]
    click.echo(f"{gallery}:\n{aligned(rows)}", nl=False)


def removed(done: "Compacted") -> list[str]:
    """A row of a table: what is gone."""
    from .formats import counted

    if not done.removed:
        # Deleted items may be among it: an earlier run has left them out, and readers held them.
        return [
            "removed",
            "what only former generations had" if done.freed_bytes > 0 else "nothing",
        ]
    deleted = counted(done.removed, "deleted item")
    if done.pending:
        return ["left out", f"{deleted}, gone from the folder when their readers have ended"]
    return ["removed", deleted]


def _freed(done: "Compacted") -> list[str]:
    if done.freed_bytes >= 0:
        return ["freed", f"{done.freed_bytes:,} bytes"]
    until = " until then" if done.pending else ""
    return ["grew", f"by {-done.freed_bytes:,} bytes{until}"]


def held(generation: "Held") -> str:
    """Which generation is held by whom, in words."""
    who = processes(generation.processes) or "processes that this system does not name"
    return f"generation {generation.generation} is held by {who}"


def processes(ids: Sequence[int]) -> str:
    """Process ids, with the names of their commands where the system tells."""
    return ", ".join(f"{one} ({name})" if (name := _name(one)) else str(one) for one in ids)


def _name(process: int) -> str | None:
    from .formats import printable

    try:
        return printable(Path(f"/proc/{process}/comm").read_text(errors="replace").strip())
    except OSError:
        return None
