"""Filtered search: this project and others, each in a process of its own, on the same questions.

    python -m benchmarks.filter --keep stores --out raw               all that are installed
    python -m benchmarks.filter --keep stores --out raw --only ours --only qdrant
    python -m benchmarks.filter --keep stores --build                 only builds what is missing
    python -m benchmarks.filter --keep stores --out raw --penalty     the planner beside each path

Timed is what somebody waits for, from the filter's conditions to ids. Recall is against the exact
answer under the filter, ties aside.
"""

import importlib
import importlib.util
import json
import os
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks.filter_world import QUERIES, K, World, make_world, open_world
from benchmarks.machine import in_fresh_process, keep_raw, memory_of, told
from benchmarks.peers import PEERS, Opened

BATCH = 32

_SINGLES = (32, 200)
"""Fewest and most single queries of a cell; slow ones (over _SLOW seconds) get a third of it."""
_SLOW = 0.05
_HOPELESS = 0.1
"""Seconds of a single query, beyond which no batch is measured: it would be 32 of them."""
_BATCHES = (3, 20)
_SECONDS = 2.0
"""What a cell may take for single queries, and for batches, while it stays in those limits."""


@click.command()
@click.option("--keep", type=click.Path(path_type=Path), required=True, help="Stores, built once.")
@click.option("--rows", default=200_000, show_default=True)
@click.option("--dim", default=512, show_default=True)
@click.option("--only", multiple=True, type=click.Choice(list(PEERS)))
@click.option("--build", "only_build", is_flag=True, help="Build what is missing and end.")
@click.option("--quick", is_flag=True, help="Three queries and one batch a cell.")
@click.option("--penalty", is_flag=True, help="The planner beside each path it could have chosen.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for raw results.")
def main(
    keep: Path,
    rows: int,
    dim: int,
    only: Sequence[str],
    only_build: bool,
    quick: bool,
    penalty: bool,
    out: Path | None,
) -> None:
    """Measure filtered search."""
    folder = prepare(keep.resolve(), rows=rows, dim=dim)
    if penalty:
        _penalty(folder, rows, quick, out)
        return
    for name in only or PEERS:
        if importlib.util.find_spec(PEERS[name].needs) is None:
            click.echo(f"{name}: {PEERS[name].needs} is not installed, left out", err=True)
            continue
        ensure_built(folder, name)
        if only_build:
            continue
        with told(f"{name}, {rows:,} rows"):
            found = in_fresh_process(
                "benchmarks.filter", "measure", folder=str(folder), name=name, quick=quick
            )
        times = found.pop("times")
        keep_raw(out, f"filter-{rows}-{name}", found, times=times)
        for line in summary(times):
            click.echo(f"{name}, {line}")


def _penalty(folder: Path, rows: int, quick: bool, out: Path | None) -> None:
    from benchmarks import filter_penalty  # the processes of peers import this file, not our engine

    ensure_built(folder, "ours")
    with told(f"penalty, {rows:,} rows"):
        found = in_fresh_process(
            "benchmarks.filter_penalty", "measure", folder=str(folder), name="ours", quick=quick
        )
    times = found.pop("times")
    keep_raw(out, f"filter-penalty-{rows}", found, times=times)
    for line in filter_penalty.summary(filter_penalty.penalties(times)):
        click.echo(line)


def prepare(keep: Path, *, rows: int, dim: int) -> Path:
    """The folder of what belongs to a world of that size, which is drawn if it is not there."""
    folder = keep / f"{rows}x{dim}"
    if not (folder / "world").exists():
        with told(f"a world of {rows:,} rows"):
            make_world(folder / "world", rows=rows, dim=dim)
    return folder


def ensure_built(folder: Path, name: str) -> None:
    """Build the system's store in a fresh process unless it is there, whole."""
    if not _record(folder, name).exists():
        with told(f"{name}: build"):
            in_fresh_process("benchmarks.filter", "build", folder=str(folder), name=name)


def _record(folder: Path, name: str) -> Path:
    return folder / f"{name}.json"


def build(*, folder: str, name: str) -> dict[str, Any]:
    """Build the store of one system and note what that took; runs in a process of its own."""
    world = open_world(Path(folder) / "world")
    store = Path(folder) / name
    shutil.rmtree(store, ignore_errors=True)
    module = importlib.import_module(PEERS[name].module)
    before = os.getloadavg()[0]
    memory, seconds = memory_of(lambda: module.build(world, store))
    record = {
        "seconds": seconds,
        "load": [before, os.getloadavg()[0]],
        "memory": memory,
        "bytes": sum(p.lstat().st_blocks * 512 for p in store.rglob("*") if p.is_file()),
        "packages": {package: version(package) for package in PEERS[name].packages},
        "time": datetime.now(UTC).isoformat(),
    }
    _record(Path(folder), name).write_text(json.dumps(record, indent=1) + "\n")
    return record


