"""What a gallery of segments says of each frame, so that it can be shown: one text."""

import re
from dataclasses import dataclass

import numpy as np

from reid_index.errors import BadItems

Box = tuple[float, float, float, float]

_NUMBER = r"-?\d+(?:\.\d+)?"
_BOX = rf"{_NUMBER}(?:,{_NUMBER}){{3}}"
_OF_VIDEO = re.compile(rf"(?P<number>\d{{1,18}})@(?P<seconds>{_NUMBER})(?::(?P<box>{_BOX}))?")
_OF_PICTURES = re.compile(rf"(?P<source>.+?)(?:@(?P<box>{_BOX}))?", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Frame:
    """A frame of a segment.

    Of a video: its number, from 0, and seconds in the video. Of pictures: source, the picture's
    path relative to the root. box: x, y, width, height in pixels of the upright frame or picture,
    in single precision; None for all of it.
    """

    number: int | None = None
    seconds: float | None = None
    source: str | None = None
    box: Box | None = None

    def __str__(self) -> str:
        """`N@SECONDS`, `N@SECONDS:x,y,w,h`, `SOURCE` or `SOURCE@x,y,w,h`, in the shortest decimals
        that mean the numbers."""
        box = "" if self.box is None else ",".join(_decimals(np.float32(one)) for one in self.box)
        if self.source is not None:
            return f"{self.source}@{box}" if box else self.source
        place = f"{self.number}@{_decimals(np.float64(self.seconds or 0))}"
        return f"{place}:{box}" if box else place


def read_frame(text: str, *, of_video: bool) -> Frame:
    """The frame of a text in the column `frames`. of_video: whether its row names a video that is
    its source, too. Raises BadItems for another text."""
    found = (_OF_VIDEO if of_video else _OF_PICTURES).fullmatch(text)
    if found is None:
        raise BadItems(f"{text!r:.80} in the column `frames` is no frame: N@SECONDS:x,y,w,h")
    box: Box | None = None
    if found["box"] is not None:
        x, y, width, height = map(float, found["box"].split(","))
        box = x, y, width, height
    if of_video:
        return Frame(number=int(found["number"]), seconds=float(found["seconds"]), box=box)
    return Frame(source=found["source"], box=box)


def _decimals(number: np.floating) -> str:
    return np.format_float_positional(number, unique=True, trim="-")
