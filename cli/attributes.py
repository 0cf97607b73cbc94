"""`reid attributes`: what the items of a gallery are known to wear, carry and be."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from reid_index.errors import BadSource, UsageError

from .paths import PATH
from .sources import (
    drop_parts,
    extract,
    extraction_options,
    refuse_needless,
    staging,
    told_unchanged,
)

if TYPE_CHECKING:
    from extractors.attribute_labels import Joined
    from extractors.attribute_prediction import Pictured
    from extractors.labels import Labels
    from reid_index import Gallery

_NAMED = 3
"""Persons that a message names; the others are counted."""

_ALL = "all"
_MODELS = (".xml", ".safetensors")


@click.command(name="attributes", short_help="Say what is known of GALLERY's items.")
@click.argument("gallery", type=PATH)
@click.option(
    "--from",
    "source",
    type=PATH,
    help="Labels: a .mat, CSV or Parquet file; or a model that predicts them.",
)
@click.option(
    "--by",
    type=click.Choice(["item", "source", "person"]),
    help="What a row is of [default: the first of these that the file has as a column]",
)
@click.option(
    "--origin",
    metavar="ORIGIN",
    help="Who says so: label (default), or person, who has looked. With --clear: who said so.",
)
@click.option(
    "--clear",
    multiple=True,
    metavar="NAME",
    help="Instead: take back what was said of an attribute, or of `all`.",
)
@click.option("--root", type=PATH, help="Of a model: where the pictures are now.")
@extraction_options
@click.option(
    "--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True
)
def command(
    gallery: Path,
    source: Path | None,
    by: str | None,
    origin: str | None,
    clear: tuple[str, ...],
    root: Path | None,
    form: str,
    device: str,
    strict: bool,
    **pace: Any,
) -> None:
    """Say what GALLERY's items wear, carry and are: by labels of persons, pictures or items, or by
    a model that looks at the pictures again.

    Shards stay as they are. What a person says counts more than labels, these more than a model.
    """
    if (source is None) == (not clear):
        raise UsageError("say what is known, by --from FILE, or take it back, by --clear NAME")
    if source is None:
        refuse_needless("attributes are taken back", by=by, root=root, strict=strict)
        facts = _clear(gallery, clear, origin=origin)
    elif source.suffix.lower() in _MODELS:
        refuse_needless("a model predicts, and says so itself", by=by, origin=origin)
        facts = _predict(gallery, source, root=root, device=device, strict=strict, **pace)
    else:
        refuse_needless("labels are read", root=root)
        if origin not in (None, "label", "person"):
            raise UsageError(f"--origin {origin!r}: label or person, please; a model says its own")
        facts = _label(gallery, source, by=by, origin=origin or "label", strict=strict)
    _tell(facts, form=form)


def _clear(path: Path, names: tuple[str, ...], *, origin: str | None) -> dict[str, Any]:
    from reid_index import Gallery

    with told_unchanged(path), Gallery.open(path) as gallery:
        cells = gallery.clear_attributes(None if _ALL in names else names, origin=origin)
        return {"gallery": str(path), "taken_back": cells, **_known(gallery)}


def _label(
    gallery: Path, path: Path, *, by: str | None, origin: str, strict: bool
) -> dict[str, Any]:
    """Say the labels of a file, and tell on standard error what was made of it."""
    import pyarrow as pa

    from extractors.attribute_labels import join_labels, read_labels
    from reid_index import Gallery
    from reid_index.attributes import PREFIX

    from .formats import printable

    with Gallery.open(gallery) as opened:
        items = opened.items
        sets = {
            field.name.removeprefix(PREFIX): pa.types.is_list(field.type)
            for field in items.schema
            if field.name.startswith(PREFIX)
        }
        labels = read_labels(path, by=by, sets=sets, strict=strict)
        joined = join_labels(labels, items)
        for line in (*labels.notes, *_notes(labels, joined, path)):
            click.echo(printable(line), err=True)
        if joined.table.num_rows == 0:
            raise BadSource(_nobody(labels, joined, path, gallery))
        with told_unchanged(gallery):
            cells = opened.set_attributes(joined.table, origin=origin)
        return {
            "gallery": str(gallery),
            "from": str(path),
            "by": labels.key,
            "origin": origin,
            "items": joined.table.num_rows,
            "cells": cells,
            "without_row": joined.items_without,
            "rows_of_nobody": joined.strangers,
            **_known(opened, said=joined.table),
        }


def _notes(labels: "Labels", joined: "Joined", path: Path) -> list[str]:
    """What the gallery and the labels do not have in common, a line each."""
    from .formats import counted

    notes = []
    if joined.without:
        some = ", ".join(joined.without[:_NAMED])
        more = ", …" if len(joined.without) > _NAMED else ""
        notes.append(
            f"{path}: no row for {counted(len(joined.without), labels.key)} of the gallery ({some}"
            f"{more}): nothing new is known of {counted(joined.items_without, 'item')}"
        )
    if joined.unnamed:
        notes.append(f"{counted(joined.unnamed, 'item')} of the gallery without a {labels.key}")
    if joined.strangers:
        name = "names" if joined.strangers == 1 else "name"
        notes.append(
            f"{path}: {counted(joined.strangers, 'row')} that {name} no {labels.key} of the gallery"
        )
    return notes


def _nobody(labels: "Labels", joined: "Joined", path: Path, gallery: Path) -> str:
    from reid_index.reading import shown

    if not labels.table.num_rows:
        return f"{path}: it has no rows"
    there = shown(str(labels.table[labels.key][0].as_py()))
    here = f"; the gallery has {shown(joined.without[0])}" if joined.without else ""
    return (
        f"{path}: not one of its rows is of an item of {gallery}: its first {labels.key} is "
        f"{there}{here}"
    )


def _predict(
    gallery: Path, model: Path, *, root: Path | None, device: str, **pace: Any
) -> dict[str, Any]:
    """Have a model look at the pictures of the items again, and say what it sees.

    No generation is held meanwhile. What was interrupted goes on when it is run again.
    """

    from extractors import predictors
    from extractors.attribute_prediction import OnlyAttributes, predicted
    from reid_index import Gallery, Metric

    from .formats import counted

    extractor = OnlyAttributes(predictors.predictor_of(model, device=device))
    seen = _pictured(gallery, root)
    if seen.unpictured:
        click.echo(f"{counted(seen.unpictured, 'item')} without a picture: left out", err=True)
    with staging(gallery, "predicting") as folder:
        taken = extract(
            seen.source, extractor, folder, metric=Metric.EUCLIDEAN, dtype="float32", **pace
        )
        if not taken.parts:
            drop_parts(folder)
            raise _unseen(gallery, seen.source.count)
        table = predicted(taken.parts, seen)
        unread = len(seen.items) - table.num_rows
        with Gallery.open(gallery) as opened:
            # What was deleted meanwhile is no more.
            table = table.filter(_are_there(table["item"], opened))
            with told_unchanged(gallery):
                cells = opened.set_attributes(table)
            facts = {
                "gallery": str(gallery),
                "from": str(model),
                "items": table.num_rows,
                "cells": cells,
                "unread": unread,
                "unpictured": seen.unpictured,
                **_known(opened, said=table),
            }
        drop_parts(folder)
    return facts


def _pictured(gallery: Path, root: Path | None) -> "Pictured":
    from extractors.attribute_prediction import pictured
    from extractors.rebuilding import moved_roots
    from extractors.resegmenting import COLUMNS
    from reid_index.errors import NothingToIndex
    from reid_index.store.commit import read_current
    from reid_index.upkeep.rebuild import read_crops

    of_segments = "segments" in read_current(gallery).recipe
    crops = read_crops(gallery, COLUMNS if of_segments else ())
    seen = pictured(
        crops, {} if root is None else moved_roots(crops, root), of_segments=of_segments
    )
    if not len(seen.items):
        raise NothingToIndex(f"{gallery}: it knows of no pictures that a model could look at")
    return seen


def _are_there(items: Any, gallery: "Gallery") -> Any:
    import pyarrow.compute as pc

    return pc.is_in(items, value_set=gallery.items["item"].combine_chunks())


def _unseen(gallery: Path, count: int) -> Exception:
    from reid_index.errors import NothingToIndex

    from .formats import counted

    return NothingToIndex(
        f"{gallery}: not one of {counted(count, 'picture')} can be read; --root FOLDER says where "
        "they are now"
    )


def _known(gallery: "Gallery", *, said: Any = None) -> dict[str, Any]:
    """Of each attribute of the gallery: of how many items it was said, is known, is unknown."""
    from reid_index.attributes import PREFIX, names_in

    items = gallery.items
    facts = {}
    for name in names_in(items.column_names):
        column = PREFIX + name
        unknown = items[column].null_count
        new = 0
        if said is not None and column in said.column_names:
            new = said.num_rows - said[column].null_count
        facts[name] = {"said": new, "known": items.num_rows - unknown, "unknown": unknown}
    return {"attributes": facts}


def _tell(facts: dict[str, Any], *, form: str) -> None:
    if form == "json":
        import json

        click.echo(json.dumps(facts, indent=1, ensure_ascii=False))
        return
    from .formats import aligned

    names = facts.pop("attributes")
    cells = [
        [name.replace("_", " "), f"{value:,}" if isinstance(value, int) else str(value)]
        for name, value in facts.items()
    ]
    click.echo(aligned(cells))
    rows = [["attribute", "said now", "known", "unknown"]]
    rows += [[name, *(f"{number:,}" for number in of.values())] for name, of in names.items()]
    click.echo(aligned(rows), nl=False)
