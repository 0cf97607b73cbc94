"""Tables and one plot of the filter benchmarks, from the raw results in a folder: never typed.

python -m benchmarks.filter_report raw --plot filters.png
"""

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow.parquet as pq

from benchmarks import filter_penalty, latency
from reid_index.errors import UsageError

Rows = list[dict[str, Any]]

OURS = "ours"
FAMILIES = {
    "none": "no filter",
    "independent": "one predicate, independent of who it is",
    "identity": "one predicate, an attribute of the person",
    "three": "three predicates ANDed",
}
SHOWN = {
    "ours": ("exact", "recall 0.95"),
    "faiss-flat": ("IDSelectorArray",),
    "faiss-hnsw": ("ef 512",),
    "hnswlib": ("ef 512",),
    "qdrant": ("HNSW ef 128",),
    "lancedb": ("IVF_HNSW_SQ ef 512 refine 2",),
    "milvus-lite": ("HNSW ef 512",),
    "pgvector": ("HNSW ef 128, iterative",),
}
"""System → the ways of asking that the plot has room for."""

_AS_GOOD = 0.0005
"""Recall that nobody sees: below it two are as good."""


@dataclass(frozen=True)
class Cell:
    """One system's way of asking at one filter and batch.

    seconds: of each call of the whole batch. recall: mean over all answers.
    """

    rows: int
    system: str
    variant: str
    family: str
    rate: float
    allowed: int
    batch: int
    seconds: tuple[float, ...]
    recall: float

    @property
    def where(self) -> tuple[int, str, float, int]:
        """What is compared: rows, filter, batch."""
        return self.rows, self.family, self.rate, self.batch

    @property
    def median(self) -> float:
        """Seconds."""
        return statistics.median(self.seconds)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--percentile", default=50, show_default=True, help="Of the tables of latencies.")
@click.option("--plot", type=click.Path(path_type=Path), help="PNG of latency and recall.")
def main(folder: Path, percentile: int, plot: Path | None) -> None:
    """Print the tables that the raw results in FOLDER make."""
    click.echo(tables(folder, percentile=percentile), nl=False)
    if plot is not None:
        draw(cells(runs_in(folder, "filter")), plot)


def tables(folder: Path, *, percentile: int = 50) -> str:
    """Markdown. Raises UsageError where the folder holds no raw results of these benchmarks."""
    runs = runs_in(folder, "filter")
    found = cells(runs)
    parts = []
    for rows in sorted({cell.rows for cell in found}):
        here = [cell for cell in found if cell.rows == rows]
        for batch in sorted({cell.batch for cell in here}):
            parts.append(_latencies([one for one in here if one.batch == batch], percentile))
        parts.append(_our_cells([cell for cell in here if cell.system == OURS]))
        parts.append(faster_peers(here))
        parts.append(_stores([results for results, _ in runs if results["rows"] == rows]))
    for results, rows_ in runs_in(folder, "filter-penalty"):
        parts.append(_penalties(results, rows_))
    for results, rows_ in runs_in(folder, "latency"):
        parts.append(_latency(results, rows_, folder))
    if not any(parts):
        raise UsageError(f"{folder}: no raw results of these benchmarks; run them with --out")
    return "\n".join(part for part in parts if part)


def runs_in(folder: Path, benchmark: str) -> list[tuple[dict[str, Any], Rows]]:
    runs = []
    for path in sorted(folder.glob("*.json")):
        results = json.loads(path.read_text())
        if results.get("benchmark") == benchmark:
            times = pq.read_table(path.with_name(f"{path.stem}-times.parquet")).to_pylist()
            runs.append(({**results, "stem": path.stem}, times))
    return runs


def cells(runs: Iterable[tuple[dict[str, Any], Rows]]) -> list[Cell]:
    """Of all runs, this project's first."""
    made = []
    for results, rows in sorted(runs, key=lambda run: run[0]["system"] != OURS):
        found: dict[tuple[Any, ...], Rows] = {}
        for row in rows:
            key = (row["variant"], row["family"], row["rate"], row["allowed"], row["batch"])
            found.setdefault(key, []).append(row)
        for (variant, family, rate, allowed, batch), own in found.items():
            made.append(
                Cell(
                    rows=results["rows"],
                    system=results["system"],
                    variant=variant,
                    family=family,
                    rate=rate,
                    allowed=allowed,
                    batch=batch,
                    seconds=tuple(row["seconds"] for row in own),
                    recall=statistics.fmean(row["recall"] for row in own),
                )
            )
    return made


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _percent(rate: float) -> str:
    return f"{100 * rate:g} %"


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.3g}" if seconds < 1 else f"{1000 * seconds:,.0f}"


