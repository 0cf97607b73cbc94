"""Loops that NumPy cannot express, compiled by Numba on first use and cached on disk."""

from collections.abc import Callable
from typing import Any

import numba


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Compile a function that needs no Python objects, and so runs beside other threads.

    options: numba.njit's, such as fastmath. Where nothing can be cached, as in a container that is
    read only, every process compiles anew.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        try:
            return numba.njit(nogil=True, cache=True, **options)(function)
        except RuntimeError:  # no folder for the cache
            return numba.njit(nogil=True, **options)(function)

    return decorate
