"""Which GPUs a caller names, and a gallery's rows on them: copied once, kept for the next query, or
the reason why they cannot be there."""

from __future__ import annotations

import re
from collections.abc import Callable
from threading import Lock
from typing import TYPE_CHECKING

from ..errors import DeviceFailed, UsageError

if TYPE_CHECKING:
    from .device_rows import DeviceRows

Devices = tuple[str, ...]
"""GPUs by their numbers: "cuda:0", "cuda:1"."""


def named_devices(text: object) -> Devices:
    """The GPUs that "cuda" (the first), "cuda:1" or "cuda:0,cuda:1" names; none for "cpu".

    Raises UsageError for anything else, for one that is named twice and for one that is not there;
    MissingExtra without torch, which "cpu" does not need.
    """
    if not isinstance(text, str):
        raise UsageError(f"a device is text, 'cpu' or 'cuda:0', not a {type(text).__name__}")
    if text == "cpu":
        return ()
    devices = []
    for name in text.split(","):
        matched = re.fullmatch(r"cuda(?::([0-9]{1,4}))?", name)
        if matched is None:
            raise UsageError(
                f"a device is 'cpu', 'cuda', 'cuda:1' or several, 'cuda:0,cuda:1', not {text!r}"
            )
        devices.append(f"cuda:{int(matched[1] or 0)}")
    if len(set(devices)) < len(devices):
        raise UsageError(f"{text!r} names a GPU twice: name each once")
    from .device_rows import check_devices

    check_devices(devices)
    return tuple(devices)


class KeptRows:
    """The rows of one gallery on the GPUs asked for last. Threads may share it."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._devices: Devices = ()
        self._rows: DeviceRows | None = None
        self._failures: dict[Devices, tuple[type[DeviceFailed], str]] = {}

    def get(self, devices: Devices, load: Callable[[Devices], DeviceRows]) -> DeviceRows:
        """The rows on those GPUs: `load` copies them there unless they are kept, and others are let
        go before. Raises DeviceFailed or DeviceTooSmall where that failed once, or the GPUs did
        later: it is not tried again.
        """
        with self._lock:
            if self._rows is not None and self._rows.lost is not None:
                self._failures[self._devices] = DeviceFailed, self._rows.lost
                self._rows = None
            if devices in self._failures:
                kind, reason = self._failures[devices]
                raise kind(reason)
            if self._rows is None or devices != self._devices:
                self._rows = None
                try:
                    self._rows, self._devices = load(devices), devices
                except DeviceFailed as error:
                    self._failures[devices] = type(error), str(error)
                    raise
            return self._rows
