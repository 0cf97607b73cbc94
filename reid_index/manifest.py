"""What a gallery folder holds at one generation, and how the next one is committed.

    CURRENT                   names the present manifest and its sha256; the only file ever replaced
    manifest-000001.json      every file of that generation, with bytes and sha256; immutable
    shards/000001/            immutable
    attached/000002-graph/    made from the shards; immutable, replaced by another when made again
    lock                      held by the one writer; dies with its process

A commit writes new folders, then a new manifest, then replaces CURRENT in one step: a crash at any
instant leaves the old generation or the new one.
"""

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .errors import (
    BadShard,
    CorruptGallery,
    FormatTooNew,
    GalleryExists,
    GalleryLocked,
    GalleryNotFound,
    UsageError,
)
from .files import json_bytes, sha256_file, sync_file, sync_folder, write_json
from .fingerprint import Fingerprint
from .metric import Metric
from .shard import FILES, FORMAT, check_format


@dataclass(frozen=True)
class FileEntry:
    """A file's size in bytes and its hex sha256."""

    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class ShardEntry:
    """A shard as a manifest lists it: folder relative to the gallery, rows, its files by name."""

    folder: str
    rows: int
    files: Mapping[str, FileEntry]


@dataclass(frozen=True, kw_only=True)
class AttachedEntry:
    """An attachment as a manifest lists it.

    kind: what it is; a gallery has at most one of each. folder: relative to the gallery. covers:
    the folders of the shards that it was made from. files: its files by name. about: what there is
    to say of it, a JSON object, for people.
    """

    kind: str
    folder: str
    covers: tuple[str, ...]
    files: Mapping[str, FileEntry]
    about: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Previous:
    """The manifest of the generation before, so that the history can be checked too."""

    name: str
    entry: FileEntry


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """One generation of a gallery.

    metric, dim, dtype, fingerprint: fixed when the gallery is made.
    recipe: how to make the extractor again, in the words of whoever built the gallery: a JSON
        object, never interpreted here.
    next_item: the smallest item id not given yet.
    attached: what was made from the shards and is kept with them; later generations carry it on.
    created: when this generation was committed, UTC.
    previous: filled in by `commit`; None in the first generation.
    """

    generation: int
    created: datetime
    metric: Metric
    dim: int
    dtype: str
    fingerprint: Fingerprint
    recipe: Mapping[str, Any]
    next_item: int
    shards: tuple[ShardEntry, ...]
    attached: tuple[AttachedEntry, ...] = ()
    previous: Previous | None = None

    @property
    def rows(self) -> int:
        """Items in all shards together."""
        return sum(shard.rows for shard in self.shards)

    @property
    def folders(self) -> tuple[str, ...]:
        """The folders of the shards, in order."""
        return tuple(shard.folder for shard in self.shards)

    @property
    def file_name(self) -> str:
        """The name of this generation's manifest file."""
        return f"manifest-{self.generation:06d}.json"


def read_current(gallery: Path, *, writing: bool = False) -> Manifest:
    """The present manifest, its own checksum and the size of every file of the shards checked.
    Those of an attachment are checked when it is used: without it the gallery is whole.

    writing: the caller is going to commit the next one, which would drop fields that only a newer
    minor format knows; so those are then refused. Raises GalleryNotFound, CorruptGallery (which
    file and what is wrong), FormatTooNew.
    """
    path = gallery / "CURRENT"
    try:
        current = json.loads(path.read_bytes())
        check_format(current, path)
        if writing and current["format"][1] > FORMAT[1]:
            raise FormatTooNew(
                f"{gallery} was written by a newer reid-index, so this one only reads it; upgrade "
                "reid-index to add to it"
            )
        manifest = _read_manifest(gallery, current)
    except (FileNotFoundError, NotADirectoryError):
        raise GalleryNotFound(_what_is_there(gallery)) from None
    except (FormatTooNew, CorruptGallery):
        raise
    except BadShard as error:
        raise CorruptGallery(f"{error}; restore it from a copy") from None
    except KeyError as error:
        raise CorruptGallery(f"{path}: the field {error} is missing; restore it") from None
    except ValueError as error:
        raise CorruptGallery(f"{path}: {error}; restore it from a copy") from None
    for shard in manifest.shards:
        wrong = wrong_size(gallery, shard)
        if wrong:
            raise CorruptGallery(f"{wrong}: restore it from a copy")
    return manifest


def wrong_size(gallery: Path, listed: "ShardEntry | AttachedEntry") -> str | None:
    """Which file of a shard or attachment is gone or of another size, in words, if any is."""
    for name, entry in listed.files.items():
        file = gallery / listed.folder / name
        size = file.stat().st_size if file.is_file() else None
        if size is None:
            return f"{file} is gone"
        if size != entry.size:
            return f"{file} has {size} bytes, not {entry.size}"
    return None


