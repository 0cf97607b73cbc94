"""Disks that fail and machines that stop: stand-ins for the `os` of reid_index.files that spoil the
n-th of the calls that change anything, in a child process."""

import errno
import os
import shutil
import signal
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from reid_index import files
from reid_index.errors import ReidIndexError

REMOVING = ("rename", "replace", "unlink", "rmdir")
CALLS = (*REMOVING, "open", "mkdir", "write", "fsync", "truncate")


class Disk:
    """Counts the calls, and spoils the one of number `at`, from 0. fsync does nothing: no test
    outlives the kernel, and disks are slow."""

    def __init__(self, at: int = -1) -> None:
        self.calls: list[str] = []
        self._at = at

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        return partial(self._call, name, real) if name in CALLS else real

    def _call(self, name: str, real: Callable[..., Any], *given: Any) -> Any:
        if name == "open" and not given[1] & (os.O_WRONLY | os.O_RDWR):
            return real(*given)
        self.calls.append(name)
        if len(self.calls) - 1 == self._at:
            self.spoil(name, *given)
        return self.do(name, real, *given)

    def do(self, name: str, real: Callable[..., Any], *given: Any) -> Any:
        """The call itself."""
        return None if name == "fsync" else real(*given)

    def spoil(self, name: str, *given: Any) -> None:
        """Raise, or do not return."""

    def after(self) -> None:
        """Called when the operation has returned and whoever asked for it knows."""


class Refusing(Disk):
    """For one call no space is left or, where nothing is written, the right to do it is gone."""

    def spoil(self, name: str, *given: Any) -> None:
        number = errno.EACCES if name in REMOVING else errno.ENOSPC
        raise OSError(number, os.strerror(number))


class Broken(Disk):
    """From there on every call fails, those that would tidy up, too."""

    def spoil(self, name: str, *given: Any) -> None:
        self._at += 1
        raise OSError(errno.EIO, os.strerror(errno.EIO))


