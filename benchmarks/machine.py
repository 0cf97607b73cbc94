"""What a measurement was made on, what it is held against, and how its raw results are kept."""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from threading import Event, Thread
from typing import Any, TypeVar

import click
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

T = TypeVar("T")

PACKAGES = (
    *("numpy", "numba", "faiss-cpu", "faiss-gpu", "torch", "onnxruntime", "openvino", "pillow"),
    *("pyarrow", "av"),
)

REPOSITORY = Path(__file__).parents[1]

_ROOM = 2**29
"""Numbers that a product is held in at most: 2 GiB; larger ones are made in blocks of rows."""


def facts() -> dict[str, Any]:
    """Processor, cores this process may use, memory in bytes, load, Python and package versions,
    commit, time. Null where it cannot be told."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count() or 1,
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "load": os.getloadavg()[0],
        "system": platform.platform(),
        "python": platform.python_version(),
        "packages": versions,
        "commit": _commit(),
        "time": datetime.now(UTC).isoformat(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _commit() -> str | None:
    """The commit of the working tree, with "+changes" where files differ from it."""
    git = ["git", "-C", str(REPOSITORY)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True)
        changes = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True)
    except OSError:
        return None
    if head.returncode or changes.returncode:
        return None
    return head.stdout.strip() + ("+changes" if changes.stdout.strip() else "")


def print_times(times: list[dict[str, Any]]) -> None:
    """A line for each `what` of the rows: the median and range of its `seconds`."""
    for what in dict.fromkeys(row["what"] for row in times):
        click.echo(f"{what}: s {spread([row['seconds'] for row in times if row['what'] == what])}")


def spread(values: Sequence[float]) -> str:
    """Median and range, three significant digits."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.3g} ({low:.3g} … {high:.3g})"


def keep(path: Path | None, results: dict[str, Any]) -> None:
    """Write raw results with the machine's facts, if a path is given."""
    if path is not None:
        path.write_text(json.dumps({"machine": facts(), **results}, indent=1) + "\n")


def keep_raw(
    folder: Path | None, name: str, results: dict[str, Any], **tables: list[dict[str, Any]]
) -> None:
    """Write NAME.json, as `keep` does, and NAME-TABLE.parquet for each table, if a folder is given.

    A table is its rows, which all have the same keys.
    """
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    for table, rows in tables.items():
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{name}-{table}.parquet")
    keep(folder / f"{name}.json", results)


@dataclass(frozen=True)
class Product:
    """The bare product a @ b.T of float32 matrices (n, D), (m, D): what others are held against.

    It goes into memory that is there already. b is no view of a: NumPy takes another, slower way
    for a matrix times its own transpose.
    """

    a: NDArray[np.float32]
    b: NDArray[np.float32]
    room: NDArray[np.float32]

    @classmethod
    def of(cls, a: NDArray[np.float32], b: NDArray[np.float32]) -> "Product":
        """Makes and touches the memory for the product, or for a block of it, and warms up."""
        room = np.zeros((min(len(a), max(1, _ROOM // len(b))), len(b)), np.float32)
        room += 1
        cls(a[:64], b, room).seconds()
        return cls(a, b, room)

    def seconds(self) -> dict[str, float]:
        """Wall seconds by NumPy and, where it is installed, by torch."""
        start = time.perf_counter()
        for at in range(0, len(self.a), len(self.room)):
            some = self.a[at : at + len(self.room)]
            np.matmul(some, self.b.T, out=self.room[: len(some)])
        taken = {"product, numpy": time.perf_counter() - start}
        try:
            import torch
        except ImportError:
            return taken
        a, b, room = (torch.from_numpy(array) for array in (self.a, self.b, self.room))
        start = time.perf_counter()
        for at in range(0, len(a), len(room)):
            piece = a[at : at + len(room)]
            torch.mm(piece, b.T, out=room[: len(piece)])
        taken["product, torch"] = time.perf_counter() - start
        return taken


def timed(function: Callable[[], T]) -> tuple[float, T]:
    """Wall seconds that function takes, and what it returns."""
    start = time.perf_counter()
    made = function()
    return time.perf_counter() - start, made


def in_fresh_process(module: str, function: str, **arguments: Any) -> Any:
    """What module.function(**arguments) returns in a new interpreter; both sides fit into JSON."""
    program = (
        "import importlib, json, sys; sys.path.insert(0, sys.argv[1]); "
        "function = getattr(importlib.import_module(sys.argv[2]), sys.argv[3]); "
        "print(json.dumps(function(**json.loads(sys.argv[4]))))"
    )
    words = [str(REPOSITORY), module, function, json.dumps(arguments)]
    done = subprocess.run(
        [sys.executable, "-c", program, *words], stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def memory_of(function: Callable[[], T]) -> tuple[dict[str, int], T]:
    """Resident bytes of this process `before` function runs and their `peak` while it does, and
    what it returns.

    The peak is /proc's, set back before: `ru_maxrss` of a new process begins with what its parent
    held. Linux only; elsewhere both are `ru_maxrss`.
    """
    before = _resident("VmRSS")
    reset = Path("/proc/self/clear_refs")
    if reset.exists():
        reset.write_text("5")
    made = function()
    return {"before": before, "peak": _resident("VmHWM")}, made


def _resident(field: str) -> int:
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = [line for line in status.read_text().splitlines() if line.startswith(field)]
        return int(line.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


@contextmanager
def told(what: str, *, every: float = 60) -> Iterator[None]:
    """Says on standard error that something long begins, still runs, and how long it took."""
    click.echo(f"{what} …", err=True)
    start, done = time.perf_counter(), Event()

    def wait() -> None:
        while not done.wait(every):
            click.echo(f"{what}: {(time.perf_counter() - start) / 60:.0f} min", err=True)

    thread = Thread(target=wait, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    click.echo(f"{what}: {time.perf_counter() - start:.1f} s", err=True)