def _recall(recall: float) -> str:
    """Nothing where it is all, and never rounded up to all."""
    return "" if recall >= 1 - _AS_GOOD else f" ({min(recall, 0.999):.3g})"


def _latencies(found: Sequence[Cell], percentile: int) -> str:
    """A table for each family of filters: ways of asking × pass rates."""
    rows, batch = found[0].rows, found[0].batch
    what = "one query" if batch == 1 else f"{batch} queries"
    parts = []
    for family, words in FAMILIES.items():
        here = [cell for cell in found if cell.family == family]
        rates = sorted({cell.rate for cell in here}, reverse=True)
        if not here:
            continue
        lines = []
        for system, variant in dict.fromkeys((cell.system, cell.variant) for cell in here):
            line = [f"{system}, {variant}"]
            for rate in rates:
                own = [c for c in here if (c.system, c.variant, c.rate) == (system, variant, rate)]
                if not own:  # a batch of queries that are slow one by one
                    line.append("-")
                    continue
                taken = float(np.percentile(own[0].seconds, percentile))
                line.append(_ms(taken) + _recall(own[0].recall))
            lines.append(line)
        allowed = {cell.rate: cell.allowed for cell in here}
        heads = [f"{_percent(rate)} = {allowed[rate]:,}" for rate in rates]
        title = f"{rows:,} rows, {what}, {words}: p{percentile} in ms (recall@10 where below 1)"
        parts.append(f"{title}\n\n{_table([title.split(',')[0], *heads], lines)}")
    return "\n".join(parts)


def _our_cells(found: Sequence[Cell]) -> str:
    """Percentiles, throughput and recall of this project."""
    if not found:
        return ""
    lines = []
    for cell in found:
        p50, p95, p99 = (_ms(float(np.percentile(cell.seconds, p))) for p in (50, 95, 99))
        rate = cell.batch * len(cell.seconds) / sum(cell.seconds)
        lines.append(
            [
                *(cell.variant, cell.family, _percent(cell.rate), f"{cell.batch}"),
                *(p50, p95, p99, f"{rate:,.0f}", f"{cell.recall:.4f}"),
            ]
        )
    head = ["asked", "filter", "passes", "batch", "p50, ms", "p95", "p99", "queries/s", "recall"]
    return _table(head, lines)


def faster_peers(found: Sequence[Cell]) -> str:
    """Where a peer is faster than this project at the same recall or more, or that it is nowhere.

    A peer is held against the fastest of our ways whose recall is at least its own.
    """
    ours: dict[tuple[Any, ...], list[Cell]] = {}
    for cell in found:
        if cell.system == OURS:
            ours.setdefault(cell.where, []).append(cell)
    compared, lines = 0, []
    for cell in found:
        rivals = [one for one in ours.get(cell.where, []) if one.recall >= cell.recall - _AS_GOOD]
        if cell.system == OURS or not rivals:
            continue
        compared += 1
        best = min(rivals, key=lambda one: one.median)
        if cell.median < best.median:
            lines.append(
                [
                    *(f"{cell.family} {_percent(cell.rate)}", f"{cell.batch}"),
                    f"{cell.system}, {cell.variant}",
                    f"{_ms(cell.median)}{_recall(cell.recall)}",
                    f"{_ms(best.median)}{_recall(best.recall)} ({best.variant})",
                    f"{best.median / cell.median:.2f}",
                ]
            )
    if not compared:
        return ""
    text = (
        f"Of {compared:,} cells of peers ({found[0].rows:,} rows) this project is at least as fast "
        f"at the same recall or more in {compared - len(lines):,}.\n"
    )
    head = ["filter", "batch", "peer", "its ms", "ours, ms", "ours ÷ its"]
    return text + ("\n" + _table(head, lines) if lines else "")


