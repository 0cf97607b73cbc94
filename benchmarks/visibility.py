"""Parts compared where both items show them: one query to a shortlist, beside the bare product of
its parts with theirs; and all pairs of an evaluation.

    python -m benchmarks.visibility --out visibility.json

In every round the query and its candidates are others, from parts that lie in a mapped file as a
gallery's do, and half of the parts are hidden, or none. All answers are compared with the equation
in plain NumPy. "search" is what a search does: rows are read where they lie in the file, gathering
included; "compare" has them copied together before, which "gather" takes.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks.aligned import drawn_parts
from benchmarks.machine import keep, spread
from reid_index.evaluation.scores import VectorScores
from reid_index.evaluation.visibility_scores import VisibilityScores
from reid_index.matcher import DISTANCES, Matcher
from reid_index.metric import Metric
from reid_index.search.matching import AskedParts, Matching
from reid_index.search.visibility import visible_distances


@click.command()
@click.option("--rows", default=20_000, show_default=True, help="Of the whole gallery.")
@click.option("--candidates", default=1000, show_default=True)
@click.option("--parts", default=6, show_default=True)
@click.option("--dim", default=256, show_default=True)
@click.option("--rounds", default=200, show_default=True)
@click.option("--queries", default=256, show_default=True, help="Of the evaluation of all pairs.")
@click.option("--out", type=click.Path(path_type=Path), help="File for raw results.")
def main(
    rows: int,
    candidates: int,
    parts: int,
    dim: int,
    rounds: int,
    queries: int,
    out: Path | None,
) -> None:
    """Measure shortlists and evaluations."""
    cases: list[dict[str, Any]] = []
    for dtype in ("float32", "float16"):
        with tempfile.TemporaryDirectory() as scratch:
            drawn = drawn_parts(Path(scratch) / "parts", (rows, parts, dim), dtype)
            for distance in DISTANCES:
                for shown in ("all", "half"):
                    visible = _visible(rows, parts, shown)
                    times, largest = _measure(drawn, visible, candidates, rounds, distance)
                    pairs, farthest = _measure_pairs(drawn, visible, queries, distance)
                    case = {
                        "dtype": dtype,
                        "distance": distance,
                        "visible": shown,
                        "milliseconds": times | pairs,
                        "largest_difference": largest,
                        "largest_difference_of_pairs": farthest,
                    }
                    cases.append(case)
                    for line in summary(case):
                        click.echo(f"{dtype}, {distance}, {shown} visible: {line}")
    size = {"rows": rows, "candidates": candidates, "parts": parts, "dim": dim}
    keep(out, {"benchmark": "visibility", **size, "queries": queries, "cases": cases})


def _visible(rows: int, parts: int, shown: str) -> NDArray[np.uint8]:
    if shown == "all":
        return np.ones((rows, parts), np.uint8)
    return np.random.default_rng(2).integers(0, 2, (rows, parts)).astype(np.uint8)


def _measure(
    parts: NDArray[np.generic],
    visible: NDArray[np.uint8],
    candidates: int,
    rounds: int,
    distance: str,
) -> tuple[dict[str, list[float]], float]:
    """Milliseconds of each round, the first few left out, and how far the farthest answer is from
    the reference's."""
    rng = np.random.default_rng(1)
    matching = Matching(Matcher(name="visibility", distance=distance), [parts], [visible])
    times: dict[str, list[float]] = {}
    largest = 0.0
    for turn in range(-3, rounds):
        at = int(rng.integers(len(parts)))
        query, seen = np.array(parts[at], np.float32), visible[at]
        rows = rng.choice(len(parts), min(candidates, len(parts)), replace=False)
        cosines = rng.uniform(-1, 1, len(rows)).astype(np.float32)
        begin = time.perf_counter()
        there, shown = matching.take(rows), matching.take_visible(rows)
        gathered = time.perf_counter()
        found = visible_distances(query, seen, there, shown, cosines, distance=distance)
        compared = time.perf_counter()
        a, b = query.reshape(1, -1), there.reshape(len(there), -1)
        room = np.zeros((1, len(b)), np.float32)
        start = time.perf_counter()
        np.matmul(a, b.T, out=room)
        multiplied = time.perf_counter()
        asked = AskedParts(query[None], seen[None] != 0)
        again = time.perf_counter()
        in_place = matching.distances(asked, cosines[None], rows)
        searched = time.perf_counter()
        wanted = by_numpy(query, seen, there, shown, cosines, distance)
        for one in (found, in_place):
            largest = max(largest, float(np.abs(one - wanted).max()))
        taken = {
            "gather": gathered - begin,
            "compare": compared - gathered,
            "search": searched - again,
            "product": multiplied - start,
        }
        for what, seconds in taken.items() if turn >= 0 else ():
            times.setdefault(what, []).append(round(1000 * seconds, 4))
    return times, largest


def _measure_pairs(
    parts: NDArray[np.generic], visible: NDArray[np.uint8], queries: int, distance: str
) -> tuple[dict[str, list[float]], float]:
    """Milliseconds of all pairs of some queries with all rows, their vectors being short; and how
    far the farthest of the first query is from the reference's."""
    rows, asked = len(parts), np.array(parts[:queries], np.float32)
    short = np.random.default_rng(3).standard_normal((rows, 16)).astype(np.float32)
    short /= np.linalg.norm(short, axis=1, keepdims=True)
    vectors = VectorScores(short[: len(asked)], [short], metric=Metric.COSINE)
    scores = VisibilityScores(
        vectors, asked, visible[: len(asked)], [parts], [visible], distance=distance
    )
    times = []
    for turn in range(-1, 5):
        start = time.perf_counter()
        keys, _ = scores.chunk(0, len(asked))
        seconds = time.perf_counter() - start
        if turn >= 0:
            times.append(round(1000 * seconds, 4))
    few = slice(0, 2000)
    cosines = np.minimum(short[few] @ short[0], 1)
    wanted = by_numpy(asked[0], visible[0], parts[few], visible[few], cosines, distance)
    farthest = float(np.abs(keys[0, few] - wanted).max())
    return {f"{len(asked)} × {rows} pairs": times}, farthest


def by_numpy(
    query: NDArray[np.generic],
    seen: NDArray[np.generic],
    there: NDArray[np.generic],
    shown: NDArray[np.generic],
    cosines: NDArray[np.float32],
    distance: str,
) -> NDArray[np.float64]:
    """Equation 13 in double precision: (n,)."""
    one, other = (parts.astype(np.float64) for parts in (query, there))
    one /= np.linalg.norm(one, axis=-1, keepdims=True)
    other /= np.linalg.norm(other, axis=-1, keepdims=True)
    whole = 1 - cosines.astype(np.float64)
    if distance == "cosine":
        apart = 1 - np.einsum("pd,npd->np", one, other)
    else:
        apart = np.linalg.norm(one - other, axis=2)
        whole = np.sqrt(2 * whole)
    both = seen * shown.astype(np.float64)
    found: NDArray[np.float64] = ((both * apart).sum(axis=1) + whole) / (both.sum(axis=1) + 1)
    return found


def summary(case: dict[str, Any]) -> list[str]:
    """Milliseconds, median and range, and the largest difference."""
    largest = max(case["largest_difference"], case["largest_difference_of_pairs"])
    return [
        *(f"{what}, ms: {spread(some)}" for what, some in case["milliseconds"].items()),
        f"largest difference from NumPy's double precision: {largest:.1e}",
    ]


if __name__ == "__main__":
    main()
