"""Damaged input of every kind, to see that nothing but this project's own errors comes out.

    python -m benchmarks.fuzz --cases 100000 --out fuzz.json
    python -m benchmarks.fuzz --only items --case 1234 --seed 0      one case again, with traceback

Real files are made in a temporary folder, damaged by a seeded generator and read as everything else
reads them, in child processes with little memory and time: a crash, a hang or an allocation without
measure is a failure as much as a foreign error. A case is known by target, seed and number.
"""

import json
import math
import mmap
import os
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import click

from benchmarks.fuzz_targets import TARGETS, Case, Target
from benchmarks.machine import keep
from reid_index.errors import ReidIndexError

SECONDS = 10
"""What one case may take."""

MEMORY = 6 * 2**30
"""Bytes of addresses that a child may take beyond what it begins with."""

_BATCH = 500
_KEPT = 20
"""Failures of a target of which everything is kept."""


@dataclass
class Tally:
    """What came of the cases of one target. refused: by class of error. failures: what else came
    out, with the number of the case. Cases that a full list of failures has no room for count."""

    accepted: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    failures: list[dict[str, Any]] = field(default_factory=list)
    failed: int = 0
    seconds: float = 0.0

    @property
    def cases(self) -> int:
        """How many there were."""
        return self.accepted + self.refused.total() + self.failed

    def note(self, number: int, outcome: str) -> None:
        """Count one: "" for accepted, a class of error, or what went wrong after a "!"."""
        if not outcome:
            self.accepted += 1
        elif outcome[0] != "!":
            self.refused[outcome] += 1
        else:
            self.failed += 1
            if len(self.failures) < _KEPT:
                self.failures.append({"case": number, "what": outcome[1:]})


def run_case(target: Target, case: Case, number: int, seed: int) -> str:
    """What comes of one case; see `Tally.note`."""
    try:
        case(Random(f"{seed} {target.name} {number}"))
    except ReidIndexError as error:
        lines = str(error).splitlines()
        # A where expression is shown below the message.
        if not lines or (len(lines) > 1 and type(error).__name__ != "WhereError"):
            return f"!{type(error).__name__} of {len(lines)} lines: {lines[:2]}"
        return type(error).__name__
    except Exception as error:
        return f"!{type(error).__name__}: {str(error)[:300]}"
    return ""


def fuzz(target: Target, cases: int, *, seed: int, failures: Path | None = None) -> Tally:
    """Run so many cases of a target. failures: a folder for the files of those that fail."""
    tally = Tally()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        world = Path(scratch) / "world"
        world.mkdir()
        # In a child: threads that making it starts do not survive in those to come.
        if _in_child(lambda: target.make(world)):
            raise RuntimeError(f"{target.name}: what to begin with cannot be made")
        first = 0
        while first < cases:
            work = Path(scratch) / "work"
            shutil.copytree(world, work)
            numbers = range(first, min(first + _BATCH, cases))
            first = _batch(target, work, numbers, seed=seed, tally=tally, failures=failures)
            shutil.rmtree(work)
    tally.seconds = time.perf_counter() - start
    return tally


def _batch(
    target: Target,
    work: Path,
    numbers: Sequence[int],
    *,
    seed: int,
    tally: Tally,
    failures: Path | None,
) -> int:
    """Run cases in one child, up to one that ends it; the next number."""
    at = mmap.mmap(-1, 8)
    at[:] = struct.pack("q", -1)
    notes = work.with_name("notes")
    notes.write_bytes(b"")

    def run() -> None:
        warnings.simplefilter("ignore")
        case = target.start(work)
        _limit()
        with notes.open("a", buffering=1) as file:
            for number in numbers:
                at[:] = struct.pack("q", number)
                signal.alarm(SECONDS)
                outcome = run_case(target, case, number, seed)
                signal.alarm(0)
                if outcome[:1] == "!":
                    _preserve(work, failures, f"{target.name}-{number}")
                file.write(json.dumps([number, outcome]) + "\n")

    status = _in_child(run)
    for line in notes.read_text().splitlines():
        tally.note(*json.loads(line))
    if status == 0:
        return numbers[-1] + 1
    (ended,) = struct.unpack("q", at[:])
    if ended < 0:
        raise RuntimeError(f"{target.name}: not one case could be begun")
    tally.note(ended, f"!{_words(status)}")
    _preserve(work, failures, f"{target.name}-{ended}")
    return int(ended) + 1


