"""The Markdown tables of the documents, from the raw results in a folder: derived, never typed.

python -m benchmarks.report raw
"""

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pyarrow.parquet as pq

from benchmarks.machine import spread
from reid_index.errors import UsageError

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Raw:
    """One run: what its .json holds, and the rows of its tables by name."""

    results: dict[str, Any]
    tables: dict[str, Rows]

    @property
    def memory(self) -> tuple[str, str]:
        """Peak over what was there before, and the peak itself, in MB."""
        return _megabytes(self.results["memory"])

    def seconds(self, what: str) -> list[float]:
        """Of each round."""
        return [row["seconds"] for row in self.tables["times"] if row["what"] == what]

    def products(self) -> list[float]:
        """Of each round the faster product's seconds."""
        rounds: dict[int, float] = {}
        for row in self.tables["times"]:
            if row["what"].startswith("product"):
                least = rounds.get(row["round"], row["seconds"])
                rounds[row["round"]] = min(least, row["seconds"])
        return [rounds[number] for number in sorted(rounds)]

    def size(self) -> str:
        """Queries × gallery × dimensions."""
        return " × ".join(f"{number:,}" for number in self.results["size"])

    def parameters(self) -> str:
        """k1/k2/λ."""
        found = self.results
        return f"{found['k1']}/{found['k2']}/{found['lambda_']:g}"


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
def main(folder: Path) -> None:
    """Print the tables that the raw results in FOLDER make."""
    click.echo(tables(folder), nl=False)


def tables(folder: Path) -> str:
    """Markdown. Raises UsageError where the folder holds no raw results."""
    runs = [_read(path) for path in sorted(folder.glob("*.json"))]
    parts = []
    for benchmark, make in _TABLES.items():
        chosen = [run for run in runs if run.results.get("benchmark") == benchmark]
        if chosen:
            machines = dict.fromkeys(_machine(run.results["machine"]) for run in chosen)
            parts.append("\n".join([*machines, "", make(chosen)]))
    if not parts:
        raise UsageError(f"{folder}: no raw results of these benchmarks; run them with --out")
    return "\n".join(parts)


def _read(path: Path) -> Raw:
    found = {
        name: path.with_name(f"{path.stem}-{name}.parquet")
        for name in ("times", "figures", "queries", "answers")
    }
    return Raw(
        json.loads(path.read_text()),
        {name: pq.read_table(table).to_pylist() for name, table in found.items() if table.exists()},
    )


def _machine(facts: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in facts["packages"].items())
    commit = "no commit known" if facts["commit"] is None else f"commit {_short(facts['commit'])}"
    return (
        f"{facts['time'][:10]}, {facts['processor']}, {facts['cores']} cores, "
        f"{facts['memory'] / 2**30:.0f} GiB, Python {facts['python']}, {versions}; {commit}.  "
    )


def _short(commit: str) -> str:
    head, plus, changes = commit.partition("+")
    return head[:10] + plus + changes


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _megabytes(memory: dict[str, int]) -> tuple[str, str]:
    return f"{(memory['peak'] - memory['before']) / 1e6:,.0f}", f"{memory['peak'] / 1e6:,.0f}"


def _ratios(above: list[float], below: list[float]) -> str:
    return spread([a / b for a, b in zip(above, below, strict=True)])


def _evaluate(runs: list[Raw]) -> str:
    head = [
        *("queries × gallery × D", "evaluation ÷ product", "evaluation, s", "product, s"),
        *("MB over the vectors", "MB in all", "ranks equal to the oracle's"),
    ]
    return _table(
        head,
        [
            [
                run.size(),
                _ratios(run.seconds("evaluation"), run.products()),
                spread(run.seconds("evaluation")),
                spread(run.products()),
                *run.memory,
                f"{run.results['exact']} of {run.results['checked']} queries",
            ]
            for run in runs
        ],
    )


def _joint(runs: list[Raw]) -> str:
    head = [
        *("queries × gallery × D, k1/k2/λ", "whole ÷ product", "whole, s", "product, s"),
        *("MB over the vectors", "MB in all", "compared with N × N", "largest difference"),
        *("pairs over 1e-4", "same first 20"),
    ]
    rows = []
    for run in runs:
        checked = run.results["dense"] or run.results["checked"]
        rows.append(
            [
                f"{run.size()}, {run.parameters()}",
                _ratios(run.seconds("whole"), run.products()),
                spread(run.seconds("whole")),
                spread(run.products()),
                *run.memory,
                f"{checked['nodes']:,} nodes",
                *_compared(checked),
            ]
        )
    dense = [run for run in runs if run.results["dense"] is not None]
    return _table(head, rows) + ("\n" + _dense(dense) if dense else "")


