"""`reid inspect`: what is in a gallery."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from reid_index import Gallery


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

    columns = facts.pop("columns")
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
        "attached": {
            attached.kind: f"{attached.folder} (stale)"
            if attached.kind == "graph" and gallery.is_stale("graph")
            else attached.folder
            for attached in manifest.attached
        },
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


def _cell(value: object) -> str:
    if isinstance(value, dict):
        known = [f"{name} {part}" for name, part in value.items() if part is not None]
        return ", ".join(known) or "-"
    if isinstance(value, int):
        return f"{value:,}"
    return "-" if value is None else str(value)
