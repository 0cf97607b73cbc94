"""`reid judge-attributes`: how well attributes are predicted, and what filtering by them brings."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from reid_index.errors import BadSource, UsageError

from .paths import PATH

if TYPE_CHECKING:
    import pyarrow as pa

    from reid_index.attributes import Threshold
    from reid_index.evaluation.attributes import AttributeQuality
    from reid_index.evaluation.filter_quality import FilterQuality

    from .sides import Side

_SWEPT = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.97, 0.99, 1.0)
"""Flat thresholds that are always told; 1 is what labels and persons said."""

_KEEP = 0.98


@click.command(name="judge-attributes", short_help="Say how good GALLERY's attributes are.")
@click.argument("gallery", type=PATH)
@click.option("--labels", type=PATH, help="What is right: a .mat, CSV or Parquet file.")
@click.option(
    "--split",
    type=PATH,
    help="A list (file, split): thresholds by `train`, the rest by `query` and `gallery`.",
)
@click.option(
    "--keep",
    type=float,
    help="Choose thresholds of words that keep this share of true matches of other people, too.",
)
@click.option(
    "--thresholds-out",
    type=PATH,
    help=f"Write them to a file for `reid query --auto-filter` [--keep {_KEEP}].",
)
@click.option(
    "--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True
)
def command(
    gallery: Path,
    labels: Path | None,
    split: Path | None,
    keep: float | None,
    thresholds_out: Path | None,
    form: str,
) -> None:
    """Judge the attributes of GALLERY's items: accuracy against labels, and what filtering by them
    keeps of true matches and drops of the rest.

    Who is who is told by the items' person labels.
    """
    if thresholds_out is not None and not thresholds_out.absolute().parent.is_dir():
        raise UsageError(
            f"--thresholds-out {thresholds_out}: there is no folder "
            f"{thresholds_out.absolute().parent}"
        )
    if keep is None and thresholds_out is not None:
        keep = _KEEP
    record = _judged(gallery, labels, split, keep=keep)
    if thresholds_out is not None:
        from reid_index.filters.agreement import write_thresholds

        chosen = record["chosen"]
        about = {name: value for name, value in chosen.items() if name != "thresholds"}
        write_thresholds(
            thresholds_out, chosen["thresholds"], about={"gallery": str(gallery), **about}
        )
    if form == "json":
        import json

        click.echo(json.dumps(record))
    else:
        click.echo(_table(record), nl=False)


def _judged(
    path: Path, labels: Path | None, split: Path | None, *, keep: float | None
) -> dict[str, Any]:
    from reid_index.attributes import names_in

    from .sides import apply_split, stored_side

    whole = stored_side(path)
    names = names_in(whole.items.column_names)
    if not names:
        raise UsageError(
            f"{path}: its items have no attributes; `reid build --attributes MODEL` predicts them"
        )
    parts = dict.fromkeys(("train", "query", "gallery"), whole)
    if split is not None:
        parts = {part: apply_split(whole, split, part) for part in parts}
    record: dict[str, Any] = {
        "gallery": str(path),
        "split": None if split is None else str(split),
        "attributes": None,
        "mean": None,
    }
    if labels is not None:
        held_out = [whole] if split is None else [parts["query"], parts["gallery"]]
        record |= _accuracy([side.items for side in held_out], labels)
    record |= _filtering(parts, names, keep=keep)
    return record


def _accuracy(tables: "list[pa.Table]", path: Path) -> dict[str, Any]:
    """The figures of each attribute, and their means over the groups of Market-1501."""
    import numpy as np
    import pyarrow as pa

    from extractors.attribute_labels import join_labels, read_labels
    from extractors.attribute_vocabulary import MARKET_GROUPS
    from reid_index.evaluation.attributes import judge_attributes, mean_of_groups

    from .formats import printable

    items = pa.concat_tables(tables, promote_options="permissive")
    ids = items["item"].to_numpy()
    items = items.take(pa.array(np.unique(ids, return_index=True)[1]))  # one may be of both
    kinds = {
        field.name.removeprefix("attr."): pa.types.is_list(field.type)
        for field in items.schema
        if field.name.startswith("attr.")
    }
    read = read_labels(path, sets=kinds)
    for line in read.notes:
        click.echo(printable(line), err=True)
    joined = join_labels(read, items)
    if joined.table.num_rows == 0:
        raise BadSource(f"{path}: no row is of an item that is judged, by {read.key}")
    if joined.items_without:
        click.echo(f"{joined.items_without:,} items have no label", err=True)
    judged = judge_attributes(items, joined.table)
    mean = mean_of_groups(judged, list(MARKET_GROUPS))
    return {
        "attributes": {
            name: {"group": MARKET_GROUPS.get(name), **_as_record(one)}
            for name, one in judged.items()
        },
        "mean": None
        if mean is None
        else dict(zip(("accuracy", "balanced_accuracy", "ap"), mean, strict=True)),
    }


def _as_record(one: "AttributeQuality") -> dict[str, Any]:
    from dataclasses import asdict

    return {**asdict(one), "coverage": one.coverage}


def _filtering(parts: "dict[str, Side]", names: list[str], *, keep: float | None) -> dict[str, Any]:
    from reid_index.evaluation.attribute_thresholds import choose_thresholds
    from reid_index.evaluation.filter_quality import code, filter_quality
    from reid_index.evaluation.protocol import label

    query, gallery = parts["query"].items, parts["gallery"].items
    labelled = label(query, gallery, unlabelled="distractor")
    asked, searched = code(
        query.take(labelled.query_rows), gallery.take(labelled.gallery_rows), names
    )

    def told(thresholds: "Mapping[str, Threshold]") -> dict[str, Any]:
        found = filter_quality(
            asked, searched, labelled.query, labelled.gallery, thresholds, same_item=True
        )
        return {"kept": found.kept_share, "dropped": found.dropped_share, **_counts(found)}

    record: dict[str, Any] = {
        "filter": {
            "queries": len(labelled.query),
            "gallery": len(labelled.gallery),
            "flat": [{"threshold": one, **told(dict.fromkeys(names, one))} for one in _SWEPT],
            "chosen": None,
        },
        "chosen": None,
    }
    if keep is not None:
        train = parts["train"].items
        sides = label(train, train, unlabelled="distractor")
        rows = sides.gallery_rows
        chosen = choose_thresholds(
            code(train.take(rows), train.take(rows), names)[0], sides.gallery, keep=keep
        )
        record["filter"]["chosen"] = told(chosen.thresholds)
        record["chosen"] = {
            "thresholds": dict(chosen.thresholds),
            "keep": keep,
            "kept_elsewhere": chosen.kept_elsewhere,
            "standard_error": chosen.standard_error,
            "persons": chosen.persons,
            "kept": chosen.quality.kept_share,
            "dropped": chosen.quality.dropped_share,
            **_counts(chosen.quality),
        }
    return record


def _counts(found: "FilterQuality") -> dict[str, int]:
    return {"pairs": found.pairs, "matches": found.matches, "missed": found.missed}


def _table(record: dict[str, Any]) -> str:
    from .formats import aligned

    text = ""
    if record["attributes"] is not None:
        rows = [["attribute", "accuracy", "balanced", "AP", "labelled", "predicted"]]
        for name, one in record["attributes"].items():
            rows.append(
                [
                    name,
                    *(_share(one[key]) for key in ("accuracy", "balanced_accuracy", "ap")),
                    f"{one['labelled']:,}",
                    _share(one["coverage"]),
                ]
            )
        if record["mean"] is not None:
            grouped = [
                one for one in record["attributes"].values() if one["group"] and one["judged"]
            ]
            rows.append(
                [f"mean of {len(grouped)} groups", *map(_share, record["mean"].values()), "", ""]
            )
        text += aligned(rows) + "\n"
    rows = [["from confidence", "true matches kept", "gallery dropped"]]
    for one in record["filter"]["flat"]:
        rows.append([f"{one['threshold']:g}", _share(one["kept"]), _share(one["dropped"])])
    if record["filter"]["chosen"] is not None:
        one = record["filter"]["chosen"]
        rows.append(["chosen, below", _share(one["kept"]), _share(one["dropped"])])
    text += aligned(rows)
    if record["chosen"] is not None:
        chosen = record["chosen"]
        facts = [
            ["thresholds by", f"{chosen['persons']:,} persons, {chosen['matches']:,} matches"],
            ["asked to keep", _share(chosen["keep"])],
            [
                "kept of people left out",
                f"{_share(chosen['kept_elsewhere'])} ± {chosen['standard_error']:.4f}",
            ],
        ]
        rows = [["attribute", "from confidence"]]
        rows += [[name, _threshold(value)] for name, value in chosen["thresholds"].items()]
        text += "\n" + aligned(facts) + "\n" + aligned(rows)
    return text


def _threshold(value: "Threshold") -> str:
    """As "0.9", or "no 0.97, yes 0.8"."""
    if not isinstance(value, Mapping):
        return "not used" if value is None else f"{value:g}"
    return ", ".join(f"{word} {_threshold(least)}" for word, least in value.items())


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
