"""`reid evaluate`: the field's figures for queries against a gallery."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from reid_index.errors import UsageError

from .aggregate_options import aggregate_options
from .attribute_options import auto_filter_options, parse_auto_filter
from .extractor_options import (
    attributes_option,
    make_preprocess,
    make_weighting,
    preprocess_options,
    weighting_option,
)
from .paths import PATH
from .rerank_options import make_reranking, refuse_given, rerank_options

if TYPE_CHECKING:
    import pyarrow as pa

    from .judge import Judged
    from .question import Question

_TOLD = 30
"""Queries without a match that are named one by one."""

_TABLES = (".csv", ".parquet")


@click.command(name="evaluate")
@click.argument("gallery", type=PATH)
@click.argument("queries", type=PATH)
@click.option("--protocol", default="market1501", show_default=True, help="See docs/measures.md.")
@click.option(
    "--split",
    type=PATH,
    help="A list: which files are query and gallery.",
)
@click.option("--split-number", type=int, default=0, help="Of a dataset that has several, from 0.")
@aggregate_options
@click.option("--extractor", metavar="NAME", help="For dataset folders [default: the gallery's]")
@click.option("--weights", type=PATH, help="The extractor's model file.")
@preprocess_options
@weighting_option
@click.option("--device", default="cpu", show_default=True, help="cpu, or cuda.")
@click.option(
    "--rerank",
    type=click.Choice(["joint", "query"]),
    help="All queries in one graph with the gallery, as papers do; or each query alone.",
)
@rerank_options
@click.option("--ap", "ap_rule", type=click.Choice(["standard", "trapezoid"]))
@click.option(
    "--unanswerable",
    type=click.Choice(["skip", "zero"]),
    help="Queries without a match: left out of the means, or counted as 0.",
)
@click.option("--at", type=click.IntRange(1), help="Cut the lists at this rank: mAP@K.")
@click.option(
    "--unlabelled",
    type=click.Choice(["refuse", "distractor", "drop"]),
    default="refuse",
    show_default=True,
    help="Rows without a person.",
)
@click.option(
    "--global-only",
    is_flag=True,
    help="By vectors alone, where the model compares parts, too.",
)
@click.option(
    "--with",
    "others",
    nargs=2,
    multiple=True,
    type=PATH,
    metavar="GALLERY QUERIES",
    help="The same items by another extractor, to be fused. Can be given again.",
)
@click.option(
    "--fuse",
    type=click.Choice(["rrf", "min_max", "z_score"]),
    default="rrf",
    show_default=True,
    help="How rankings are joined: reciprocal ranks, or normalised scores.",
)
@click.option("--fuse-weights", metavar="A,B,…", help="One for each extractor, GALLERY's first.")
@auto_filter_options
@attributes_option("Of --auto-filter: what predicts those of dataset folders.")
@click.option(
    "--report",
    type=PATH,
    help="A folder: HTML page and pictures.",
)
@click.option("--per-query", type=PATH, help="A .csv or .parquet file.")
@click.option(
    "--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True
)
def command(gallery: Path, queries: Path, form: str, **options: Any) -> None:
    """Evaluate QUERIES against GALLERY: mAP, mINP and CMC.

    Both are a gallery, a shard, or the folder of a dataset, which is then embedded.
    """
    import json

    from reid_index.evaluation.evaluate import as_record, per_query

    from .judge import judge

    path, report = options.pop("per_query"), options.pop("report")
    if path is not None and path.suffix.lower() not in _TABLES:
        raise UsageError(f"--per-query {path}: a .csv or .parquet file, please")
    if path is not None and not path.absolute().parent.is_dir():
        raise UsageError(f"--per-query {path}: there is no folder {path.absolute().parent}")
    if report is not None and report.exists() and not report.is_dir():
        raise UsageError(f"--report {report} is a file; name a folder")
    if report is not None and options["auto_filter"] is not None:
        raise UsageError("--report shows whole lists: leave out --auto-filter, or the report")
    judged = judge(_question(gallery, queries, **options))
    table = per_query(judged.final, judged.labelled, judged.queries.items)
    _tell_unanswerable(table)
    _tell_twins(judged)
    _tell_aggregate(judged)
    record = as_record(judged.final, rerank=judged.rerank)
    record["unanswerable"] = judged.final.unanswerable
    record["protocol"] = judged.question.protocol
    record["fuse"] = _fused(judged)
    record["matcher"] = judged.matcher
    record["aggregate"] = None if judged.aggregate is None else judged.aggregate.rule
    record["seconds"] = round(sum(judged.final.seconds.values()), 3)
    if judged.filtering is not None:
        record["auto_filter"] = _filtered(judged)
    # Before the files, so that one that cannot be written does not cost the figures.
    click.echo(json.dumps(record) + "\n" if form == "json" else _table(record), nl=False)
    if path is not None:
        _write_table(path, table)
    if report is not None:
        from .judge_report import write_judged

        write_judged(report, judged)


def _question(
    gallery: Path,
    queries: Path,
    *,
    k1: int,
    k2: int,
    lambda_: float,
    fuse: Literal["rrf", "min_max", "z_score"],
    fuse_weights: str | None,
    auto_filter: str | None,
    filter_at: tuple[str, ...],
    no_filter_by: tuple[str, ...],
    **options: Any,
) -> "Question":
    from reid_index.evaluation.fusion import Fusion

    from .question import Question

    names = ("card", "input_size", "color_order", "scale", "mean", "std", "interpolation")
    if options["rerank"] is None:
        refuse_given("k1", "k2", "lambda_", without="--rerank")
    preprocess = make_preprocess(**{name: options.pop(name) for name in names})
    if not options["others"]:
        refuse_given("fuse", "fuse_weights", without="--with")
    return Question(
        gallery=gallery,
        queries=queries,
        preprocess=preprocess,
        weighting=make_weighting(options.pop("weighting")),
        reranking=make_reranking(k1=k1, k2=k2, lambda_=lambda_),
        fusion=Fusion(method=fuse, weights=_weights(fuse_weights)),
        auto_filter=parse_auto_filter(auto_filter, filter_at, no_filter_by),
        **options,
    )


def _weights(text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--fuse-weights {text!r}: numbers with commas between") from None


def _fused(judged: "Judged") -> str | None:
    """How many extractors' rankings were joined, and how; None for one."""
    fusion, others = judged.question.fusion, judged.question.others
    if not others:
        return None
    weights = "" if fusion.weights is None else f" weights={','.join(map(str, fusion.weights))}"
    return f"{fusion.method} of {1 + len(others)}{weights}"


