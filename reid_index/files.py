"""The one writer: every byte, name and removal in a gallery goes through `os` as it is named here,
so that a test can fail or stop it at any call. Files are written aside, synced, renamed.
"""

import errno
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

_BUFFER = 1 << 16
"""Bytes that `create` gathers before it writes: libraries write many a field by itself."""


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's bytes, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_file(path: Path) -> None:
    """Force a file's bytes to the disk."""
    _sync(path, os.O_RDONLY)


def sync_folder(path: Path) -> None:
    """Force a folder's entries (new names, renames, removals) to the disk."""
    _sync(path, os.O_RDONLY | os.O_DIRECTORY)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        with _naming(path):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Have errors of a file descriptor say which file it is."""
    try:
        yield
    except OSError as error:
        error.filename = str(path)
        raise


def json_bytes(value: Any) -> bytes:
    """The bytes that `write_json` writes: sorted keys, so that equal values have equal bytes."""
    text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode()


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file in one step: old bytes or new ones, never half of either. Synced."""
    _replace(path, json_bytes(value), sync=True)
    sync_folder(path.parent)


def replace_file(path: Path, content: bytes) -> None:
    """Write a file in one step: old bytes or new ones, never half of either. Not synced."""
    _replace(path, content, sync=False)


def _replace(path: Path, content: bytes, *, sync: bool) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    _write(temporary, content, os.O_TRUNC, sync=sync)
    try:
        os.replace(temporary, path)
    except BaseException:
        _discard(temporary)
        raise


def write_file(path: Path, content: bytes, *, sync: bool = True) -> None:
    """Write a new file under its own name: for names that nobody knows of yet. A failure leaves
    no file. sync: False inside `write_folder`, which syncs them all.

    Raises FileExistsError where path exists already.
    """
    _write(path, content, os.O_EXCL, sync=sync)


def _write(path: Path, content: bytes, flag: int, *, sync: bool) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | flag, 0o666)
    try:
        try:
            with _naming(path):
                _write_all(descriptor, memoryview(content))
                if sync:
                    os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except BaseException:
        _discard(path)
        raise


def _write_all(descriptor: int, content: memoryview) -> None:
    while content:
        content = content[os.write(descriptor, content) :]


def _discard(path: Path) -> None:
    """Remove after a failure, which is what is to be told: what cannot be removed now goes with
    the next writer."""
    with suppress(OSError):
        _remove(path)


class _Raw(io.RawIOBase):
    """A new file to which a library writes.

    failed: the first error. It is not raised: libraries make another of it, and HDF5 would keep
    the file open and come back to it when the interpreter is gone. What follows goes nowhere.
    """

    def __init__(self, path: Path) -> None:
        self.failed: BaseException | None = None
        self._path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return os.lseek(self._descriptor, offset, whence)

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        return os.readv(self._descriptor, [buffer])

    def write(self, content: "ReadableBuffer", /) -> int:
        view = memoryview(content).cast("B")
        self._try(lambda: _write_all(self._descriptor, view))
        if self.failed:
            os.lseek(self._descriptor, len(view), os.SEEK_CUR)
        return len(view)

    def truncate(self, size: int | None = None, /) -> int:
        length = self.tell() if size is None else size
        self._try(lambda: os.truncate(self._descriptor, length))
        return length

    def sync(self) -> None:
        self._try(lambda: os.fsync(self._descriptor))

    def close(self) -> None:
        if not self.closed:
            super().close()
            os.close(self._descriptor)

    def _try(self, call: Callable[[], None]) -> None:
        if self.failed is None:
            try:
                call()
            except OSError as error:
                # Without its traceback, which would keep what HDF5 has open.
                self.failed = OSError(error.errno, error.strerror, str(self._path))
            except BaseException as error:  # Ctrl-C, too, is to wait until HDF5 has closed it
                self.failed = error.with_traceback(None)


class Output(io.BufferedRandom):
    """What `create` gives: a binary file that takes everything, also once its disk does not."""

    def __init__(self, raw: _Raw) -> None:
        super().__init__(raw, _BUFFER)
        self._raw = raw

    def check(self) -> None:
        """Raise what writing has met, if anything; see `create`. Whoever writes much, or reads what
        it has written, looks from time to time."""
        if self._raw.failed is not None:
            raise self._raw.failed

    def sync(self) -> None:
        """Force the bytes to the disk."""
        self.flush()
        self._raw.sync()


@contextmanager
def create(path: Path, *, sync: bool = True) -> Iterator[Output]:
    """A new file for a library that writes by itself; it may read, seek and truncate, too. A
    failure leaves no file. sync: False inside `write_folder`, which syncs them all.

    Raises FileExistsError where path exists already, and at the end the first error that writing
    met, with the path, whatever the library made of it: it is not told before (see `_Raw`).
    """
    raw = _Raw(path)
    try:
        try:
            with Output(raw) as file:
                yield file
                if sync:
                    file.sync()
        except Exception:
            if raw.failed is None:
                raise
        if raw.failed is not None:
            raise raw.failed
    except BaseException:
        _discard(path)
        raise


def make_folder(path: Path) -> None:
    """Make a folder and those above it, as far as they are not there. Synced."""
    if path.is_dir():
        return
    make_folder(path.parent)
    try:
        os.mkdir(path)
    except FileExistsError:
        if not path.is_dir():  # or else another process was faster
            message = os.strerror(errno.ENOTDIR)
            raise NotADirectoryError(errno.ENOTDIR, message, str(path)) from None
    sync_folder(path.parent)


def write_folder(path: Path, fill: Callable[[Path], None]) -> None:
    """Make a folder of files in one step: `fill` writes into a temporary one beside it, every
    file is synced, then it gets its name. Nothing is left behind when fill raises.

    Raises FileExistsError where path exists already.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    make_folder(path.parent)
    _remove(temporary)
    try:
        os.mkdir(temporary)
        fill(temporary)
        for file in sorted(temporary.iterdir()):
            sync_file(file)
        sync_folder(temporary)
        if path.exists():
            raise FileExistsError(f"{path} exists already")
        os.rename(temporary, path)
    except BaseException:
        _discard(temporary)
        raise
    sync_folder(path.parent)


def rename(source: Path, target: Path) -> None:
    """Give a file or folder another name, in one step. Synced."""
    os.rename(source, target)
    sync_folder(target.parent)
    if source.parent != target.parent:
        sync_folder(source.parent)


def remove(path: Path) -> None:
    """Remove a file, or a folder with all that is in it; a missing one is fine. Synced."""
    if _remove(path):
        sync_folder(path.parent)


def remove_all_but(folder: Path, names: set[str]) -> None:
    """Remove every entry of a folder but those names. Synced."""
    if any([_remove(entry) for entry in list(folder.iterdir()) if entry.name not in names]):
        sync_folder(folder)


def _remove(path: Path) -> bool:
    """Whether there was anything to remove."""
    try:
        if path.is_dir() and not path.is_symlink():
            for entry in list(path.iterdir()):
                _remove(entry)
            os.rmdir(path)
        else:
            os.unlink(path)
    except FileNotFoundError:
        return False
    return True
