"""The sheet of `reid explain`: a row for each crop, it and its matches, as a picture or a page."""

import io
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from .explained import Row, Shown
from .formats import printable
from .sheet import templates

_CROP = (96, 192)
"""Width and height that every crop is fitted into, in pixels."""

_ABREAST = 6
"""Crops in a line, where there are no matches."""

_GAP = 8
_FRAME = 4
_LINE = 15
_TEXT = 12
_TITLE = 20

_PAPER, _INK, _SOFT, _WELL = "#ffffff", "#1b2028", "#5c6572", "#eceef1"
_FRAMES = {"same": "#1a7f43", "other": "#c2302d", "unknown": "#a3abb6", None: "#ffffff"}

_BESIDE = 2 * _CROP[0]
_CELL = (_BESIDE + 2 * _FRAME, _CROP[1] + 2 * _FRAME + 2 * _LINE)


def picture(rows: Sequence[Row], *, title: str) -> bytes:
    """A PNG: each crop, its heat beside it, its file's name below; then its matches likewise, best
    first, in a green frame where they are the same person, red where they are another, grey where
    that is not known."""
    lines = _lines(rows)
    apart = any(row.matches for row in rows)  # what was found stands apart from what is asked
    heading = _TITLE + 3 * _GAP
    width = _GAP + max(map(len, lines)) * (_CELL[0] + _GAP) + (3 * _GAP if apart else 0)
    width = max(width, round(_font(_TITLE).getlength(printable(title))) + 2 * _GAP)
    sheet = Image.new("RGB", (width, heading + len(lines) * (_CELL[1] + _GAP)), _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((_GAP, _GAP), printable(title), fill=_INK, font=_font(_TITLE))
    for number, line in enumerate(lines):
        y = heading + number * (_CELL[1] + _GAP)
        for column, shown in enumerate(line):
            x = _GAP + column * (_CELL[0] + _GAP) + (3 * _GAP if apart and column else 0)
            _draw_cell(draw, sheet, shown, x, y)
    buffer = io.BytesIO()
    sheet.save(buffer, format="PNG")
    return buffer.getvalue()


def _lines(rows: Sequence[Row]) -> list[list[Shown]]:
    """What stands side by side: a crop and its matches, or several crops where none has any."""
    if any(row.matches for row in rows):
        return [[row.crop, *row.matches] for row in rows]
    crops = [row.crop for row in rows]
    return [crops[start : start + _ABREAST] for start in range(0, len(crops), _ABREAST)]


def _draw_cell(draw: ImageDraw.ImageDraw, sheet: Image.Image, shown: Shown, x: int, y: int) -> None:
    bottom = y + _CROP[1] + 2 * _FRAME
    frame = (x, y, x + _CELL[0] - 1, bottom - 1)
    draw.rectangle(frame, fill=_WELL, outline=_FRAMES[shown.verdict], width=_FRAME)
    for place, image in enumerate((shown.picture, shown.heat)):
        left = x + _FRAME + place * _CROP[0]
        if image is not None:
            fitted = _fitted(image)
            corner = (
                left + (_CROP[0] - fitted.width) // 2,
                y + _FRAME + (_CROP[1] - fitted.height) // 2,
            )
            sheet.paste(fitted, corner)
    if shown.picture is None:
        draw.text((x + 2 * _FRAME, y + 2 * _FRAME), "no picture", fill=_SOFT, font=_font(_TEXT))
    draw.text((x, bottom + 1), _cut(printable(shown.name)), fill=_INK, font=_font(_TEXT))
    if shown.score is not None:
        told = f"{shown.score_name} {shown.score:.4f}"
        if shown.verdict in ("same", "other"):
            told += f", {shown.verdict} person"  # not by colour alone
        draw.text((x, bottom + 1 + _LINE), told, fill=_SOFT, font=_font(_TEXT))


def _fitted(image: Image.Image) -> Image.Image:
    """As large as fits, its shape kept."""
    share = min(_CROP[0] / image.width, _CROP[1] / image.height)
    size = (max(1, round(image.width * share)), max(1, round(image.height * share)))
    return image.convert("RGB").resize(size, Image.Resampling.BICUBIC)


def _cut(name: str) -> str:
    """A name that fits below its crop: its middle gives way, as its ends tell most."""
    font = _font(_TEXT)
    if font.getlength(name) <= _CELL[0]:
        return name
    for kept in range(len(name) - 1, 1, -1):
        short = f"{name[: kept // 2]}…{name[len(name) - (kept - kept // 2) :]}"
        if font.getlength(short) <= _CELL[0]:
            return short
    return "…"


def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font


def page(rows: Sequence[Row], *, title: str) -> bytes:
    """The same as an HTML page, UTF-8, that holds its pictures itself and loads nothing."""
    text = templates().get_template("explain.html").render(title=title, rows=rows)
    return text.encode(errors="replace")