def _what_is_there(gallery: Path) -> str:
    if not gallery.exists():
        return f"{gallery}: there is no such folder; reid build makes one"
    return f"{gallery} is not a gallery: it has no CURRENT file"


def _read_manifest(gallery: Path, current: Mapping[str, Any]) -> Manifest:
    name, expected = _manifest_name(str(current["manifest"])), str(current["sha256"])
    path = gallery / name
    try:
        raw = path.read_bytes()
        if hashlib.sha256(raw).hexdigest() != expected:
            raise ValueError("its sha256 is not the one that CURRENT names")
        data = json.loads(raw)
        check_format(data, path)
        if data["format"] != current["format"]:
            raise ValueError(f"it has format {data['format']}, CURRENT {current['format']}")
        return _from_json(data)
    except FileNotFoundError:
        raise CorruptGallery(f"{path} is gone: restore it from a copy") from None
    except FormatTooNew:
        raise
    except KeyError as error:
        raise CorruptGallery(f"{path}: the field {error} is missing; restore it") from None
    except (ValueError, TypeError) as error:
        raise CorruptGallery(f"{path}: {error}; restore it from a copy") from None


def listed_files(gallery: Path, manifest: Manifest) -> Iterator[tuple[Path, FileEntry]]:
    """Every file that the manifest lists, with what it should be."""
    folders: Iterable[ShardEntry | AttachedEntry] = (*manifest.shards, *manifest.attached)
    for listed in folders:
        for name, entry in listed.files.items():
            yield gallery / listed.folder / name, entry


def earlier_manifests(gallery: Path, manifest: Manifest) -> Iterator[tuple[Path, FileEntry]]:
    """The manifests before this one, the latest first, with what each should be. Each is read
    for the one before it, so the walk ends at one that is not what it should be."""
    previous = manifest.previous
    while previous is not None:
        path = gallery / previous.name
        yield path, previous.entry
        try:
            raw = path.read_bytes()
        except OSError:
            return
        if hashlib.sha256(raw).hexdigest() != previous.entry.sha256:
            return
        previous = _previous_from_json(json.loads(raw)["previous"])


def shards_at(gallery: Path, generation: int) -> tuple[str, ...]:
    """The folders of the shards of a generation up to the present one.

    Raises UsageError where the gallery has no such generation that can be read.
    """
    present = read_current(gallery)
    if present.generation == generation:
        return present.folders
    for path, entry in earlier_manifests(gallery, present):
        if path.name == f"manifest-{generation:06d}.json" and path.is_file():
            raw = path.read_bytes()
            if hashlib.sha256(raw).hexdigest() == entry.sha256:
                return _from_json(json.loads(raw)).folders
    raise UsageError(f"{gallery} has no generation {generation}; it is at {present.generation}")


def refuse_taken(path: Path) -> None:
    """Raise GalleryExists unless path is free, or holds what a crashed `create` left."""
    if path.exists() and not path.is_dir():
        raise GalleryExists(f"{path} is a file; choose another folder")
    taken = {entry.name for entry in path.iterdir()} if path.exists() else set()
    taken -= {"lock", "manifest-000000.json", ".CURRENT.tmp"}
    if taken:
        what = "a gallery" if "CURRENT" in taken else f"other files ({min(taken)}, …)"
        raise GalleryExists(f"{path} holds {what} already; choose another folder")


def describe_shard(gallery: Path, folder: str, *, rows: int) -> ShardEntry:
    """The manifest's entry of a shard that was just written: reads all of its bytes."""
    return ShardEntry(folder=folder, rows=rows, files=_describe(gallery / folder, FILES))


def describe_attached(
    gallery: Path, folder: str, *, kind: str, covers: tuple[str, ...], about: Mapping[str, Any]
) -> AttachedEntry:
    """The manifest's entry of an attachment that was just written: reads all of its bytes.

    Raises UsageError where a file's name is not letters, digits, dots and dashes.
    """
    names = sorted(path.name for path in (gallery / folder).iterdir())
    for name in names:
        if not _is_plain(name):
            raise UsageError(f"an attached file cannot be called {name!r}; give it a plain name")
    files = _describe(gallery / folder, names)
    return AttachedEntry(kind=kind, folder=folder, covers=covers, files=files, about=about)


def _describe(folder: Path, names: Iterable[str]) -> dict[str, FileEntry]:
    return {
        name: FileEntry((folder / name).stat().st_size, sha256_file(folder / name))
        for name in names
    }


