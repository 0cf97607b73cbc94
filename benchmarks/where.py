"""What a filter costs before anything is compared: the mask of three predicates over many rows.

    python -m benchmarks.where                  200,000 and 1,000,000 rows
    python -m benchmarks.where --rows 5000000

    camera = … AND attr.upper IN (…, …) AND start BETWEEN … AND …      64 cameras, 9 colours

Times in any order and in the order of the rows. In every round the predicates are other ones, so
that no answer is kept but those of a camera or two colours that came before; "asked again" is the
one expression for which all are. Every mask is compared with the one of `Where.mask(table)`.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmarks.machine import keep, spread
from reid_index.filters.columns import Columns
from reid_index.filters.where import compile_where

T = TypeVar("T")

_COLOURS = np.array(["red", "blue", "grey", "black", "white", "green", "brown", "pink", "beige"])
_BEGIN = np.datetime64("2024-01-01T00:00:00", "us")


@click.command()
@click.option("--rows", multiple=True, default=(200_000, 1_000_000), show_default=True)
@click.option("--rounds", default=50, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Raw results as JSON.")
def main(rows: tuple[int, ...], rounds: int, out: Path | None) -> None:
    """Measure masks."""
    results = [
        _measure(count, rounds, in_order=in_order) for count in rows for in_order in (False, True)
    ]
    for result in results:
        order = "in order" if result["in order"] else "unsorted"
        for name, times in result["ms"].items():
            click.echo(f"{result['rows']:>9,} rows, times {order}, {name:20s} ms {spread(times)}")
    keep(out, {"rounds": rounds, "results": results})


def _measure(rows: int, rounds: int, *, in_order: bool) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    seconds = np.arange(rows) if in_order else rng.permutation(rows)
    cameras = rng.integers(1, 65, rows).astype(np.int32)
    colours = rng.integers(0, len(_COLOURS), rows)
    starts = _BEGIN + seconds * np.timedelta64(1, "s")
    upper = pa.DictionaryArray.from_arrays(colours.astype(np.int32), _COLOURS)
    start = pa.array(starts).cast(pa.timestamp("us", tz="UTC"))
    table = pa.table({"camera": cameras, "attr.upper": upper, "start": start})

    columns = Columns(table)
    ms: dict[str, list[float]] = {}

    def timed(name: str, function: Callable[..., T], *arguments: Any) -> T:
        begin = time.perf_counter()
        made = function(*arguments)
        ms.setdefault(name, []).append(1000 * (time.perf_counter() - begin))
        return made

    def by_columns(text: str) -> NDArray[np.bool_]:
        return columns.mask(compile_where(text))

    def by_numpy(camera: int, pair: Any, low: Any, high: Any) -> NDArray[np.bool_]:
        mask: NDArray[np.bool_] = (cameras == camera) & np.isin(colours, pair)
        mask &= (starts >= low) & (starts <= high)
        return mask

    first = "camera = 3 AND attr.upper IN ('red', 'blue') AND start < '2024-01-02'"
    second = "camera = 4 AND attr.upper IN ('red', 'grey') AND start < '2024-01-03'"
    for name, text in {"first use": first, "second use": second}.items():
        where = compile_where(text)
        assert np.array_equal(timed(name, columns.mask, where), where.mask(table))
    for _ in range(rounds):
        camera = int(rng.integers(1, 65))
        pair = rng.choice(len(_COLOURS), 2, replace=False)
        low = _BEGIN + int(rng.integers(0, rows * 3 // 4)) * np.timedelta64(1, "s")
        high = low + rows // 4 * np.timedelta64(1, "s")
        text = (
            f"camera = {camera} AND attr.upper IN {(*map(str, _COLOURS[pair]),)} "
            f"AND start BETWEEN '{low}' AND '{high}'"
        )
        where = timed("parse", compile_where, text)
        expected = timed("Where.mask(table)", where.mask, table)
        for mask in (
            timed("NumPy == and isin", by_numpy, camera, pair, low, high),
            timed("new predicates", by_columns, text),
            timed("asked again", by_columns, text),
        ):
            assert np.array_equal(mask, expected), text
    return {"rows": rows, "in order": in_order, "ms": ms}


if __name__ == "__main__":
    main()