def _filtered(judged: "Judged") -> dict[str, Any]:
    """What filtering by attributes did, and the figures without it."""
    from reid_index.evaluation.evaluate import as_record
    from reid_index.evaluation.protocol import get_protocol

    assert judged.filtering is not None
    found = judged.filtering.quality(
        judged.labelled,
        same_camera=get_protocol(judged.question.protocol).same_camera,
        same_item=judged.same_item,
    )
    without = as_record(judged.unfiltered(), rerank=None)
    return {
        "kept": found.kept_share,
        "dropped": found.dropped_share,
        "pairs": found.pairs,
        "matches": found.matches,
        "missed": found.missed,
        "thresholds": judged.filtering.thresholds,
        "without": {
            name: value
            for name, value in without.items()
            if name.startswith(("mAP", "mINP", "rank")) and name != "rerank"
        },
    }


def _tell_unanswerable(table: "pa.Table") -> None:
    """Name the queries that have no match, on standard error."""
    import pyarrow.compute as pc

    from .formats import printable

    none = table.filter(pc.equal(table["relevant"], 0))
    if none.num_rows == 0:
        return
    click.echo(f"{none.num_rows} of {table.num_rows} queries have no match:", err=True)
    for row in none.slice(0, _TOLD).to_pylist():
        place = "" if row["camera"] is None else f", camera {row['camera']}"
        name = row["source"] or f"item {row['item']}"
        click.echo(printable(f"  {name} (person {row['person']}{place})"), err=True)
    if none.num_rows > _TOLD:
        click.echo(f"  and {none.num_rows - _TOLD} more; --per-query FILE has them", err=True)


def _tell_twins(judged: "Judged") -> None:
    """Say on standard error where a graph has queries that are gallery items, too."""
    import numpy as np

    if judged.rerank is None or not judged.same_item:
        return
    twins = np.isin(judged.labelled.query.item, judged.labelled.gallery.item).sum()
    if twins:
        click.echo(
            f"{twins:,} of {len(judged.labelled.query):,} queries are gallery items, too: each is "
            "its own neighbour in the graph, which changes what re-ranking does",
            err=True,
        )


def _tell_aggregate(judged: "Judged") -> None:
    """Say on standard error how tracklets were compared where nobody had said it."""
    if judged.aggregate is not None and judged.question.aggregate is None:
        click.echo(
            f"tracklets are compared by {judged.aggregate.rule}; --aggregate says otherwise",
            err=True,
        )


def _write_table(path: Path, table: "pa.Table") -> None:
    """Write a .csv or .parquet file in one step."""
    import pyarrow.csv
    import pyarrow.parquet

    csv = path.suffix.lower() == ".csv"
    write = pyarrow.csv.write_csv if csv else pyarrow.parquet.write_table
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        write(table, temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _table(record: dict[str, Any]) -> str:
    from .formats import aligned

    filtered = record.pop("auto_filter", None)
    without = {} if filtered is None else filtered["without"]
    rows = [
        [name, f"{value:.4f}" if isinstance(value, float) else str(value or "-")]
        for name, value in record.items()
    ]
    if filtered is None:
        return aligned(rows)
    rows = [[*row, f"{without[row[0]]:.4f}" if row[0] in without else ""] for row in rows]
    facts = [
        ["true matches kept", f"{filtered['kept']:.4f}"],
        ["gallery dropped", f"{filtered['dropped']:.4f}"],
    ]
    return aligned([["", "auto-filter", "without"], *rows]) + "\n" + aligned(facts)
