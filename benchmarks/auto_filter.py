"""Search and sort with and without filtering by the target's attributes, side by side.

    python -m benchmarks.auto_filter GALLERY QUERIES --auto-filter 0.7 --out auto_filter.json

GALLERY and QUERIES have attributes and person labels, as `reid build --attributes MODEL` and `reid
attributes` leave them. For each size the gallery's items are repeated, their vectors with a little
noise on them, their attributes as they are; for each D all vectors are turned to D dimensions by
one random map (see `turned`).

Each query is asked both ways in turn, so that their ratio is of the same moments: all items scored
and sorted, as for the ranking of an evaluation (`Gallery.nearest`, k: all), and the usual answer of
20 (`Gallery.search`). With the filter, what is known of the target becomes the mask within the
time. Each query is another target, so that only answers to single predicates are kept from one to
the next. The first query after opening, which finds none kept, and the second, which prepares
columns, are told apart from the later ones.
"""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from benchmarks.machine import keep, spread, told
from cli.attribute_options import AutoFilter, auto_filter_options, parse_auto_filter
from reid_index import Agreement, Fingerprint, Gallery
from reid_index.attributes import PREFIX
from reid_index.errors import UsageError
from reid_index.filters.agreement import known_of

ALL, SOME = "all", 20

_AT_ONCE = 100_000
"""Rows written at a time."""


@click.command()
@click.argument("gallery", type=click.Path(path_type=Path))
@click.argument("queries", type=click.Path(path_type=Path))
@auto_filter_options
@click.option("--rows", multiple=True, type=int, help="Sizes [default: its own, 200000, 1000000]")
@click.option("--dim", "dims", multiple=True, type=int, default=(512, 128), show_default=True)
@click.option("--count", default=30, show_default=True, help="Queries of each kind.")
@click.option("--noise", default=0.05, show_default=True, help="Its length beside a vector's of 1.")
@click.option("--scratch", type=click.Path(path_type=Path), help="Where galleries are made.")
@click.option("--out", type=click.Path(path_type=Path), help="A JSON file of raw results.")
def main(
    gallery: Path,
    queries: Path,
    auto_filter: str | None,
    filter_at: tuple[str, ...],
    no_filter_by: tuple[str, ...],
    rows: tuple[int, ...],
    dims: tuple[int, ...],
    count: int,
    noise: float,
    scratch: Path | None,
    out: Path | None,
) -> None:
    """Measure queries with and without the filter."""
    filtering = parse_auto_filter(auto_filter or "0.7", filter_at, no_filter_by)
    assert filtering is not None
    base, asked = Gallery.open(gallery), Gallery.open(queries)
    sizes = rows or (len(base), 200_000, 1_000_000)
    found: list[dict[str, Any]] = []
    for dim in dims:
        for size in sizes:
            with (
                told(f"{size:,} items, D = {dim}"),
                tempfile.TemporaryDirectory(dir=scratch) as folder,
            ):
                path = Path(folder) / "g"
                repeat(base, path, rows=size, dim=dim, noise=noise)
                some = measure(path, targets(asked, filtering, dim=dim, count=2 * count))
            found += some
            for line in summary(some):
                click.echo(f"{size:,} items, D = {dim}: {line}")
    about = {
        "benchmark": "auto_filter",
        "threshold": filtering.threshold,
        "thresholds": dict(filtering.thresholds),
        "unused": list(filtering.unused),
        "noise": noise,
        "items": len(base),
    }
    keep(out, {**about, "times": found})


def turned(vectors: NDArray[np.float32], dim: int) -> NDArray[np.float32]:
    """Vectors (n, D) by a random matrix with orthonormal rows or columns, as unit vectors (n, dim):
    all angles stay with dim ≥ D, and about so with fewer. D = dim: as they are."""
    width = vectors.shape[1]
    if width != dim:
        rng = np.random.default_rng(dim)
        columns, _ = np.linalg.qr(rng.standard_normal((max(width, dim), min(width, dim))))
        vectors = vectors @ (columns if width > dim else columns.T).astype(np.float32)
    unit: NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return unit


def repeat(base: Gallery, path: Path, *, rows: int, dim: int, noise: float) -> None:
    """Make a gallery of so many items: those of the base, again and again, the later ones noisy."""
    rng = np.random.default_rng(1)
    vectors = turned(base.vectors(range(len(base))), dim)
    columns = [
        name for name in base.items.column_names if name in ("camera", "person") or PREFIX in name
    ]
    items = base.items.select(columns)
    print_of = Fingerprint(name="external:repeated", version="1")
    made = Gallery.create(path, dim=dim, fingerprint=print_of)
    for at in range(0, rows, _AT_ONCE):
        places = np.arange(at, min(rows, at + _AT_ONCE))
        some = vectors[places % len(base)]
        later = places >= len(base)
        wander = rng.standard_normal(some.shape, np.float32)
        some += later[:, None] * wander * np.float32(noise / np.sqrt(dim))
        made.add(some, items.take(pa.array(places % len(base))))
    made.close()


