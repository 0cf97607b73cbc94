"""The progress bar of long commands, on standard error."""

import sys
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from tqdm import tqdm


class _Lines:
    """A stream on which each state of a bar is a line, for logs: they keep what was overwritten."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        state = text.strip()
        if state:
            self._stream.write(f"{state}\n")

    def flush(self) -> None:
        self._stream.flush()


def progress_bar(total: int, *, unit: str) -> "tqdm[Any]":
    """A bar that appears after a second; a line every ten seconds where nobody watches.

    Before anything else is printed, `clear` it.
    """
    from tqdm import tqdm

    watched = sys.stderr.isatty()
    return tqdm(
        total=total,
        unit=unit,
        unit_scale=unit == "B",
        delay=1 if watched else 10,
        mininterval=0.2 if watched else 10,
        file=sys.stderr if watched else _Lines(sys.stderr),
    )
