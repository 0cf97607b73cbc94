"""Text files of boxes, read line by line: cells, and what is to be a number in them."""

import csv
import io
import math
from collections.abc import Iterator
from pathlib import Path

from reid_index.errors import BadSource
from reid_index.reading import read_bytes

_LARGEST_FILE = 2**30
"""Bytes: twice the largest list of the COCO data set, and some ten times as much in memory."""

LARGEST_INTEGER = 2**31 - 1
"""Frames, tracks and cameras have no larger number."""


def read_text(path: Path) -> str:
    """A UTF-8 file that holds anything. Raises BadSource."""
    try:
        data = read_bytes(path, most=_LARGEST_FILE)
    except OSError as error:
        raise BadSource(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except ValueError as error:
        raise BadSource(f"{path}: cannot be read ({error}); give a file with boxes") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise BadSource(f"{path}, line {line}: not UTF-8; save the file as UTF-8") from error
    if not text.strip():
        raise BadSource(f"{path}: the file is empty; give a file with boxes")
    return text


def split_lines(text: str, *, path: Path) -> Iterator[tuple[int, list[str]]]:
    """Each line that is not blank, as its number from 1 and its cells without outer spaces."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            if cells not in ([], [""]):
                yield reader.line_num, cells
    except csv.Error as error:
        raise BadSource(
            f"{path}, line {reader.line_num}: not CSV ({error}); correct the quotes"
        ) from error


def is_number(cell: str) -> bool:
    """Whether a cell reads as a number, NaN and infinity too."""
    try:
        float(cell)
    except ValueError:
        return False
    return True


def finite(cell: str, *, name: str, where: str) -> float:
    """A cell's finite number. name: its column; where: file and line. Raises BadSource."""
    if not is_number(cell) or not math.isfinite(float(cell)):
        raise BadSource(f"{where}: {name} is {cell!r}; give a finite number")
    return float(cell)


def integer(cell: str, *, name: str, where: str, least: int) -> int:
    """A cell's whole number, `least` or above. Raises BadSource."""
    # Tables with gaps are often written with 3.0 for 3.
    value = finite(cell, name=name, where=where)
    if not (least <= value <= LARGEST_INTEGER and value.is_integer()):
        raise BadSource(
            f"{where}: {name} is {cell}; give a whole number from {least} to {LARGEST_INTEGER}"
        )
    return int(value)
