"""A gallery's generations on disk: reading the present one, committing the next.

`CURRENT` names the present manifest and its sha256, and is the only file that is ever replaced.
What a manifest lists never changes. So a crash at any instant leaves the old generation or the new
one.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import files
from ..errors import (
    BadShard,
    CorruptGallery,
    FormatTooNew,
    GalleryExists,
    GalleryLocked,
    GalleryNotFound,
)
from .lease import Lease
from .manifest import (
    DELETIONS,
    OVERLAYS,
    AttachedEntry,
    DeletedEntry,
    FileEntry,
    Manifest,
    OverlayEntry,
    Past,
    Previous,
    ShardEntry,
    check_manifest_name,
    from_json,
    to_json,
)
from .shard import FORMAT, MATCHER, OF_SEGMENTS, OF_VISIBLE, check_format

_LARGEST_CURRENT = 2**16
"""Bytes of CURRENT that are read: a newer format may say more in it than this one's 200."""

_LARGEST = 2**28
"""Bytes of a manifest that are read: a quarter of a gigabyte lists some 500,000 shards."""

_TRIES = 1000
"""Commits that may come between a reader's two looks at CURRENT before it gives up."""


@dataclass(frozen=True)
class Opened:
    """A generation, and what keeps its files there."""

    manifest: Manifest
    lease: Lease


def open_present(gallery: Path) -> Opened:
    """The present generation, held: see `read_current` for what is checked and raised."""
    for _ in range(_TRIES):
        current = _read_bytes(gallery)
        name = _parse_current(gallery, current)["manifest"]
        try:
            lease = Lease(gallery / name)
        except FileNotFoundError:
            if _read_bytes(gallery) == current:
                raise CorruptGallery(f"{gallery / name} is gone: restore it from a copy") from None
            continue
        # Whoever removes a generation has moved CURRENT on before, so this one is safe.
        if _read_bytes(gallery) == current:
            return Opened(_read_present(gallery, current), lease)
        lease.end()
    raise _too_fast(gallery)


def _too_fast(gallery: Path) -> CorruptGallery:
    return CorruptGallery(f"{gallery}: CURRENT changes faster than it can be read; try again")


def read_current(gallery: Path, *, writing: bool = False) -> Manifest:
    """The present manifest, its own checksum and the size of every file of the shards and overlays
    checked.
    Those of an attachment are checked when it is used: without it the gallery is whole.

    writing: the caller is going to commit the next one, which would drop fields that only a newer
    minor format knows; so those are then refused. Raises GalleryNotFound, CorruptGallery (which
    file and what is wrong), FormatTooNew.
    """
    for _ in range(_TRIES):
        content = _read_bytes(gallery)
        if writing and tuple(_parse_current(gallery, content)["format"]) > FORMAT:
            raise FormatTooNew(
                f"{gallery} was written by a newer reid-index, so this one only reads it; upgrade "
                "reid-index to add to it"
            )
        try:
            return _read_present(gallery, content)
        except CorruptGallery:
            # Unless another process has removed what it names, having committed another.
            if _read_bytes(gallery) == content:
                raise
    raise _too_fast(gallery)


def _read_bytes(gallery: Path) -> bytes:
    try:
        with (gallery / "CURRENT").open("rb") as file:
            return file.read(_LARGEST_CURRENT)
    except (FileNotFoundError, NotADirectoryError):
        raise GalleryNotFound(_what_is_there(gallery)) from None


def _what_is_there(gallery: Path) -> str:
    if not gallery.exists():
        return f"{gallery}: there is no such folder; reid build makes one"
    return f"{gallery} is not a gallery: it has no CURRENT file"


def _parse_current(gallery: Path, content: bytes) -> dict[str, Any]:
    path = gallery / "CURRENT"
    try:
        current = json.loads(content)
        check_format(current, path)
        # No checksum covers this file, so not one space may be other than as it was written.
        if files.json_bytes(current) != content:
            raise ValueError("its bytes have changed since it was written")
        check_manifest_name(current["manifest"])
        if not isinstance(current["sha256"], str):
            raise ValueError(f"its sha256 is {current['sha256']!r}")
    except FormatTooNew:
        raise
    except BadShard as error:
        raise CorruptGallery(f"{error}; restore it from a copy") from None
    except KeyError as error:
        raise CorruptGallery(f"{path}: the field {error} is missing; restore it") from None
    except (ValueError, RecursionError) as error:
        raise CorruptGallery(f"{path}: {error}; restore it from a copy") from None
    return dict(current)


