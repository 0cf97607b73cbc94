"""`reid inspect`: what is in a gallery."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from reid_index import Gallery
    from reid_index.manifest import AttachedEntry


@click.command(name="inspect", short_help="Say what GALLERY holds.")
@click.argument("gallery", type=click.Path(path_type=Path))
@click.option(
    "--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True
)
def command(gallery: Path, form: str) -> None:
    """Say what GALLERY holds: items, columns, cameras, extractor, files."""
    from reid_index import Gallery

    facts = _facts(Gallery.open(gallery))
    if form == "json":
        click.echo(json.dumps(facts, indent=1, ensure_ascii=False))
        return
    from .formats import aligned

    columns, index = facts.pop("columns"), facts["index"]
    facts["index"] = None if index is None else _index_line(index)
    click.echo(aligned([[name.replace("_", " "), _cell(value)] for name, value in facts.items()]))
    rows = [["column", "type", "known", "unknown"]]
    rows += [[c["name"], c["type"], f"{c['known']:,}", f"{c['unknown']:,}"] for c in columns]
    click.echo(aligned(rows), nl=False)


def _facts(gallery: "Gallery") -> dict[str, Any]:
    import pyarrow.compute as pc

    manifest, items = gallery.manifest, gallery.items
    cameras = pc.value_counts(items["camera"].drop_null()).to_pylist()
    return {
        "items": len(gallery),
        "generation": manifest.generation,
        "created": manifest.created.isoformat(),
        "metric": str(gallery.metric),
        "dimensions": gallery.dim,
        "stored_as": manifest.dtype,
        "shards": len(manifest.shards),
        "bytes": sum(file.size for shard in manifest.shards for file in shard.files.values()),
        "persons_labelled": pc.count_distinct(items["person"]).as_py(),
        "cameras": {
            str(count["values"]): count["counts"]
            for count in sorted(cameras, key=lambda count: count["values"])
        },
        "attached": {one.kind: _attached(gallery, one) for one in manifest.attached},
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


def _attached(gallery: "Gallery", entry: "AttachedEntry") -> str:
    """The folder of an attachment, and what is the matter with it."""
    from reid_index.attached import made_again
    from reid_index.manifest import wrong_size

    wrong = wrong_size(gallery.path, entry)
    if wrong:
        return f"{entry.folder} (damaged: {wrong}{made_again(entry.kind)})"
    is_stale = entry.kind == "graph" and gallery.is_stale("graph")
    return f"{entry.folder} (stale)" if is_stale else entry.folder


def _index(gallery: "Gallery") -> dict[str, Any] | None:
    """What the manifest says of the approximate index, if there is one."""
    manifest = gallery.manifest
    entry = next((one for one in manifest.attached if one.kind == "index"), None)
    if entry is None:
        return None
    rows = sum(shard.rows for shard in manifest.shards if shard.folder in entry.covers)
    return {
        "kind": entry.about.get("kind"),
        "items": rows,
        "later_items": manifest.rows - rows,
        "recall_wanted": entry.about.get("recall_wanted"),
        "recall_reached": entry.about.get("recall_reached", {}),
    }


def _index_line(index: dict[str, Any]) -> str:
    """As `_index` has it, in words."""
    every = index["items"] + index["later_items"]
    line = f"{index['kind'] or 'of unknown kind'}, {index['items']:,} of {every:,} items"
    if index["recall_wanted"] is not None:
        reached = index["recall_reached"].get("at 10", {})
        shares = sorted(reached, key=float, reverse=True)
        parts = [f"{reached[share]:.3f} of {float(share):.0%}" for share in shares]
        line += f"; recall@10 wanted {index['recall_wanted']:g}, reached where a filter allows a "
        line += f"share of them: {', '.join(parts) or 'nowhere'}"
    if index["later_items"]:
        line += f"; the {index['later_items']:,} later items are compared beside it"
    return line


def _cell(value: object) -> str:
    if isinstance(value, dict):
        known = [f"{name} {part}" for name, part in value.items() if part is not None]
        return ", ".join(known) or "-"
    if isinstance(value, int):
        return f"{value:,}"
    return "-" if value is None else str(value)
