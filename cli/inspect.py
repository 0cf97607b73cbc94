"""`reid inspect`: what is in a gallery."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from reid_index.errors import UsageError

from .compact import processes
from .inspect_attributes import attribute_facts, attribute_table
from .paths import PATH
from .sources import interrupted_runs

if TYPE_CHECKING:
    from reid_index import Gallery
    from reid_index.store.manifest import AttachedEntry


_CHANGES = ("added", "deleted", "removed", "told")


@click.command(name="inspect", short_help="Say what GALLERY holds.")
@click.argument("gallery", type=PATH)
@click.option(
    "--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True
)
@click.option("--history", is_flag=True, help="Instead: what made each generation, and when.")
@click.option(
    "--attributes",
    is_flag=True,
    help="Instead: of each attribute its words, how surely they are known, and who says so.",
)
def command(gallery: Path, form: str, history: bool, attributes: bool) -> None:
    """Say what GALLERY holds: items, columns, cameras, extractor, files."""
    from reid_index import Gallery

    if history and attributes:
        raise UsageError("--history and --attributes are two questions: ask one after the other")
    facts: dict[str, Any] | list[dict[str, Any]]
    with Gallery.open(gallery) as opened:
        if attributes:
            facts = attribute_facts(opened)
        else:
            facts = _history(opened) if history else _facts(opened)
    if form == "json":
        click.echo(json.dumps(facts, indent=1, ensure_ascii=False))
    elif isinstance(facts, list):
        _print_history(facts)
    elif attributes:
        click.echo(attribute_table(facts), nl=False)
    else:
        _print_facts(facts)


def _print_facts(facts: dict[str, Any]) -> None:
    from .formats import aligned

    columns, index = facts.pop("columns"), facts["index"]
    if facts["segments"] is None:
        del facts["segments"]
    else:
        facts["segments"] = _segments_line(facts["segments"])
    facts["index"] = None if index is None else _index_line(index)
    if facts["deleted"]:
        facts["deleted"] = f"{facts['deleted']:,}, whose bytes stay until `reid compact`"
    held = [f"generation {one} by {processes(ids)}" for one, ids in facts["held"].items()]
    facts["held"] = "; ".join(held) or None
    if not facts["overlays"]:
        del facts["overlays"]
    if facts["owed"]:
        facts["owed"] = f"{', '.join(facts['owed'])} (`reid compact` makes it)"
    else:
        del facts["owed"]
    if facts["unfinished"]:
        folders = ", ".join(facts["unfinished"])
        facts["unfinished"] = f"{folders} (finish that run by the same command, or delete it)"
    else:
        del facts["unfinished"]
    click.echo(aligned([[name.replace("_", " "), _cell(value)] for name, value in facts.items()]))
    rows = [["column", "type", "known", "unknown"]]
    rows += [[c["name"], c["type"], f"{c['known']:,}", f"{c['unknown']:,}"] for c in columns]
    click.echo(aligned(rows), nl=False)


def _facts(gallery: "Gallery") -> dict[str, Any]:
    import pyarrow.compute as pc

    from reid_index.matcher import told

    manifest, items = gallery.manifest, gallery.items
    cameras = pc.value_counts(items["camera"].drop_null()).to_pylist()
    return {
        "items": len(gallery),
        "deleted": manifest.deleted,
        "generation": manifest.generation,
        "held": _held(gallery),
        "format": _format(gallery),
        "created": manifest.created.isoformat(),
        "metric": str(gallery.metric),
        "matcher": None if gallery.matcher is None else told(gallery.matcher),
        "dimensions": gallery.dim,
        "stored_as": manifest.dtype,
        "shards": len(manifest.shards),
        "overlays": len(manifest.overlays),
        "bytes": sum(file.size for shard in manifest.shards for file in shard.files.values())
        + sum(overlay.entry.size for overlay in manifest.overlays),
        "segments": _segments(gallery),
        "persons_labelled": pc.count_distinct(items["person"]).as_py(),
        "cameras": {
            str(count["values"]): count["counts"]
            for count in sorted(cameras, key=lambda count: count["values"])
        },
        "attached": {one.kind: _attached(gallery, one) for one in manifest.attached},
        "owed": [owed.kind for owed in manifest.owed],
        "unfinished": [str(folder) for folder in interrupted_runs(gallery.path)],
        "index": _index(gallery),
        "extractor": gallery.fingerprint.to_json(),
        "weights": manifest.recipe.get("weights"),
        "columns": [
            {
                "name": field.name,
                "type": str(field.type),
                "known": items.num_rows - items[field.name].null_count,
                "unknown": items[field.name].null_count,
            }
            for field in items.schema
        ],
    }


def _format(gallery: "Gallery") -> str:
    """Of the manifest, as it is written there."""
    manifest = json.loads((gallery.path / gallery.manifest.file_name).read_bytes())
    return ".".join(map(str, manifest["format"]))


def _held(gallery: "Gallery") -> dict[str, list[int]]:
    """Generation → other processes that read it, where there are any and the system names them."""
    found = {}
    for past in gallery.history():
        ids = _readers(gallery, past.generation)
        if ids:
            found[str(past.generation)] = ids
    return found


def _readers(gallery: "Gallery", generation: int) -> list[int]:
    from reid_index.store.lease import holders
    from reid_index.store.manifest import manifest_name

    path = gallery.path / manifest_name(generation)
    try:
        return [process for process in holders(path) if process != os.getpid()]
    except FileNotFoundError:  # removed by a compaction
        return []


def _history(gallery: "Gallery") -> list[dict[str, Any]]:
    """A record for each generation, oldest first."""
    records = []
    for past in gallery.history():
        event = past.event
        records.append(
            {
                "generation": past.generation,
                "created": past.created.isoformat(),
                "what": event.what,
                "kind": event.kind,
                "added": event.rows if event.what == "add" else 0,
                "deleted": event.rows if event.what == "delete" else 0,
                "removed": event.rows if event.what in ("compact", "rebuild") else 0,
                "told": event.rows if event.what == "attributes" else 0,
                "items": past.rows,
                "held_by": _readers(gallery, past.generation),
            }
        )
    return records


def _print_history(records: list[dict[str, Any]]) -> None:
    from .formats import aligned

    rows = [["generation", "created", "what", "rows", "items", "held by"]]
    for one in records:
        changes = [f"{one[name]:,} {name}" for name in _CHANGES if one[name]]
        rows.append(
            [
                f"{one['generation']:,}",
                one["created"][:19] + "Z",
                " ".join(filter(None, (one["what"], one["kind"]))),
                ", ".join(changes) or "-",
                "-" if one["items"] is None else f"{one['items']:,}",
                processes(one["held_by"]) or "-",
            ]
        )
    click.echo(aligned(rows), nl=False)


def _attached(gallery: "Gallery", entry: "AttachedEntry") -> str:
    """The folder of an attachment, and what is the matter with it."""
    from reid_index.store.attached import made_again
    from reid_index.store.commit import wrong_size

    wrong = wrong_size(gallery.path, entry)
    if wrong:
        return f"{entry.folder} (damaged: {wrong}{made_again(entry.kind)})"
    is_stale = entry.kind == "graph" and not gallery.manifest.is_fresh(entry)
    return f"{entry.folder} (stale)" if is_stale else entry.folder


def _index(gallery: "Gallery") -> dict[str, Any] | None:
    """What the manifest says of the approximate index, if there is one."""
    manifest = gallery.manifest
    entry = manifest.attachment("index")
    if entry is None:
        return None
    covered = [shard for shard in manifest.shards if shard.folder in entry.covers]
    rows = sum(shard.rows - shard.gone for shard in covered)
    return {
        "kind": entry.about.get("kind"),
        "items": rows,
        "later_items": manifest.rows - rows,
        "recall_wanted": entry.about.get("recall_wanted"),
        "recall_reached": entry.about.get("recall_reached", {}),
    }


def _segments(gallery: "Gallery") -> dict[str, Any] | None:
    """How the gallery's tracks were cut, and what they are of; None where it is of crops."""
    import pyarrow.compute as pc

    from reid_index.store.tracks import roots_by_row, tracks_of

    cut = gallery.manifest.recipe.get("segments")
    if cut is None:
        return None
    shards = gallery.manifest.shards
    roots = roots_by_row(gallery.roots, [shard.rows - shard.gone for shard in shards])
    items = gallery.items.append_column("root of the row", roots)
    videos = items.filter(pc.is_valid(items["video"])).group_by(["root of the row", "video"])
    spans = videos.aggregate([("start_s", "min"), ("end_s", "max")])
    seconds = pc.sum(pc.subtract(spans["end_s_max"], spans["start_s_min"])).as_py() or 0.0
    return {
        "length": cut["length"],
        "stride": cut["stride"],
        "candidates": int(tracks_of(items, roots).max(initial=-1)) + 1,
        "videos": spans.num_rows,
        "hours": seconds / 3600,
    }


