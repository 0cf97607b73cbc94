"""What names of files and folders tell: cameras, times, numbers."""

import re
from collections.abc import Iterable
from datetime import UTC, datetime

_CAMERA = re.compile(
    r"(?<![a-z])(?:camera[-_ ]?|cam[-_ ]?|c)0*(\d{1,9})(?![0-9a-z])", re.IGNORECASE
)

_TIME = re.compile(
    r"(?<!\d)(\d{4})-?(\d\d)-?(\d\d)[T_ -](\d\d)[-:.]?(\d\d)[-:.]?(\d\d)(?!\d)", re.IGNORECASE
)

_LAST_NUMBER = re.compile(r"\d{1,18}(?=\D*$)")


def camera_of(names: Iterable[str]) -> int | None:
    """The camera of the first name that tells one: `c3`, `cam3`, `cam_03`, `camera-3`, as a word of
    its own, so not within `pic3` or `c3s1`. None where none does."""
    found = (_CAMERA.search(name) for name in names)
    return next((int(match[1]) for match in found if match is not None), None)


def time_of(names: Iterable[str]) -> datetime | None:
    """The time of the first name that tells one: `20240501T120000`, `2024-05-01_12-00-00`, in UTC.
    None where none does, or the digits are no date."""
    for name in names:
        for match in _TIME.finditer(name):
            year, month, day, hour, minute, second = map(int, match.groups())
            try:
                return datetime(year, month, day, hour, minute, second, tzinfo=UTC)
            except ValueError:
                continue
    return None


def last_number(name: str) -> int | None:
    """The last number in a name without its suffix, as frames are mostly counted; None without."""
    match = _LAST_NUMBER.search(name)
    return None if match is None else int(match[0])
