"""The progress bar of long commands, on standard error."""

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tqdm import tqdm


def progress_bar(total: int, *, unit: str) -> "tqdm[Any]":
    """A bar that appears after a second; a line every ten seconds where nobody watches."""
    from tqdm import tqdm

    watched = sys.stderr.isatty()
    return tqdm(
        total=total,
        unit=unit,
        unit_scale=unit == "B",
        delay=1,
        mininterval=0.2 if watched else 10,
    )
