"""Does a gallery survive? Readers beside a writer, and writers that are killed at random instants.

    python -m benchmarks.soak readers --seconds 120 --readers 8 --out FILE
    python -m benchmarks.soak kills --times 300 --out FILE

The vector of an item follows from its id, and what the writer is going to do is written down before
it does it; so every answer is compared with the right one for the generation that gave it.
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmarks.machine import REPOSITORY, keep
from reid_index import (
    ArrayStream,
    Fingerprint,
    Gallery,
    Reranking,
    verify_gallery,
    write_shard,
)

_DIM = 32
_CAMERAS = 5
_MOST = 4_000
"""Items from which on the writer deletes more than it adds."""

_COMMITS = 6
"""Generations that one operation makes at most: a compaction makes attachments again, too."""

_RERANKING = Reranking(k1=6, k2=3)


def vectors_of(items: NDArray[np.int64]) -> NDArray[np.float32]:
    """float32 (n, D): splitmix64 of item and column, of length 1."""
    with np.errstate(over="ignore"):
        mixed = items.astype(np.uint64)[:, None] * np.uint64(_DIM) + np.arange(
            _DIM, dtype=np.uint64
        )
        mixed = (mixed + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    numbers = (mixed >> np.uint64(11)).astype(np.float64) / 2.0**53 - 0.5
    numbers /= np.linalg.norm(numbers, axis=1, keepdims=True)
    return numbers.astype(np.float32)


def _records(items: NDArray[np.int64]) -> list[dict[str, Any]]:
    return [{"camera": int(item) % _CAMERAS, "person": f"person {item}"} for item in items]


@dataclass(frozen=True)
class Step:
    """What a writer does next, and the items that there are afterwards."""

    what: str
    touched: NDArray[np.int64]
    after: NDArray[np.int64]


def next_step(rng: random.Random, present: NDArray[np.int64], next_item: int) -> Step:
    """Follows from the generator's state alone."""
    if len(present) == 0 or rng.random() < (0.45 if len(present) < _MOST else 0.15):
        new = np.arange(next_item, next_item + rng.randint(1, 200))
        return Step("add", new, np.concatenate([present, new]))
    if rng.random() < 0.6:
        gone = np.array(rng.sample(present.tolist(), min(len(present), rng.randint(1, 150))))
        return Step("delete", gone, np.setdiff1d(present, gone))
    kinds = ["compact", "compact", "graph", "rebuild"]
    return Step(rng.choice(kinds), np.empty(0, np.int64), present)


def take(gallery: Gallery, step: Step) -> None:
    """Do it."""
    if step.what == "add":
        gallery.add(vectors_of(step.touched), _records(step.touched))
    elif step.what == "delete":
        assert gallery.delete(items=step.touched.tolist()) == len(step.touched)
    elif step.what == "compact":
        gallery.compact()
    elif step.what == "rebuild":
        _rebuild(gallery, step.after)
    elif len(gallery) >= _RERANKING.length:
        gallery.build_graph(_RERANKING)


def _rebuild(gallery: Gallery, items: NDArray[np.int64]) -> None:
    """Give it another extractor, which makes the same vectors."""
    before = gallery.fingerprint
    with tempfile.TemporaryDirectory(dir=gallery.path.parent) as scratch:
        write_shard(
            Path(scratch) / "part",
            arrays={"global": ArrayStream.of(vectors_of(items))},
            items=[pa.table({"item": items})],
            fingerprint=replace(before, version=str(int(before.version) + 1)),
            metric=gallery.metric,
        )
        gallery.rebuild([Path(scratch) / "part"], recipe={})


def _new_gallery(path: Path) -> Gallery:
    fingerprint = Fingerprint(name="external:soak", version="1")
    return Gallery.create(path, dim=_DIM, fingerprint=fingerprint)


@click.group()
def main() -> None:
    """Soak tests."""