@dataclass(frozen=True, kw_only=True)
class Target:
    """A query: its vector, what its attributes ask for, its person and camera."""

    vector: NDArray[np.float32]
    agreement: Agreement
    person: str
    camera: int | None


def targets(asked: Gallery, filtering: AutoFilter, *, dim: int, count: int) -> list[Target]:
    """So many of the queries, by chance, of whose attributes something is known; or all."""
    order = np.random.default_rng(2).permutation(len(asked))
    vectors = turned(asked.vectors(range(len(asked))), dim)
    chosen: list[Target] = []
    for row in order.tolist():
        record = asked.items.slice(row, 1).to_pydict()
        known = known_of(record)
        if known and record["person"] != [None]:
            chosen.append(
                Target(
                    vector=vectors[row],
                    agreement=Agreement(
                        known, filtering.threshold, filtering.thresholds, filtering.unused
                    ),
                    person=record["person"][0],
                    camera=record["camera"][0],
                )
            )
        if len(chosen) == count:
            break
    if len(chosen) < 6:
        raise UsageError(f"{asked.path}: six queries with attributes and a person, at least")
    return chosen


def measure(path: Path, asked: Sequence[Target]) -> list[dict[str, Any]]:
    """Seconds of each query both ways: half of them for all, the others for 20."""
    found = []
    for which, mine in ((ALL, asked[::2]), (SOME, asked[1::2])):
        gallery = Gallery.open(path)  # keeps no answers to predicates yet
        k = len(gallery) if which == ALL else SOME
        gallery.search(mine[0].vector, k=1)
        gallery.nearest(mine[0].vector[None], k=k)
        for turn, target in enumerate(mine):
            ways = [None, target.agreement]
            taken = {"plain": 0.0, "filtered": 0.0}
            for agreement in ways if turn % 2 else ways[::-1]:
                start = time.perf_counter()
                result = None
                if which == ALL:
                    gallery.nearest(target.vector[None], k=k, agreement=agreement)
                else:
                    result = gallery.search(target.vector, k=k, agreement=agreement)
                taken["plain" if agreement is None else "filtered"] = time.perf_counter() - start
                if result is not None and agreement is not None:
                    taken["mask"] = result.seconds["where"]
            found.append(
                {"rows": len(gallery), "dim": gallery.dim, "k": which, "turn": turn}
                | taken
                | _what_it_does(gallery, target)
            )
        gallery.close()
    return found


def _what_it_does(gallery: Gallery, target: Target) -> dict[str, Any]:
    """The share of items that the filter drops; how many matches of the target's person by other
    cameras there are, and how many of them it keeps."""
    agreed = gallery.search(target.vector, k=1, agreement=target.agreement).agreed
    assert agreed is not None
    items = gallery.items
    right = pc.and_(
        pc.equal(items["person"], target.person), pc.not_equal(items["camera"], target.camera)
    )
    matches = items.filter(pc.fill_null(right, False))
    return {
        "dropped": agreed.dropped / agreed.allowed,
        "right": len(matches),
        "kept": int(target.agreement.keeps(matches).sum()),
    }


def summary(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Milliseconds both ways and their ratio, of the first query, the second, and the later ones;
    what the filter drops and keeps."""
    lines = []
    for k in dict.fromkeys(row["k"] for row in rows):
        mine = [row for row in rows if row["k"] == k]
        for when, some in (("first", mine[:1]), ("second", mine[1:2]), ("later", mine[2:])):
            plain = [1000 * row["plain"] for row in some]
            filtered = [1000 * row["filtered"] for row in some]
            ratio = [row["plain"] / row["filtered"] for row in some]
            lines.append(
                f"k {k}, {when}: ms without {spread(plain)}, with {spread(filtered)}, "
                f"without ÷ with {spread(ratio)}"
            )
            if "mask" in some[0]:
                lines[-1] += f", of which the mask {spread([1000 * row['mask'] for row in some])}"
    right, kept = sum(row["right"] for row in rows), sum(row["kept"] for row in rows)
    lines.append(
        f"dropped {spread([row['dropped'] for row in rows])}; "
        f"of {right:,} true matches kept {kept / max(1, right):.4f}"
    )
    return lines


if __name__ == "__main__":
    main()