def _stores(runs: Sequence[dict[str, Any]]) -> str:
    """What building and holding takes."""
    lines = []
    for results in runs:
        build, memory = results["build"], results["memory"]
        parts = ", ".join(f"{name} {seconds:.1f}" for name, seconds in build["seconds"].items())
        after, before = memory["after"], memory["before"]
        lines.append(
            [
                f"{results['system']}",
                f"{sum(build['seconds'].values()):.1f} ({parts})",
                f"{build['load'][0]:.1f} … {build['load'][1]:.1f}",
                f"{results['open']:.2f}",
                f"{(after['anonymous'] - before['anonymous']) / 1e6:,.0f}",
                f"{(after['mapped'] - before['mapped']) / 1e6:,.0f}",
                f"{after['others'] / 1e6:,.0f}",
                f"{build['bytes'] / 1e6:,.0f}",
            ]
        )
    head = [
        *(f"{runs[0]['rows']:,} rows", "build, s", "load meanwhile", "open, s", "MB of its own"),
        *("MB mapped", "MB in other processes", "MB on disk"),
    ]
    return _table(head, lines)


def _penalties(results: dict[str, Any], rows: Rows) -> str:
    found = filter_penalty.penalties(rows)
    lines = []
    for one in found:
        small = one.ratio is None
        lines.append(
            [
                *(one.request, one.family, _percent(one.rate), f"{one.batch}"),
                *(_ms(one.planner), one.chosen, _ms(one.best), one.path),
                f"{1000 * one.over:+.3f} ms" if small else f"{one.ratio:.2f}",
            ]
        )
    head = [
        *("request", "filter", "passes", "batch", "planner, ms", "took", "best, ms", "path"),
        "penalty",
    ]
    text = "".join(f"* {line}\n" for line in filter_penalty.summary(found))
    return f"{results['rows']:,} rows: the planner beside the best path\n\n{text}\n" + _table(
        head, lines
    )


def _latency(results: dict[str, Any], rows: Rows, folder: Path) -> str:
    answers = pq.read_table(folder / f"{results['stem']}-answers.parquet").to_pylist()
    count, dim = results["size"]
    lines = "".join(f"* {line}\n" for line in latency.summary(rows, answers))
    return f"{count:,} × {dim} {results['dtype']}\n\n{lines}"


def draw(found: Sequence[Cell], path: Path, *, family: str = "three", batch: int = 1) -> None:
    """One line a system: latency against pass rate, recall below it; of the smallest number of
    rows that was measured."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = min(cell.rows for cell in found)
    here = [c for c in found if (c.rows, c.family, c.batch) == (rows, family, batch)]
    figure, (above, below) = pyplot.subplots(
        2, 1, figsize=(8, 8.5), sharex=True, height_ratios=(3, 2), layout="constrained"
    )
    style = iter(_STYLES)
    for system, variants in SHOWN.items():
        for variant in variants:
            own = sorted(
                (c for c in here if (c.system, c.variant) == (system, variant)),
                key=lambda cell: cell.rate,
            )
            colour, marker, dash = next(style)
            if not own:
                continue
            look = {
                "color": colour,
                "marker": marker,
                "linestyle": dash,
                "linewidth": 2.4 if system == OURS else 1.4,
                "markersize": 5,
                "label": f"{'reid-index' if system == OURS else system}, {variant}",
            }
            rates = [100 * cell.rate for cell in own]
            above.plot(rates, [1000 * cell.median for cell in own], **look)
            below.plot(rates, [cell.recall for cell in own], **look)
    above.set(xscale="log", yscale="log", ylabel="one query, median ms")
    above.set_title(f"{rows:,} rows, {FAMILIES[family]}")
    below.set(xlabel="rows that pass the filter, %", ylabel="recall@10", ylim=(-0.03, 1.04))
    ticks = sorted({100 * cell.rate for cell in here})
    below.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    below.minorticks_off()
    above.yaxis.set_major_formatter("{x:g}")
    for axes in (above, below):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = above.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


# Okabe and Ito's palette, which colour-blind readers can tell apart; each has a marker of its own.
_STYLES = (
    ("#000000", "o", "-"),
    ("#000000", "o", ":"),
    ("#E69F00", "s", "-"),
    ("#E69F00", "D", "--"),
    ("#CC79A7", "v", "--"),
    ("#D55E00", "^", "--"),
    ("#0072B2", "P", "--"),
    ("#56B4E9", "X", "--"),
    ("#009E73", "*", "--"),
)


if __name__ == "__main__":
    main()
