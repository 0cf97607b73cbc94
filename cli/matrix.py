"""A file of all distances between people, with who they are."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from reid_index import files
from reid_index.errors import UsageError
from reid_index.evaluation.decide import Distances

from .crowd import Member

_BYTES = 2**24
"""Bytes of distances that are written together to Parquet."""


def write_matrix(
    path: Path,
    distances: Distances,
    members: Sequence[Member],
    *,
    progress: Callable[[int], object],
) -> None:
    """Write the whole matrix in one step, a row for each person, made row after row. NaN where two
    are of one picture. Raises OSError, UsageError.

    .npy: a structured array (n,) of picture and position (int64), source (text) and distance
    (float32 (n,)). .parquet: columns of these names, distance a list of n. .csv: a header
    with a column I:J for each person, after picture, position and source.
    """
    write = {".npy": _write_npy, ".csv": _write_csv, ".parquet": _write_parquet}[
        path.suffix.lower()
    ]

    def rows() -> Iterator[NDArray[np.float32]]:
        for person in range(len(distances)):
            yield distances.row(person)
            progress(1)

    if path.is_dir():
        raise UsageError(f"{path} is a folder; --matrix names the file to write")
    aside = path.absolute().with_name(f".{path.name}.tmp")
    files.remove(aside)
    with files.create(aside, sync=False) as file:
        write(file, members, rows())
    files.rename(aside, path.absolute())


def _write_npy(
    file: IO[bytes], members: Sequence[Member], rows: Iterator[NDArray[np.float32]]
) -> None:
    count = len(members)
    longest = max(len(member.source) for member in members)
    kind = np.dtype(
        [
            ("picture", "<i8"),
            ("position", "<i8"),
            ("source", f"<U{longest}"),
            ("distance", "<f4", (count,)),
        ]
    )
    shape = {"descr": kind.descr, "fortran_order": False, "shape": (count,)}
    np.lib.format.write_array_header_2_0(file, shape)
    for member, row in zip(members, rows, strict=True):
        record = np.zeros((), kind)
        record["picture"], record["position"] = member.picture, member.position
        record["source"], record["distance"] = member.source, row
        file.write(record.tobytes())


def _write_csv(
    file: IO[bytes], members: Sequence[Member], rows: Iterator[NDArray[np.float32]]
) -> None:
    import csv
    import io

    text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
    writer = csv.writer(text, lineterminator="\n")
    people = [f"{member.picture}:{member.position}" for member in members]
    writer.writerow(["picture", "position", "source", *people])
    for member, row in zip(members, rows, strict=True):
        cells = ["NaN" if np.isnan(cell) else str(cell) for cell in row]
        writer.writerow([member.picture, member.position, member.source, *cells])
    text.detach()


def _write_parquet(
    file: IO[bytes], members: Sequence[Member], rows: Iterator[NDArray[np.float32]]
) -> None:
    count = len(members)
    schema = pa.schema(
        {
            "picture": pa.int64(),
            "position": pa.int64(),
            "source": pa.string(),
            "distance": pa.list_(pa.float32(), count),
        }
    )
    together = max(1, _BYTES // (4 * count))
    with pq.ParquetWriter(file, schema) as writer:
        for start in range(0, count, together):
            some = members[start : start + together]
            cells = np.concatenate([next(rows) for _ in some])
            columns: dict[str, Any] = {
                "picture": [member.picture for member in some],
                "position": [member.position for member in some],
                "source": [member.source for member in some],
                "distance": pa.FixedSizeListArray.from_arrays(pa.array(cells), count),
            }
            writer.write_table(pa.table(columns, schema=schema))
