"""Predicted attributes on a split: how often they are right, and what filtering by them does.

    python -m benchmarks.attributes CROPS --split LIST --model XML --labels MAT --keep G --out FILE

Thresholds are chosen on `train`, everything is measured on `query` and `gallery`: accuracy against
the labels, true matches kept, gallery dropped, mAP and rank-1 by the vectors of the gallery's
extractor, without a filter, with flat thresholds, with chosen ones, of each word and of each
attribute, and with the labels themselves as attributes, which no prediction can better. The gallery
is built once and kept.
"""

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.machine import keep as keep_results
from cli.sides import Side, apply_split, gallery_side
from extractors.attribute_labels import join_labels, read_labels
from extractors.attribute_vocabulary import MARKET_GROUPS
from reid_index.attributes import Threshold, names_in
from reid_index.evaluation.attribute_thresholds import Chosen, choose_thresholds
from reid_index.evaluation.attributes import judge_attributes, mean_of_groups
from reid_index.evaluation.evaluate import evaluate
from reid_index.evaluation.filter_quality import Coded, code, dropped, filter_quality
from reid_index.evaluation.protocol import Labelled, get_protocol, label
from reid_index.evaluation.scores import VectorScores

FLAT = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.97, 0.99)
KEEPS = (0.97, 0.98, 0.99)

WAYS = {True: "chosen by word to keep", False: "chosen by attribute to keep"}


@click.command()
@click.argument("crops", type=click.Path(path_type=Path))
@click.option("--split", type=click.Path(path_type=Path), required=True)
@click.option("--model", type=click.Path(path_type=Path), required=True, help="Of attributes.")
@click.option("--labels", type=click.Path(path_type=Path), required=True)
@click.option("--weights", type=click.Path(path_type=Path), help="A trained extractor's.")
@click.option("--keep", type=click.Path(path_type=Path), required=True, help="The gallery.")
@click.option("--out", type=click.Path(path_type=Path), help="Raw results as JSON.")
def main(
    crops: Path,
    split: Path,
    model: Path,
    labels: Path,
    weights: Path | None,
    keep: Path,
    out: Path | None,
) -> None:
    """Measure attributes and filtering by them."""
    if not keep.exists():
        build(crops, model, weights, keep)
    whole = gallery_side(keep)
    parts = {part: apply_split(whole, split, part) for part in ("train", "query", "gallery")}
    results = {
        "benchmark": "attributes",
        "accuracy": accuracy(parts, labels),
        **filtering(parts, labels),
    }
    for line in (*accuracy_table(results["accuracy"]), "", *filter_table(results["filters"])):
        click.echo(line)
    click.echo(json.dumps(results["chosen"], indent=1))
    keep_results(out, results)


def build(crops: Path, model: Path, weights: Path | None, folder: Path) -> None:
    """The gallery of all crops, with predicted attributes."""
    command = [sys.executable, "-c", "from cli.main import main; main()", "build", str(crops)]
    command += ["--out", str(folder), "--attributes", str(model)]
    if weights is not None:
        command += ["--extractor", "trained", "--weights", str(weights)]
    subprocess.run(command, check=True)


def accuracy(parts: dict[str, Side], path: Path) -> dict[str, Any]:
    """Of people who are not in `train`."""
    tables = [parts["query"].items, parts["gallery"].items]
    items = pa.concat_tables(tables, promote_options="permissive")
    judged = judge_attributes(items, labels_of(items, path))
    mean = mean_of_groups(judged, list(MARKET_GROUPS))
    found: dict[str, Any] = {
        name: {
            "labelled": one.labelled,
            "coverage": one.coverage,
            "accuracy": one.accuracy,
            "balanced accuracy": one.balanced_accuracy,
            "AP": one.ap,
            "words": {word: [its.labelled, its.ap] for word, its in one.words.items()},
        }
        for name, one in judged.items()
    }
    if mean is not None:
        keys = ("accuracy", "balanced accuracy", "AP")
        found["mean of groups"] = dict(zip(keys, mean, strict=True))
    return found


def labels_of(items: pa.Table, path: Path) -> pa.Table:
    """`item` and the attributes that a file of labels has for it."""
    return join_labels(read_labels(path), items).table