def _in_child(function: Any) -> int:
    """Run a function in a forked child that prints nothing; its wait status, 0 when all is well."""
    child = os.fork()
    if child == 0:
        try:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            if "REID_FUZZ_SHOW" not in os.environ:
                os.dup2(nowhere, 1)
                os.dup2(nowhere, 2)
            function()
            os._exit(0)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
    return os.waitpid(child, 0)[1]


def _limit() -> None:
    with open("/proc/self/statm") as file:
        taken = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, taken + MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _words(status: int) -> str:
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        return f"over {SECONDS} s" if name == "SIGALRM" else f"ended by {name}"
    return f"ended with exit code {os.WEXITSTATUS(status)}"


def _preserve(work: Path, failures: Path | None, name: str) -> None:
    if failures is not None and len(list(failures.glob(f"{name.rpartition('-')[0]}-*"))) < _KEPT:
        shutil.copytree(work, failures / name, dirs_exist_ok=True)


@click.command()
@click.option("--cases", default=10_000, show_default=True, help="Of all targets together.")
@click.option("--seed", default=0, show_default=True)
@click.option("--only", type=click.Choice([target.name for target in TARGETS]), multiple=True)
@click.option("--case", "number", type=int, help="Only this one, here, with its traceback.")
@click.option("--out", type=click.Path(path_type=Path), help="Results as JSON.")
@click.option("--failures", type=click.Path(path_type=Path), help="A folder for what failed.")
def main(
    cases: int,
    seed: int,
    only: tuple[str, ...],
    number: int | None,
    out: Path | None,
    failures: Path | None,
) -> None:
    """Read damaged files."""
    chosen = [target for target in TARGETS if not only or target.name in only]
    if number is not None:
        _again(chosen[0], number, seed)
        return
    present = [target for target in chosen if not target.missing]
    if failures is not None:
        failures.mkdir(parents=True, exist_ok=True)
    shares = sum(target.share for target in present)
    tallies = {}
    for target in present:
        mine = math.ceil(cases * target.share / shares)
        tally = tallies[target.name] = fuzz(target, mine, seed=seed, failures=failures)
        refused = ", ".join(f"{count:,} {name}" for name, count in tally.refused.most_common())
        click.echo(
            f"{target.name}: {tally.cases:,} cases in {tally.seconds:.0f} s, {tally.accepted:,} "
            f"accepted, refused: {refused or 'none'}, failed: {tally.failed:,}"
        )
        for failure in tally.failures:
            click.echo(f"  case {failure['case']}: {failure['what']}")
    results = {
        "seed": seed,
        "cases": sum(tally.cases for tally in tallies.values()),
        "failed": sum(tally.failed for tally in tallies.values()),
        "limits": {"seconds": SECONDS, "bytes": MEMORY},
        "not there": {target.name: target.missing for target in chosen if target.missing},
        "targets": {
            name: {
                "cases": tally.cases,
                "accepted": tally.accepted,
                "refused": dict(tally.refused),
                "failed": tally.failed,
                "failures": tally.failures,
                "seconds": round(tally.seconds, 1),
            }
            for name, tally in tallies.items()
        },
    }
    keep(out, results)
    click.echo(f"{results['cases']:,} cases, {results['failed']:,} failed")
    sys.exit(1 if results["failed"] else 0)


def _again(target: Target, number: int, seed: int) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        target.make(Path(scratch))
        target.start(Path(scratch))(Random(f"{seed} {target.name} {number}"))
    click.echo(f"{target.name} {number}: accepted")


if __name__ == "__main__":
    main()
