"""The answer sheet: one query and its ranked crops as a single HTML page.

The page holds its pictures itself and asks for nothing from anywhere: it opens from disk, offline.
"""

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from reid_index.search.result import Match, Result

from .formats import attribute_text, score_of

_THUMBNAIL = (128, 256)  # width, height in pixels: the 1:2 of a standing person


@dataclass(frozen=True, kw_only=True)
class _Card:
    """One match as the template prints it. picture: a data: URI, None where it cannot be shown.
    attributes: (name, words)."""

    match: Match
    picture: str | None
    verdict: str
    score: float
    attributes: Sequence[tuple[str, str]]
    time: str | None
    file: str


def render_sheet(
    result: Result,
    *,
    query_images: Sequence[Image.Image],
    query_label: str,
    query_person: str | None,
    load_crop: Callable[[Match], Image.Image | None],
    title: str,
    details: Sequence[tuple[str, str]],
    footnote: str | None = None,
    is_described: bool = False,
    attributes: Sequence[str] = (),
) -> str:
    """The page as one string, to be written as UTF-8.

    query_images: the query's pictures; empty for a bare vector. query_label: what was asked for, a
    file name for instance. query_person: the query's person label, None where unknown.
    load_crop: yields the crop of a match, None where it cannot be had; errors that it raises pass
    through. details: (term, value) pairs about the search, shown in this order.
    is_described: there was no target but a description, the label, and scores are confidences.
    attributes: those of the matches that are shown, by name.

    Pictures become JPEG thumbnails of at most 128×256 pixels; their shape is kept, and smaller
    ones are not enlarged. Scores have 4 decimals on the page; `data-similarity`, `data-distance`
    or `data-confidence` of each card has every digit.
    """
    score = "similarity" if result.metric.higher_is_better else "distance"
    if is_described:
        score = "confidence"
    page = (
        templates()
        .get_template("sheet.html")
        .render(
            title=title,
            query_label=query_label,
            query_person=query_person,
            query_pictures=[data_uri(image) for image in query_images],
            score_name=score,
            is_described=is_described,
            reranked=any(match.reranked_distance is not None for match in result.matches),
            matched=any(match.matched_distance is not None for match in result.matches),
            cards=[
                _card(match, query_person, load_crop(match), attributes) for match in result.matches
            ],
            note=result.note,
            details=details,
            footnote=footnote,
        )
    )
    # A file name that is not UTF-8 reaches Python as lone surrogates, which no file can hold.
    return page.encode(errors="replace").decode()


def templates() -> Environment:
    """The pages of this folder, which escape what they are given."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data_uri"] = data_uri
    return environment


def _card(
    match: Match,
    query_person: str | None,
    crop: Image.Image | None,
    attributes: Sequence[str],
) -> _Card:
    return _Card(
        match=match,
        picture=None if crop is None else data_uri(crop),
        verdict=verdict_of(match.person, query_person),
        score=score_of(match),
        attributes=[
            (name.replace("_", " "), attribute_text(match, name) or "–") for name in attributes
        ],
        time=_time(match),
        file=_file_name(match.source),
    )


def verdict_of(person: str | None, query_person: str | None) -> str:
    """ "same", "other", or "unknown" where one of the two labels is."""
    if person is None or query_person is None:
        return "unknown"
    return "same" if person == query_person else "other"


def _time(match: Match) -> str | None:
    """The start by the clock, else the place in the video, None where neither is known."""
    if match.start is not None:
        return match.start.isoformat(sep=" ", timespec="seconds")
    video = None if match.video is None else _file_name(match.video)
    second = None if match.start_s is None else f"{match.start_s:.1f} s"
    return " at ".join(part for part in (video, second) if part) or None


def _file_name(source: str) -> str:
    return PurePosixPath(source.replace("\\", "/")).name


def shrunk(image: Image.Image) -> Image.Image:
    """As small as it is shown, in its shape."""
    thumbnail = image.convert("RGB")
    thumbnail.thumbnail(_THUMBNAIL, Image.Resampling.LANCZOS)
    return thumbnail


def data_uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    shrunk(image).save(buffer, format="JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
