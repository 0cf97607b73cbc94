"""Numbers too small for their exponent, with which processors compute many times as slowly."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def without_denormals() -> Iterator[None]:
    """What a network no longer uses decays to numbers below 1e-38: count them as zero meanwhile.
    Threads that are started meanwhile take it over."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