def filtering(parts: dict[str, Side], path: Path) -> dict[str, Any]:
    """What filters do to query and gallery, and what was chosen on train."""
    query, gallery = parts["query"], parts["gallery"]
    labelled = label(query.items, gallery.items)
    query, gallery = query.take(labelled.query_rows), gallery.take(labelled.gallery_rows)
    vectors = VectorScores(query.blocks[0], gallery.blocks, metric=gallery.metric)
    names = names_in(gallery.items.column_names)
    both = code(query.items, gallery.items, names)
    filters = {"none": measured(vectors, labelled, both, {})}
    for one in FLAT:
        filters[f"from {one:g}"] = measured(vectors, labelled, both, dict.fromkeys(names, one))
    chosen = {}
    for by_word, share in ((by_word, share) for by_word in WAYS for share in KEEPS):
        start = time.perf_counter()
        made = chosen_on(parts["train"], names, keep=share, by_word=by_word)
        seconds = time.perf_counter() - start
        chosen[f"{WAYS[by_word]} {share:g}"] = {
            "seconds": seconds,
            "thresholds": dict(made.thresholds),
            "kept": made.quality.kept_share,
            "dropped": made.quality.dropped_share,
            "kept elsewhere": made.kept_elsewhere,
            "standard error": made.standard_error,
        }
        filters[f"{WAYS[by_word]} {share:g}"] = measured(vectors, labelled, both, made.thresholds)
    true = [said(side.items, path) for side in (query, gallery)]
    told = names_in(true[0].column_names)
    for kind, some in (("labels", told), ("labels, those predicted", [*set(told) & set(names)])):
        filters[kind] = measured(vectors, labelled, code(*true, some), dict.fromkeys(some, 1.0))
    return {"filters": filters, "chosen": chosen}


def said(items: pa.Table, path: Path) -> pa.Table:
    """The labels of all items, row by row."""
    rows = labels_of(items, path)
    at = pc.index_in(items["item"], value_set=rows["item"].combine_chunks())
    return rows.take(at)


def chosen_on(train: Side, names: list[str], *, keep: float, by_word: bool) -> Chosen:
    """Thresholds by the people of one side, of each word, or one for all words of an attribute."""
    labelled = label(train.items, train.items)
    items = train.items.take(labelled.gallery_rows)
    return choose_thresholds(
        code(items, items, names)[0], labelled.gallery, keep=keep, by_word=by_word
    )


def measured(
    vectors: VectorScores,
    labelled: Labelled,
    both: tuple[Coded, Coded],
    thresholds: Mapping[str, Threshold],
) -> dict[str, float]:
    """Shares kept and dropped, mAP and rank-1; a dropped match is not found at all."""
    query, gallery = both
    found = filter_quality(query, gallery, labelled.query, labelled.gallery, thresholds)
    evaluation = evaluate(
        vectors,
        labelled,
        protocol=get_protocol("market1501"),
        drops=lambda start, stop: dropped(query.part(start, stop), gallery, thresholds),
    )
    return {
        "kept": found.kept_share,
        "dropped": found.dropped_share,
        "mAP": evaluation.mAP,
        "rank-1": float(evaluation.cmc[0]),
    }


def accuracy_table(found: dict[str, Any]) -> list[str]:
    """A line for each attribute, in per cent."""
    lines = ["| | accuracy | balanced accuracy | AP | predicted |", "|---|---|---|---|---|"]
    for name, one in found.items():
        cells = [
            "" if one.get(key) is None else f"{100 * one[key]:.1f}"
            for key in ("accuracy", "balanced accuracy", "AP", "coverage")
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def filter_table(found: dict[str, dict[str, float]]) -> list[str]:
    """A line for each filter."""
    lines = ["| | true matches kept | gallery dropped | mAP | rank-1 |", "|---|---|---|---|---|"]
    for name, one in found.items():
        shares = f"{100 * one['kept']:.1f} % | {100 * one['dropped']:.1f} %"
        lines.append(f"| {name} | {shares} | {one['mAP']:.4f} | {one['rank-1']:.4f} |")
    return lines


if __name__ == "__main__":
    main()
