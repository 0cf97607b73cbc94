"""The report of an evaluation: figures, curves, best and worst queries as a single HTML page.

The page holds its pictures itself and asks for nothing from anywhere: it opens from disk, offline.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from reid_index.files import replace_file

from .plots import save, svg_text
from .sheet import templates

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NAMES = {"ap_rule": "AP rule", "rerank": "re-ranking", "gallery": "gallery items"}


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One place of a ranked list. rank: from 1. right: is it the query's person? score: as text,
    with its name. image: None where it cannot be shown."""

    rank: int
    image: Image.Image | None
    label: str
    right: bool
    score: str


@dataclass(frozen=True, kw_only=True)
class Strip:
    """A query and its ranked list, best first. ap: its average precision in [0, 1], which is to be
    called ap_name: AP@k where the list was cut."""

    image: Image.Image | None
    label: str
    ap: float
    ap_name: str = "AP"
    candidates: Sequence[Candidate]


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A figure of the report. name: of its files, without suffix. caption: one sentence."""

    name: str
    caption: str
    figure: "Figure"


def write_report(
    folder: Path,
    *,
    title: str,
    details: Sequence[tuple[str, str]],
    tables: Mapping[str, Mapping[str, Any]],
    pictures: Sequence[Picture],
    best: Sequence[Strip],
    worst: Sequence[Strip],
    notes: Sequence[str],
) -> None:
    """Write report.html, and each figure as NAME.svg and NAME.png, into a folder.

    The folder is made if need be; other files in it stay. Each file is replaced in one step, the
    page last. Everything else is as `render_report` has it. Raises OSError where a file cannot be
    written.
    """
    page = render_report(
        title=title,
        details=details,
        tables=tables,
        figures={picture.caption: svg_text(picture.figure) for picture in pictures},
        best=best,
        worst=worst,
        notes=notes,
    )
    folder.mkdir(parents=True, exist_ok=True)
    for picture in pictures:
        for suffix in (".svg", ".png"):
            save(picture.figure, folder / f"{picture.name}{suffix}")
    replace_file(folder / "report.html", page.encode())


def render_report(
    *,
    title: str,
    details: Sequence[tuple[str, str]],
    tables: Mapping[str, Mapping[str, Any]],
    figures: Mapping[str, str],
    best: Sequence[Strip],
    worst: Sequence[Strip],
    notes: Sequence[str],
) -> str:
    """The page as one string, to be written as UTF-8.

    details: (term, value) pairs about the evaluation, shown in this order. tables: name of an
    evaluation → its record (`evaluate.as_record`); they are columns of one table, whose rows are
    the keys of all records in order of first appearance. figures: caption → text of an SVG.
    best, worst: strips in the order in which they are shown. notes: sentences to be noticed.

    Crops become JPEG thumbnails of at most 128×256 pixels. Numbers that are not whole have 4
    decimals. Sections without content are left out.
    """
    page = (
        templates()
        .get_template("report.html")
        .render(
            title=title,
            details=details,
            names=list(tables),
            rows=_rows(tables),
            figures=[(caption, _svg_uri(svg)) for caption, svg in figures.items()],
            groups=[
                (heading, strips)
                for heading, strips in (("Best queries", best), ("Worst queries", worst))
                if strips
            ],
            notes=notes,
        )
    )
    # A file name that is not UTF-8 reaches Python as lone surrogates, which no file can hold.
    return page.encode(errors="replace").decode()


def _rows(tables: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """(name of a figure, its value in each evaluation), – where an evaluation has none."""
    keys = dict.fromkeys(key for record in tables.values() for key in record)
    return [
        (_name(key), [_cell(record[key]) if key in record else "–" for record in tables.values()])
        for key in keys
    ]


def _name(key: str) -> str:
    place = key.removeprefix("rank")
    return f"rank-{place}" if place.isdecimal() else _NAMES.get(key, key)


def _cell(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, float):
        return f"{value:.4f}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, Mapping):
        return " · ".join(f"{name} {seconds:.2f}" for name, seconds in value.items())
    return str(value)


def _svg_uri(svg: str) -> str:
    """As a picture of its own: shapes of several figures share names, which one page would mix
    up, and a picture can run and load nothing."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode("ascii")