@main.command()
@click.option("--seconds", default=120.0, show_default=True)
@click.option("--readers", default=8, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Raw results as JSON.")
def readers(seconds: float, readers: int, seed: int, out: Path | None) -> None:
    """One writer and several reader processes: no error, no wrong answer."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "truth").mkdir()
        gallery = _new_gallery(folder / "g")
        _write_truth(folder, 0, np.empty(0, np.int64))
        gallery.close()
        until = str(time.time() + seconds)
        jobs = [("write", seed), *(("read", seed + 1 + number) for number in range(readers))]
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", "benchmarks.soak", "job", kind, scratch, until, str(number)],
                cwd=REPOSITORY,
                stdout=subprocess.PIPE,
                text=True,
            )
            for kind, number in jobs
        ]
        outputs = [process.communicate()[0] for process in processes]
        codes = [process.returncode for process in processes]
        told = [json.loads(text.splitlines()[-1]) for text in outputs if text.strip()]
        with Gallery.open(folder / "g") as last:
            problems = verify_gallery(last)
    answers = sum(one.get("answers", 0) for one in told[1:])
    generations = len(set().union(*(one.get("generations", []) for one in told[1:])))
    click.echo(f"writer: {told[0]}")
    click.echo(f"{readers} readers: {answers:,} answers of {generations:,} generations, all right")
    click.echo(f"exit codes {codes}; verify: {problems or 'whole'}")
    keep(out, {"benchmark": "soak readers", "seconds": seconds, "told": told, "codes": codes})
    if any(codes) or problems:
        raise SystemExit(1)


@main.command(hidden=True)
@click.argument("kind")
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("until", type=float)
@click.argument("seed", type=int)
def job(kind: str, folder: Path, until: float, seed: int) -> None:
    """One of the processes of `readers`."""
    made = _write(folder, until, seed) if kind == "write" else _read(folder, until, seed)
    click.echo(json.dumps(made))


def _write(folder: Path, until: float, seed: int) -> dict[str, Any]:
    rng, done, pending = random.Random(seed), Counter[str](), 0
    present = np.empty(0, np.int64)
    gallery = Gallery.open(folder / "g")
    while time.time() < until:
        manifest = gallery.manifest
        step = next_step(rng, present, manifest.next_item)
        for number in range(1, _COMMITS + 1):
            _write_truth(folder, manifest.generation + number, step.after)
        if step.what == "compact":
            pending += bool(gallery.compact().pending)
        else:
            take(gallery, step)
        present = step.after
        done[step.what] += 1
    return {"steps": dict(done), "generation": gallery.manifest.generation, "pending": pending}


def _read(folder: Path, until: float, seed: int) -> dict[str, Any]:
    rng, answers, seen = random.Random(seed), 0, set()
    gallery = Gallery.open(folder / "g")
    while time.time() < until:
        if rng.random() < 0.3:
            gallery.close()
            gallery = Gallery.open(folder / "g")
        else:
            gallery.refresh()
        generation = gallery.manifest.generation
        seen.add(generation)
        present = np.load(folder / f"truth/{generation}.npy")
        for _ in range(rng.choice([1, 1, 1, 5, 30])):  # now and then a generation is held for long
            _ask(gallery, present, rng)
            answers += 1
    return {"answers": answers, "generations": sorted(seen)}


def _ask(gallery: Gallery, present: NDArray[np.int64], rng: random.Random) -> None:
    """One query with or without a filter. Raises AssertionError where the answer is not right."""
    k, camera = rng.randint(1, 20), rng.choice([None, rng.randrange(_CAMERAS)])
    target = vectors_of(np.array([rng.randrange(100_000)]))[0]
    where = None if camera is None else f"camera = {camera}"
    found = gallery.search(target, k=k, where=where)
    allowed = present if camera is None else present[present % _CAMERAS == camera]
    assert (len(gallery), found.allowed) == (len(present), len(allowed))
    scores = (vectors_of(allowed).astype(np.float64) @ target.astype(np.float64)).astype(np.float32)
    order = np.lexsort((allowed, -scores))[:k]
    assert [match.item for match in found.matches] == allowed[order].tolist()
    similarities = [match.similarity for match in found.matches]
    np.testing.assert_allclose(similarities, scores[order], atol=1e-6)


def _write_truth(folder: Path, generation: int, items: NDArray[np.int64]) -> None:
    path = folder / f"truth/{generation}.npy"
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        np.save(file, items, allow_pickle=False)
    temporary.replace(path)


@main.command()
@click.option("--times", default=300, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Raw results as JSON.")
def kills(times: int, seed: int, out: Path | None) -> None:
    """A writer killed with SIGKILL at random instants, again and again, in one gallery."""
    rng = random.Random(seed)
    killed: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "g"
        _new_gallery(path).close()
        present, next_item = np.empty(0, np.int64), 0
        while len(killed) < times:
            own = rng.randrange(2**32)
            acknowledged, seconds = _killed(path, own, present, rng.uniform(0.0, 0.4))
            present, next_item, at = _after(path, own, acknowledged, present, next_item)
            killed.append({"after": seconds, "acknowledged": acknowledged, "in": at})
    during = Counter(one["in"] for one in killed)
    click.echo(f"killed {len(killed)} times, in {dict(during)}: nothing lost, nothing half done")
    keep(out, {"benchmark": "soak kills", "seed": seed, "killed": killed})


def _killed(path: Path, seed: int, present: NDArray[np.int64], delay: float) -> tuple[int, float]:
    """Steps that a child has acknowledged before it was killed, after so many seconds at work."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read_end)
        _work(path, seed, present, write_end)
    os.close(write_end)
    os.read(read_end, 1)  # it has begun
    time.sleep(delay)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with os.fdopen(read_end, "rb") as pipe:
        return len(pipe.read()), delay


def _work(path: Path, seed: int, present: NDArray[np.int64], acknowledge: int) -> None:
    """Step after step until killed; a byte for each that has returned."""
    try:
        rng = random.Random(seed)
        gallery = Gallery.open(path)
        os.write(acknowledge, b"b")
        while True:
            step = next_step(rng, present, gallery.manifest.next_item)
            take(gallery, step)
            os.write(acknowledge, b"s")
            present = step.after
    finally:
        os._exit(3)  # only by an error


def _after(
    path: Path, seed: int, acknowledged: int, present: NDArray[np.int64], next_item: int
) -> tuple[NDArray[np.int64], int, str]:
    """The items that are there, the next id, and the step that was under way.

    Raises AssertionError unless these are the items after the acknowledged steps, or after the one
    that was under way, too.
    """
    rng = random.Random(seed)
    for _ in range(acknowledged):
        step = next_step(rng, present, next_item)
        present = step.after
        if step.what == "add":
            next_item += len(step.touched)
    under_way = next_step(rng, present, next_item)
    with Gallery.open(path) as gallery:
        items = np.sort(gallery.items["item"].to_numpy())
        done = not np.array_equal(items, np.sort(present))
        if done:
            assert np.array_equal(items, np.sort(under_way.after)), "neither before nor after"
        rows = np.argsort(gallery.items["item"].to_numpy())
        assert np.allclose(gallery.vectors(rows.tolist()), vectors_of(items), atol=1e-6)
        problems = verify_gallery(gallery)
        assert problems == [], problems
        return (under_way.after if done else present), gallery.manifest.next_item, under_way.what


if __name__ == "__main__":
    main()
