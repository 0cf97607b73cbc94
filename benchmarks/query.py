"""What a query costs beside the forward pass, and what opening a gallery costs.

    python -m benchmarks.query                      12,936 × 512 synthetic rows, 200 queries
    python -m benchmarks.query --gallery GALLERY    a gallery of your own
    python -m benchmarks.query --open 200000        opening, in fresh processes

Rows are clustered like people: 20 crops around each of N/20 centres. Every timed answer is
compared with the exact one of NumPy; recall stands beside the times.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.machine import keep, spread
from cli.formats import jsonl, table
from reid_index import Fingerprint, Gallery
from reid_index.search.oracle import nearest_by_numpy

FILTERS: dict[str, dict[str, Any]] = {
    "everything": {},
    "not its camera": {"not_camera": [1]},
    "camera and time": {
        "where": "camera IN (2, 3) AND start BETWEEN '2024-01-01T02:00' AND '2024-01-01T03:00'"
    },
    "nothing allowed": {"where": "camera = 99"},
}


@click.command()
@click.option("--gallery", type=click.Path(path_type=Path))
@click.option("--rows", default=12936, show_default=True)
@click.option("--dim", default=512, show_default=True)
@click.option("--queries", default=200, show_default=True)
@click.option("--top", default=20, show_default=True)
@click.option("--open", "open_rows", type=int, help="Measure opening at this many rows instead.")
@click.option("--out", type=click.Path(path_type=Path), help="Raw results as JSON.")
def main(
    gallery: Path | None,
    rows: int,
    dim: int,
    queries: int,
    top: int,
    open_rows: int | None,
    out: Path | None,
) -> None:
    """Measure queries."""
    with tempfile.TemporaryDirectory() as scratch:
        if open_rows is not None:
            path = gallery or make_gallery(Path(scratch) / "gallery", rows=open_rows, dim=dim)
            _opening(path, out)
        else:
            path = gallery or make_gallery(Path(scratch) / "gallery", rows=rows, dim=dim)
            _queries(Gallery.open(path), queries, top, out)


def make_gallery(path: Path, *, rows: int, dim: int) -> Path:
    """A synthetic gallery: clustered vectors, 6 cameras, a second between crops."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((rows // 20 + 1, dim), dtype=np.float32)
    people = np.arange(rows) // 20
    vectors = centres[people] + 0.7 * rng.standard_normal((rows, dim), dtype=np.float32)
    begin = np.datetime64("2024-01-01T00:00:00", "us")
    import pyarrow as pa

    items = pa.table(
        {
            "source": [f"{person:06d}/{row:08d}.jpg" for row, person in enumerate(people)],
            "camera": pa.array(rng.integers(1, 7, rows), pa.int32()),
            "person": [str(person) for person in people],
            "start": pa.array(begin + np.arange(rows) * np.timedelta64(1, "s")),
        }
    )
    gallery = Gallery.create(path, dim=dim, fingerprint=Fingerprint(name="external:b", version="1"))
    gallery.add(vectors, items)
    return path


def _queries(gallery: Gallery, queries: int, top: int, out: Path | None) -> None:
    rng = np.random.default_rng(1)
    picked = rng.integers(0, len(gallery), queries)
    vectors = gallery.vectors(picked.tolist())
    vectors += 0.01 * rng.standard_normal(vectors.shape, dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    results: dict[str, Any] = {}
    for name, allowed in FILTERS.items():
        for vector in vectors[:5]:
            gallery.search(vector, k=top, **allowed)
        times, recalls = [], []
        for vector in vectors:
            start = time.perf_counter()
            result = gallery.search(vector, k=top, **allowed)
            text = jsonl(result) + table(result)
            times.append(1000 * (time.perf_counter() - start))
            assert len(text.splitlines()) == 2 * len(result.matches) + 1
            recalls.append(_recall(gallery, vector, result.matches, top, allowed))
        results[name] = {"ms": times, "recall": recalls}
        click.echo(
            f"{name:16s} ms {spread(times)}, of {result.allowed:,} rows, "
            f"recall@{top} {np.mean(recalls):.4f}"
        )
    keep(out, {"rows": len(gallery), "dim": gallery.dim, "top": top, "filters": results})


def _recall(gallery: Gallery, vector: Any, matches: Any, top: int, allowed: Any) -> float:
    """The share of the oracle's answer that came; 1 where it has none."""
    searched = gallery._generation.searched
    mask = searched.filters.allowed(
        where=allowed.get("where"), not_camera=allowed.get("not_camera", ())
    ).mask
    ids = searched.rows.items
    stored = np.concatenate([block.vectors for block in searched.rows.blocks])
    ((rows, _),) = nearest_by_numpy(
        stored, ids, vector[None], top, metric=gallery.metric, allowed=mask
    )
    wanted = set(ids[rows].tolist())
    return len(wanted & {match.item for match in matches}) / len(wanted) if wanted else 1.0


_OPEN = """
import json, sys, time
from pathlib import Path
start = time.perf_counter()
from reid_index import Gallery
import reid_index.gallery
imported = time.perf_counter()
gallery = Gallery.open(Path(sys.argv[1]))
opened = time.perf_counter()
gallery.items
ready = time.perf_counter()
gallery.search(gallery.vectors([0])[0], k=20)
found = time.perf_counter()
print(json.dumps({
    "import": imported - start, "open": opened - imported, "items": ready - opened,
    "first query": found - ready,
}))
"""


def _opening(path: Path, out: Path | None, runs: int = 9) -> None:
    rows = []
    for _ in range(runs + 1):
        done = subprocess.run(
            [sys.executable, "-c", _OPEN, str(path)], stdout=subprocess.PIPE, text=True, check=True
        )
        rows.append({name: 1000 * value for name, value in json.loads(done.stdout).items()})
    rows = rows[1:]
    for name in rows[0]:
        click.echo(f"{name:12s} ms {spread([row[name] for row in rows])}")
    both = [row["open"] + row["items"] for row in rows]
    click.echo(f"{'open + items':12s} ms {spread(both)}")
    keep(out, {"gallery": str(path), "runs": rows})


if __name__ == "__main__":
    main()