def _segments_line(segments: dict[str, Any]) -> str:
    """As `_segments` has it, in words."""
    from .formats import counted

    line = f"of {counted(segments['length'], 'frame')}, every {segments['stride']}; of "
    line += counted(segments["candidates"], "candidate")
    if segments["videos"]:
        line += f" in {counted(segments['videos'], 'video')}, {segments['hours']:.2f} hours from "
        line += "the first to the last of each"
    return line


def _index_line(index: dict[str, Any]) -> str:
    """As `_index` has it, in words."""
    from .formats import counted

    every = counted(index["items"] + index["later_items"], "item")
    line = f"{index['kind'] or 'of unknown kind'}, {index['items']:,} of {every}"
    if index["recall_wanted"] is not None:
        reached = index["recall_reached"].get("at 10", {})
        shares = sorted(reached, key=float, reverse=True)
        parts = [f"{reached[share]:.3f} of {float(share):.0%}" for share in shares]
        line += f"; recall@10 wanted {index['recall_wanted']:g}, reached where a filter allows a "
        line += f"share of them: {', '.join(parts) or 'nowhere'}"
    if index["later_items"]:
        are = "is" if index["later_items"] == 1 else "are"
        line += f"; {counted(index['later_items'], 'later item')} {are} compared beside it"
    return line


def _cell(value: object) -> str:
    if isinstance(value, dict):
        known = [f"{name} {part}" for name, part in value.items() if part is not None]
        return ", ".join(known) or "-"
    if isinstance(value, int):
        return f"{value:,}"
    return "-" if value is None else str(value)