def _dense(runs: list[Raw]) -> str:
    head = [
        *("queries × gallery × D, k1/k2/λ", "N × N, s", "ours, s", "N × N ÷ ours"),
        *("N × N, MB over the vectors", "ours"),
    ]
    rows = []
    for run in runs:
        dense, ours = run.results["dense"], statistics.median(run.seconds("whole"))
        rows.append(
            [
                f"{run.size()}, {run.parameters()}",
                f"{dense['seconds']:.3g}",
                f"{ours:.3g}",
                f"{dense['seconds'] / ours:.3g}",
                _megabytes(dense["memory"])[0],
                run.memory[0],
            ]
        )
    return _table(head, rows)


def _compared(checked: dict[str, Any]) -> list[str]:
    return [
        f"{checked['largest_difference']:.2g}",
        f"{checked['over']:,} of {checked['pairs']:,}",
        f"{checked['same_top']:,} of {checked['queries']:,} queries",
    ]


def _device(runs: list[Raw]) -> str:
    head = [
        *("device", "queries × gallery × D, k1/k2/λ", "whole, ms", "MB on the device"),
        *("largest difference to the CPU", "pairs over 1e-4", "same first 20"),
    ]
    rows = []
    for run in runs:
        peak = run.results["device_peak"]
        rows.append(
            [
                run.results["device"],
                f"{run.size()}, {run.parameters()}",
                spread([1000 * value for value in run.seconds("whole")]),
                "-" if peak is None else f"{peak / 1e6:,.0f}",
                *_compared(run.results["checked"]),
            ]
        )
    return _table(head, rows)


def _alone(runs: list[Raw]) -> str:
    head = [
        *("queries, rows × D, k1/k2/λ", "graph", "graph, s", "k-NN, ms", "re-ranked, ms"),
        *("added, ms", "neighbours that the graph holds", "first 20 unlike the exact graph's"),
        "as joint does, largest difference",
    ]
    rows = []
    for run in runs:
        found, times = run.results, run.tables["times"]
        queries, count, dim = found["size"]
        differ, checked = found["differ"], found["checked"]
        unlike = "-"
        if differ is not None:
            unlike = (
                f"{differ['lists']} of {differ['queries']} in order, {differ['sets']} in content; "
                f"{100 * differ['shared']:.2f} % shared"
            )
        rows.append(
            [
                f"{queries:,}, {count:,} × {dim:,}, {run.parameters()}",
                found["graph"],
                f"{found['graph_seconds'][found['graph']]:.3g}",
                *(spread([row[what] for row in times]) for what in ("k-NN", "re-ranked", "added")),
                f"{100 * found['neighbours_found']:.2f} %",
                unlike,
                f"{checked['largest_difference']:.2g} at {checked['rows']:,} rows",
            ]
        )
    return _table(head, rows)


def _map(runs: list[Raw]) -> str:
    return "\n".join(part for run in runs for part in _map_of(run))


def _map_of(run: Raw) -> list[str]:
    figures, found = run.tables["figures"], run.results
    whole = [row for row in figures if row["per_person"] is None]
    head = [
        *("ranked by", "mAP", "mAP, trapezoid", "mINP", "rank-1", "answerable", "gallery"),
    ]
    rows = [
        [
            row["variant"],
            *(f"{100 * row[name]:.2f}" for name in ("mAP", "mAP_trapezoid", "mINP", "rank1")),
            f"{row['answerable']:,} of {row['queries']:,}",
            f"{row['gallery']:,}",
        ]
        for row in whole
    ]
    title = f"{found['name']}, {found['extractor']}, {found['protocol']}; per cent.\n"
    return [
        title,
        _table(head, rows),
        *([_by_person(figures)] if len(whole) < len(figures) else []),
    ]


def _by_person(figures: Rows) -> str:
    """mAP and rank-1 against how many items a person has at most, over the seeds."""
    limits = sorted({row["per_person"] for row in figures if row["per_person"] is not None})
    variants = list(dict.fromkeys(row["variant"] for row in figures))
    head = ["items a person, at most", *(f"{limit}" for limit in limits), "all"]
    rows = []
    for figure, name in (("mAP", "mAP"), ("rank1", "rank-1")):
        for variant in variants:
            cells = []
            for limit in [*limits, None]:
                values = [
                    100 * row[figure]
                    for row in figures
                    if row["variant"] == variant and row["per_person"] == limit
                ]
                cells.append(_percent(values))
            rows.append([f"{name}, {variant}", *cells])
    return _table(head, rows)


def _percent(values: list[float]) -> str:
    if not values:
        return "-"
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{statistics.median(values):.2f} ({min(values):.2f} … {max(values):.2f})"


_TABLES: dict[str, Callable[[list[Raw]], str]] = {
    "evaluate": _evaluate,
    "rerank-joint": _joint,
    "rerank-device": _device,
    "rerank-alone": _alone,
    "map": _map,
}


if __name__ == "__main__":
    main()
