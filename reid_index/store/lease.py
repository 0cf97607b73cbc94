"""What a reader holds while it looks at a generation, so that nobody removes it meanwhile.

A shared lock on the generation's manifest file: it needs no right to write, and dies with its
process. It counts only where CURRENT still names that manifest once it is taken (`commit`), so a
generation that is no longer the present one gets no new readers.
"""

import errno
import fcntl
import os
import sys
import time
import weakref
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)
"""A file system without locks: nobody can write there either, as writers need one."""

_TRIES = 3
_PAUSE = 0.02
"""Seconds between them: a process that is being started holds its parent's locks for a moment."""


class Lease:
    """A shared lock on a file, until `end` or until nothing refers to it. A forked child holds one
    of its own."""

    def __init__(self, path: Path) -> None:
        """Waits while a writer looks whether it is held. Raises FileNotFoundError."""
        self._path = path
        self._close = self._lock()
        self._users = 1
        self._turn = Lock()
        _leases.add(self)

    def _lock(self) -> "weakref.finalize[[int], Lease]":
        descriptor = os.open(self._path, os.O_RDONLY)
        close = weakref.finalize(self, os.close, descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                close()
                raise
        return close

    @property
    def is_held(self) -> bool:
        """Whether it has not ended."""
        return self._close.alive

    def share(self) -> "Lease":
        """This one, for another user, who ends it, too."""
        with self._turn:
            self._users += 1
        return self

    def end(self) -> None:
        """Hold it no longer, unless it is shared with a user who has not ended it."""
        with self._turn:
            self._users -= 1
            if self._users == 0:
                self._close()

    def renew(self) -> None:
        """Hold what has that name now: the process may be another, or the folder a copy in the
        place of the former. Raises FileNotFoundError."""
        former = self._close
        self._close = self._lock()
        former()


_leases: "weakref.WeakSet[Lease]" = weakref.WeakSet()


def _after_fork() -> None:
    """A child shares its parent's locks, which would last as long as it does, in another's name."""
    for lease in list(_leases):
        if lease.is_held:
            with suppress(OSError):  # it is gone: its parent has let it go in this very moment
                lease.renew()


os.register_at_fork(after_in_child=_after_fork)


@dataclass(frozen=True)
class Held:
    """A generation that readers hold. processes: their ids, where the system tells."""

    generation: int
    processes: tuple[int, ...]


def is_held(path: Path) -> bool:
    """Whether anybody holds a lease on a file."""
    try:
        # NFS wants a file that is to be locked alone to be open for writing.
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:  # a writer has removed it meanwhile, so nobody held it
        return False
    except OSError:  # who only looks may not write
        descriptor = os.open(path, os.O_RDONLY)
    try:
        return not _locks(descriptor)
    finally:
        os.close(descriptor)


def _locks(descriptor: int) -> bool:
    for _ in range(_TRIES):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(_PAUSE)
    return False


def holders(path: Path) -> tuple[int, ...]:
    """The processes that hold a lease on a file, by what Linux lists; elsewhere none."""
    if sys.platform != "linux":
        return ()
    stat = path.stat()
    where = f"{os.major(stat.st_dev):02x}:{os.minor(stat.st_dev):02x}:{stat.st_ino}"
    found = set()
    for line in Path("/proc/locks").read_text().splitlines():
        fields = line.split()
        # 1: FLOCK  ADVISORY  READ 4711 08:01:123456 0 EOF; waiting ones have "->" before the kind.
        if fields[1] == "FLOCK" and fields[5] == where:
            found.add(int(fields[4]))
    return tuple(sorted(found))