def commit(gallery: Path, manifest: Manifest) -> Manifest:
    """Make the manifest the present generation, and return it with its `previous`.

    The caller holds the writer lock, and has made the manifest from the present one.
    """
    manifest = replace(manifest, previous=_present(gallery))
    raw = json_bytes(_to_json(manifest))
    path = gallery / manifest.file_name
    path.write_bytes(raw)
    sync_file(path)
    sync_folder(gallery)
    write_json(
        gallery / "CURRENT",
        {
            "format": list(FORMAT),
            "manifest": manifest.file_name,
            "sha256": hashlib.sha256(raw).hexdigest(),
        },
    )
    return manifest


def _present(gallery: Path) -> Previous | None:
    path = gallery / "CURRENT"
    if not path.exists():
        return None
    current = json.loads(path.read_bytes())
    size = (gallery / current["manifest"]).stat().st_size
    return Previous(current["manifest"], FileEntry(size, current["sha256"]))


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
        yield
    finally:
        os.close(descriptor)


def _to_json(manifest: Manifest) -> dict[str, Any]:
    return {
        "format": list(FORMAT),
        "requires": [],
        "generation": manifest.generation,
        "created": manifest.created.isoformat(),
        "metric": str(manifest.metric),
        "dim": manifest.dim,
        "dtype": manifest.dtype,
        "fingerprint": manifest.fingerprint.to_json(),
        "recipe": dict(manifest.recipe),
        "next_item": manifest.next_item,
        "previous": None
        if manifest.previous is None
        else {
            "file": manifest.previous.name,
            "bytes": manifest.previous.entry.size,
            "sha256": manifest.previous.entry.sha256,
        },
        "shards": [
            {
                "folder": shard.folder,
                "rows": shard.rows,
                "files": _files_to_json(shard.files),
            }
            for shard in manifest.shards
        ],
        "attached": [
            {
                "kind": attached.kind,
                "folder": attached.folder,
                "covers": list(attached.covers),
                "files": _files_to_json(attached.files),
                "about": dict(attached.about),
            }
            for attached in manifest.attached
        ],
    }


def _files_to_json(files: Mapping[str, FileEntry]) -> dict[str, dict[str, Any]]:
    return {name: {"bytes": entry.size, "sha256": entry.sha256} for name, entry in files.items()}


def _from_json(data: Any) -> Manifest:
    return Manifest(
        generation=int(data["generation"]),
        created=datetime.fromisoformat(data["created"]).astimezone(UTC),
        metric=Metric(data["metric"]),
        dim=int(data["dim"]),
        dtype=str(data["dtype"]),
        fingerprint=Fingerprint.from_json(data["fingerprint"]),
        recipe=dict(data["recipe"]),
        next_item=int(data["next_item"]),
        shards=tuple(_shard_from_json(shard) for shard in data["shards"]),
        # Format 1.0 has none.
        attached=tuple(_attached_from_json(entry) for entry in data.get("attached", ())),
        previous=_previous_from_json(data["previous"]),
    )


def _previous_from_json(data: Any) -> Previous | None:
    if data is None:
        return None
    return Previous(_manifest_name(data["file"]), FileEntry(int(data["bytes"]), data["sha256"]))


def _manifest_name(name: str) -> str:
    if not re.fullmatch(r"manifest-[0-9]+\.json", name):
        raise ValueError(f"it names {name!r}, which is not a manifest")
    return name


def _is_plain(name: str) -> bool:
    return re.fullmatch(r"\w[\w.-]*", name) is not None


def _shard_from_json(data: Any) -> ShardEntry:
    return ShardEntry(
        folder=_inside(data["folder"], r"shards/[0-9]+"),
        rows=int(data["rows"]),
        files=_files_from_json(data),
    )


def _attached_from_json(data: Any) -> AttachedEntry:
    return AttachedEntry(
        kind=str(data["kind"]),
        folder=_inside(data["folder"], r"attached/[0-9]+-[a-z]+"),
        covers=tuple(map(str, data["covers"])),
        files=_files_from_json(data),
        about=dict(data.get("about", {})),  # formats before 1.2 have none
    )


def _inside(folder: str, pattern: str) -> str:
    if not re.fullmatch(pattern, folder):
        raise ValueError(f"it lists files outside the gallery ({folder})")
    return folder


def _files_from_json(data: Any) -> dict[str, FileEntry]:
    if not all(map(_is_plain, data["files"])):
        raise ValueError(f"it lists files outside the gallery ({data['folder']})")
    return {
        name: FileEntry(int(entry["bytes"]), str(entry["sha256"]))
        for name, entry in data["files"].items()
    }