def _read_present(gallery: Path, content: bytes) -> Manifest:
    current = _parse_current(gallery, content)
    path = gallery / current["manifest"]
    try:
        data = _read_json(path, current["sha256"])
        if data["format"] != current["format"]:
            raise ValueError(f"it has format {data['format']}, CURRENT {current['format']}")
        manifest = _manifest(data, path)
    except FileNotFoundError:
        raise CorruptGallery(f"{path} is gone: restore it from a copy") from None
    except FormatTooNew:
        raise
    except BadShard as error:
        raise CorruptGallery(f"{error}; restore it from a copy") from None
    except KeyError as error:
        raise CorruptGallery(f"{path}: the field {error} is missing; restore it") from None
    except (AttributeError, LookupError, TypeError, ValueError, RecursionError) as error:
        raise CorruptGallery(f"{path}: {error}; restore it from a copy") from None
    needed: tuple[Listed, ...] = (*manifest.shards, *manifest.overlays)
    for listed in needed:
        wrong = wrong_size(gallery, listed)
        if wrong:
            raise CorruptGallery(f"{wrong}: restore it from a copy")
    return manifest


def _manifest(data: Any, path: Path) -> Manifest:
    try:
        return from_json(data)
    except FormatTooNew as error:
        raise FormatTooNew(f"{path}: {error}") from None


def _read_json(path: Path, sha256: str | None) -> Any:
    with path.open("rb") as file:
        raw = file.read(_LARGEST + 1)
    if len(raw) > _LARGEST:
        raise ValueError(f"it has more than {_LARGEST} bytes")
    if sha256 is not None and hashlib.sha256(raw).hexdigest() != sha256:
        raise ValueError("its bytes have changed since it was written (sha256 differs)")
    data = json.loads(raw)
    check_format(data, path, known=[DELETIONS, OVERLAYS, MATCHER, OF_SEGMENTS, OF_VISIBLE])
    return data


Listed = ShardEntry | AttachedEntry | OverlayEntry
"""What a manifest lists files of."""


def wrong_size(gallery: Path, listed: Listed) -> str | None:
    """Which file of what is listed is gone or of another size, in words, if any is."""
    for file, entry in files_of(gallery, listed):
        size = file.stat().st_size if file.is_file() else None
        if size is None:
            return f"{file} is gone"
        if size != entry.size:
            return f"{file} has {size} bytes, not {entry.size}"
    return None


def files_of(gallery: Path, listed: Listed) -> Iterator[tuple[Path, FileEntry]]:
    """The files of a shard, its deletions too, of an attachment, or the one of an overlay, with
    what each should be."""
    if isinstance(listed, OverlayEntry):
        yield gallery / listed.file, listed.entry
        return
    for name, entry in listed.files.items():
        yield gallery / listed.folder / name, entry
    if isinstance(listed, ShardEntry) and listed.deleted is not None:
        yield gallery / listed.deleted.file, listed.deleted.entry


def read_listed(path: Path, entry: FileEntry) -> bytes:
    """The bytes of a listed file, every one of them checked. Raises OSError, ValueError where they
    are not those."""
    with path.open("rb") as file:
        content = file.read(entry.size + 1)
    if len(content) != entry.size or hashlib.sha256(content).hexdigest() != entry.sha256:
        raise ValueError("its bytes have changed since it was written")
    return content


def listed_files(gallery: Path, manifest: Manifest) -> Iterator[tuple[Path, FileEntry]]:
    """Every file that the manifest lists, with what it should be."""
    folders: tuple[Listed, ...] = (*manifest.shards, *manifest.overlays, *manifest.attached)
    for listed in folders:
        yield from files_of(gallery, listed)


def earlier_manifests(gallery: Path, manifest: Manifest) -> Iterator[tuple[Path, FileEntry]]:
    """The manifests before this one, the latest first, with what each should be. Each is read
    for the one before it, so the walk ends at one that is not what it should be."""
    for previous, _ in _back(gallery, manifest):
        yield gallery / previous.name, previous.entry


def earlier_generations(gallery: Path, manifest: Manifest) -> Iterator[Manifest]:
    """The manifests before this one that can be read, the latest first."""
    for _, earlier in _back(gallery, manifest):
        if earlier is not None:
            yield earlier