def measure(*, folder: str, name: str, quick: bool) -> dict[str, Any]:
    """All cells of one system; runs in a process of its own."""
    world = open_world(Path(folder) / "world")
    module = importlib.import_module(PEERS[name].module)
    rows, dim = world.vectors.shape
    before = _memory(())
    start = time.perf_counter()
    opened: Opened = module.Opened(world, Path(folder) / name)
    try:
        seconds = time.perf_counter() - start
        cells = []
        for variant in module.variants(rows):
            for place in range(len(world.filters)):
                cells.append(_cell(world, opened, variant, place, quick=quick))
        memory = {"before": before, "after": _memory(opened.processes())}
    finally:
        opened.close()
    return {
        "benchmark": "filter",
        "system": name,
        "rows": rows,
        "dim": dim,
        "k": K,
        "quick": quick,
        "open": seconds,
        "memory": memory,
        "build": json.loads(_record(Path(folder), name).read_text()),
        # Only now: looking rows up would make the world's own pages count as the system's.
        "times": [row for cell in cells for row in _judged(world, cell)],
    }


def _cell(
    world: World, opened: Opened, variant: str, place: int, *, quick: bool
) -> list[dict[str, Any]]:
    """Timed answers to one filter: single queries, then batches."""
    chosen = world.filters[place]

    def ask(first: int, count: int) -> NDArray[np.int64]:
        return opened.search(world.queries[first : first + count], chosen, variant, K)

    starts = {1: range(QUERIES), BATCH: range(0, QUERIES, BATCH)}
    timed = []
    for batch, limits in ((1, _SINGLES), (BATCH, _BATCHES)):
        if batch > 1 and statistics.median(one["seconds"] for one in timed) > _HOPELESS:
            break
        rounds = 1 if quick else _rounds(lambda batch=batch: ask(0, batch), limits)  # type: ignore[misc]
        if quick and batch == 1:
            rounds = 3
        for turn, first in enumerate(islice(cycle(starts[batch]), rounds)):
            begin = time.perf_counter()
            found = ask(first, batch)
            timed.append(
                {
                    "variant": variant,
                    "place": place,
                    "batch": batch,
                    "round": turn,
                    "first": first,
                    "seconds": time.perf_counter() - begin,
                    "load": os.getloadavg()[0],
                    "found": found,
                }
            )
    return timed


def _rounds(ask: Callable[[], object], limits: tuple[int, int]) -> int:
    """Warm up; how often to ask then."""
    ask()
    start = time.perf_counter()
    ask()
    once = time.perf_counter() - start
    fewest, most = limits
    if once > _SLOW:
        fewest = max(3, fewest // 3)
    return min(most, max(fewest, int(_SECONDS / once)))


def _judged(world: World, timed: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of the raw table: with the filter in words and recall for the answer."""
    rows = []
    for one in timed:
        found = one.pop("found")
        place, first = one.pop("place"), one["first"]
        chosen = world.filters[place]
        recalls = [
            world.recall(place, first + number, answer) for number, answer in enumerate(found)
        ]
        rows.append(
            {
                **one,
                "family": chosen.family,
                "rate": chosen.rate,
                "allowed": chosen.allowed,
                "recall": float(np.mean(recalls)),
            }
        )
    return rows


def _memory(others: Sequence[int]) -> dict[str, int]:
    """Bytes that this process holds, anonymous and mapped from files, and other processes' shares.
    Linux only."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    shares = 0
    for process in others:
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                shares += int(line.split()[1]) * 1024
    return {
        "anonymous": int(status["RssAnon"].split()[0]) * 1024,
        "mapped": int(status["RssFile"].split()[0]) * 1024,
        "others": shares,
    }


def summary(times: Sequence[dict[str, Any]]) -> list[str]:
    """A line for each cell."""
    cells: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in times:
        key = (row["variant"], row["family"], row["rate"], row["allowed"], row["batch"])
        cells.setdefault(key, []).append(row)
    lines = []
    for (variant, family, rate, allowed, batch), rows in cells.items():
        middle = 1000 * float(np.median([row["seconds"] for row in rows]))
        recall = float(np.mean([row["recall"] for row in rows]))
        lines.append(
            f"{variant}: {family} {100 * rate:g} % ({allowed:,} rows), batch {batch}: "
            f"{middle:.3g} ms, recall {recall:.3f}"
        )
    return lines


if __name__ == "__main__":
    main()