class Stopping(Disk):
    """The process is killed before the call. What may then be found is left in folders:

    killed      all that was done
    half-way    the same, and half of a write
    bytes-lost  after a power cut: of what was written to files and not synced, nothing, the first
                half, or zeros
    names-lost  after a power cut, the same; and names that were made, changed or removed in
                folders that were not synced since are as before

    folder: all that is watched. left, aside: empty folders, for these and for what was removed.
    """

    def __init__(self, at: int, *, folder: Path, left: Path, aside: Path) -> None:
        super().__init__(at)
        self._folder = folder
        self._left = left
        self._aside = aside
        self._unsynced: set[int] = set()
        self._undo: list[tuple[int, Callable[[Path], object]]] = []

    def do(self, name: str, real: Callable[..., Any], *given: Any) -> Any:
        return getattr(self, f"_{name}")(real, *given)

    def _open(self, real: Callable[..., int], path: Path, flags: int, *mode: int) -> int:
        is_new = not path.exists()
        descriptor = real(path, flags, *mode)
        self._unsynced.add(os.fstat(descriptor).st_ino)
        if is_new:
            self._note(path.parent, lambda folder: (folder / path.name).unlink())
        return descriptor

    def _write(self, real: Callable[..., int], descriptor: int, content: bytes) -> int:
        self._unsynced.add(os.fstat(descriptor).st_ino)
        return real(descriptor, content)

    def _truncate(self, real: Callable[..., None], descriptor: int, length: int) -> None:
        self._unsynced.add(os.fstat(descriptor).st_ino)
        real(descriptor, length)

    def _mkdir(self, real: Callable[..., None], path: Path) -> None:
        real(path)
        self._note(path.parent, lambda folder: shutil.rmtree(folder / path.name))

    def _rename(self, real: Callable[..., None], source: Path, target: Path) -> None:
        assert source.parent == target.parent
        replaced = self._put_aside(target) if target.exists() else None
        real(source, target)

        def undo(folder: Path) -> None:
            (folder / target.name).rename(folder / source.name)
            if replaced is not None:
                replaced.rename(folder / target.name)

        self._note(target.parent, undo)

    _replace = _rename

    def _unlink(self, _real: Callable[..., None], path: Path) -> None:
        removed = self._put_aside(path)
        self._note(path.parent, lambda folder: removed.rename(folder / path.name))

    def _rmdir(self, _real: Callable[..., None], path: Path) -> None:
        assert not any(path.iterdir())
        self._unlink(_real, path)

    def _put_aside(self, path: Path) -> Path:
        return path.rename(self._aside / f"{len(self.calls)}")

    def _note(self, folder: Path, undo: Callable[[Path], object]) -> None:
        self._undo.append((folder.stat().st_ino, undo))

    def _fsync(self, _real: Callable[..., None], descriptor: int) -> None:
        inode = os.fstat(descriptor).st_ino
        self._unsynced.discard(inode)
        self._undo = [(folder, undo) for folder, undo in self._undo if folder != inode]

    def spoil(self, name: str, *given: Any) -> None:
        self._leave("killed")
        if name == "write":
            descriptor, content = given
            os.write(descriptor, content[: len(content) // 2])
            self._leave("half-way")
        self._leave("bytes-lost", lost=self._losing())
        for inode, undo in reversed(self._undo):
            undo(self._found(inode))
        self._leave("names-lost", lost=self._losing())
        os.kill(os.getpid(), signal.SIGKILL)

    def after(self) -> None:
        self.spoil("after")

    def _leave(self, name: str, *, lost: tuple[Path, ...] = ()) -> None:
        left = shutil.copytree(self._folder, self._left / name)
        for number, path in enumerate(lost):
            size = (left / path).stat().st_size
            kept, length = [(0, 0), (size // 2, size // 2), (0, size)][(number + self._at) % 3]
            os.truncate(left / path, kept)
            os.truncate(left / path, length)  # with zeros

    def _losing(self) -> tuple[Path, ...]:
        return tuple(
            path.relative_to(self._folder)
            for path in sorted(self._folder.rglob("*"))
            if path.is_file() and path.stat().st_ino in self._unsynced
        )

    def _found(self, inode: int) -> Path:
        around = (self._folder, *self._folder.rglob("*"), *self._aside.rglob("*"))
        return next(path for path in around if path.stat().st_ino == inode)


@dataclass(frozen=True)
class Child:
    """A process that was forked from this one."""

    process: int
    pipe: int

    @classmethod
    def start(cls, attempts: Sequence[tuple[Callable[[], object], Disk]]) -> "Child":
        """Begin calls, one after another, each on a disk of its own."""
        reading, writing = os.pipe()
        with warnings.catch_warnings():
            # Python 3.12 warns of threads, which the libraries have, and which no call here needs.
            warnings.simplefilter("ignore", DeprecationWarning)
            process = os.fork()
        if process == 0:
            _be_the_child(attempts, writing)
        os.close(writing)
        return cls(process, reading)

    def end(self) -> tuple[list[str], bool]:
        """What became of the calls, in order: "done" of one that has returned, "failed" of one that
        has raised what it may raise; and whether the process was killed."""
        with open(self.pipe, encoding="utf-8") as pipe:
            said = pipe.read().splitlines()
        code = os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1])
        if not {*said} <= {"done", "failed"} or code not in (0, -signal.SIGKILL):
            pytest.fail("\n".join([f"the child ended with {code}:", *said]))
        return said, code != 0


def _be_the_child(attempts: Sequence[tuple[Callable[[], object], Disk]], writing: int) -> None:
    code = 1
    try:
        signal.alarm(60)
        for call, disk in attempts:
            files.os = disk  # type: ignore[assignment]
            try:
                call()
            except (OSError, ReidIndexError):
                os.write(writing, b"failed\n")
            else:
                os.write(writing, b"done\n")
                disk.after()
        code = 0
    except BaseException:
        os.write(writing, traceback.format_exc().encode())
    finally:
        os._exit(code)