def _back(gallery: Path, manifest: Manifest) -> Iterator[tuple[Previous, Manifest | None]]:
    previous = manifest.previous
    while previous is not None:
        earlier = _earlier(gallery / previous.name, previous.entry)
        yield previous, earlier
        previous = None if earlier is None else earlier.previous


def _earlier(path: Path, entry: FileEntry) -> Manifest | None:
    """An earlier manifest, None where it is gone or not what it should be."""
    try:
        return from_json(_read_json(path, entry.sha256))
    except (OSError, AttributeError, LookupError, TypeError, ValueError, RecursionError):
        return None


def read_earlier(path: Path) -> Manifest:
    """A manifest that a reader holds and nothing refers to any more. Raises CorruptGallery."""
    try:
        return from_json(_read_json(path, None))
    except (OSError, AttributeError, LookupError, TypeError, ValueError, RecursionError) as error:
        raise CorruptGallery(
            f"{path}: a reader holds this generation, and what it needs cannot be read ({error}); "
            "end that reader"
        ) from None


def lost_before(gallery: Path, manifest: Manifest) -> Path | None:
    """The manifest that can no longer be read and so hides those before it, if there is one."""
    for previous, earlier in _back(gallery, manifest):
        if earlier is None:
            return gallery / previous.name
    return None


def history(gallery: Path, manifest: Manifest) -> tuple[Past, ...]:
    """What made each generation up to this one, oldest first; damaged ones are left out."""
    told = [manifest.past]
    oldest = manifest
    for earlier in earlier_generations(gallery, manifest):
        told.append(earlier.past)
        oldest = earlier
    return (*oldest.history, *reversed(told))


def refuse_taken(path: Path) -> None:
    """Raise GalleryExists unless path is free, or holds what a crashed `create` left."""
    if path.exists() and not path.is_dir():
        raise GalleryExists(f"{path} is a file; choose another folder")
    taken = {entry.name for entry in path.iterdir()} if path.exists() else set()
    taken -= {"lock", "manifest-000000.json", ".manifest-000000.json.tmp", ".CURRENT.tmp"}
    if taken:
        what = "a gallery" if "CURRENT" in taken else f"other files ({min(taken)}, …)"
        raise GalleryExists(f"{path} holds {what} already; choose another folder")


def describe(folder: Path, names: Iterable[str]) -> dict[str, FileEntry]:
    """The entries of files that were just written: reads all of their bytes."""
    return {name: describe_file(folder / name) for name in names}


def describe_file(path: Path) -> FileEntry:
    """The entry of a file that was just written: reads all of its bytes."""
    return FileEntry(path.stat().st_size, files.sha256_file(path))


def write_deleted(gallery: Path, name: str, bitmap: bytes, *, rows: int) -> DeletedEntry:
    """Write a bitmap of so many deleted rows, and describe it."""
    path = gallery / name
    files.make_folder(path.parent)
    files.write_file(path, bitmap)
    files.sync_folder(path.parent)
    entry = FileEntry(len(bitmap), hashlib.sha256(bitmap).hexdigest())
    return DeletedEntry(file=name, rows=rows, entry=entry)


def commit(gallery: Path, manifest: Manifest) -> None:
    """Make the manifest the present generation.

    The caller holds the writer lock, and has made the manifest from the present one.
    """
    raw = files.json_bytes(to_json(manifest))
    from_json(json.loads(raw))  # what cannot be read must never become the present one
    path = gallery / manifest.file_name
    files.remove(path)  # one that a crashed writer never committed
    files.write_file(path, raw)
    files.sync_folder(gallery)
    files.write_json(
        gallery / "CURRENT",
        {
            "format": list(FORMAT),
            "manifest": manifest.file_name,
            "sha256": hashlib.sha256(raw).hexdigest(),
        },
    )


@contextmanager
def writer_lock(gallery: Path) -> Iterator[None]:
    """Hold the gallery's one writer lock. Raises GalleryLocked where another process has it."""
    descriptor = os.open(gallery / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise GalleryLocked(
                f"{gallery}: another process is writing to it; wait until it has finished"
            ) from None
        if not os.path.samestat(os.fstat(descriptor), os.stat(gallery / "lock")):
            raise GalleryLocked(f"{gallery}: its lock was removed meanwhile; try again")
        yield
    finally:
        os.close(descriptor)
