"""What one generation of a gallery consists of, and its JSON: `manifest-NNNNNN.json`.

Nothing here looks at files; commit.py reads and writes them.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from ..attributes import check_name, columns_of
from ..errors import UsageError
from ..fingerprint import Fingerprint
from ..matcher import Matcher
from ..metric import Metric
from .shard import FORMAT, matcher_from_json, required_by

DELETIONS = "deletions"
"""What a reader must know of to read a manifest with deleted rows."""

OVERLAYS = "overlays"
"""The same of one with overlays: by the shards alone its items would have other attributes."""

CLEARED = "cleared"
"""The kind of an event by which attributes were taken back."""

_MOST = 2**48
"""Counts and sizes of more than this are not believed."""


@dataclass(frozen=True)
class FileEntry:
    """A file's size in bytes and its hex sha256."""

    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class DeletedEntry:
    """Which rows of a shard are deleted: a bitmap (see deletions.py).

    file: relative to the gallery. rows: how many are.
    """

    file: str
    rows: int
    entry: FileEntry


@dataclass(frozen=True, kw_only=True)
class ShardEntry:
    """A shard as a manifest lists it.

    folder: relative to the gallery. rows: stored in it, deleted ones too. files: by name. deleted:
    what is deleted of it, if anything. first_item: its item ids are that and those following it,
    one by one; None where they are not, and in formats before 1.3.
    """

    folder: str
    rows: int
    files: Mapping[str, FileEntry]
    deleted: DeletedEntry | None = None
    first_item: int | None = None

    @property
    def gone(self) -> int:
        """How many of its rows are deleted."""
        return 0 if self.deleted is None else self.deleted.rows

    @property
    def sha256(self) -> dict[str, str]:
        """Of its files, by name."""
        return {name: file.sha256 for name, file in self.files.items()}


@dataclass(frozen=True, kw_only=True)
class AttachedEntry:
    """An attachment as a manifest lists it.

    kind: what it is; a gallery has at most one of each. folder: relative to the gallery. covers:
    the folders of the shards that it was made from, and deleted: how many of their rows were
    deleted then. files: its files by name. about: what there is to say of it, a JSON object.
    """

    kind: str
    folder: str
    covers: tuple[str, ...]
    files: Mapping[str, FileEntry]
    deleted: int = 0
    about: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class OverlayEntry:
    """What was said of items' attributes after they were added, as a manifest lists it; see
    overlays.py.

    file: relative to the gallery. rows: how many items it speaks of. attributes: which.
    """

    file: str
    rows: int
    attributes: tuple[str, ...]
    entry: FileEntry

    @property
    def columns(self) -> tuple[str, ...]:
        """Those of its attributes."""
        return tuple(column for name in self.attributes for column in columns_of(name))


@dataclass(frozen=True)
class Previous:
    """The manifest of the generation before, so that the history can be checked too."""

    name: str
    entry: FileEntry


@dataclass(frozen=True, kw_only=True)
class Event:
    """What made a generation: never whom or what it was about, as that outlives erasure.

    what: "create", "add", "delete", "compact", "rebuild", "attach", "detach", "attributes";
    "unknown" in old formats. rows: added, deleted, or removed for good; of attributes the items
    that something was said of, or taken back. kind: of the attachment; CLEARED where attributes
    were taken back.
    """

    what: str
    rows: int = 0
    kind: str | None = None


@dataclass(frozen=True, kw_only=True)
class Past:
    """A generation as history tells it. created: UTC. rows: items in it, None where not known."""

    generation: int
    created: datetime
    event: Event
    rows: int | None


@dataclass(frozen=True, kw_only=True)
class Owed:
    """An attachment that was left out of a generation, as it was made from rows deleted since or by
    another extractor, and is still to be made again.

    about: how it was made, as `AttachedEntry` has it.
    """

    kind: str
    about: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """One generation of a gallery.

    metric, dim, dtype, fingerprint, matcher: fixed when the gallery is made, or rebuilt; matcher is
        None where items are compared by their vectors alone.
    recipe: how to make the extractor again, in the words of whoever built the gallery: a JSON
        object, never interpreted here.
    next_item: the smallest item id not given yet.
    attached: what was made from the shards and is kept with them; later generations carry it on.
    overlays: what was said of attributes since, oldest first.
    created: when this generation was committed, UTC. event: what made it.
    previous: filled in by `commit`; None in the first generation, and after a compaction.
    history: the generations whose manifests compaction has removed, oldest first.
    columns: the items' columns in all shards and overlays together, and their types as Arrow writes
        them; so that rows can be added without a look at what is there. None in formats before 1.3.
    keys: digests of the keys by which additions are known again.
    owed: attachments that are to be made again, of kinds that are not attached.
    identity: what tells the gallery from others, the same in its copies: 32 hex digits; None in
        formats before 1.3, until it is written to.
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
    overlays: tuple[OverlayEntry, ...] = ()
    previous: Previous | None = None
    event: Event = Event(what="unknown")
    history: tuple[Past, ...] = ()
    columns: Mapping[str, str] | None = None
    keys: tuple[str, ...] = ()
    owed: tuple[Owed, ...] = ()
    identity: str | None = None
    matcher: Matcher | None = None

    @property
    def stored(self) -> int:
        """Rows in all shards together, deleted ones too."""
        return sum(shard.rows for shard in self.shards)

    @property
    def deleted(self) -> int:
        """Rows that are deleted and still stored."""
        return sum(shard.gone for shard in self.shards)

    @property
    def rows(self) -> int:
        """Items: rows that are not deleted."""
        return self.stored - self.deleted

    @property
    def folders(self) -> tuple[str, ...]:
        """The folders of the shards, in order."""
        return tuple(shard.folder for shard in self.shards)

    @property
    def file_name(self) -> str:
        """The name of this generation's manifest file."""
        return manifest_name(self.generation)

    @property
    def past(self) -> Past:
        """This generation as history will tell it."""
        return Past(
            generation=self.generation, created=self.created, event=self.event, rows=self.rows
        )

    def attachment(self, kind: str) -> AttachedEntry | None:
        """What is attached of that kind."""
        return next((entry for entry in self.attached if entry.kind == kind), None)

    def is_fresh(self, entry: AttachedEntry) -> bool:
        """Whether an attachment was made from just the present rows."""
        return entry.covers == self.folders and entry.deleted == self.deleted


def manifest_name(generation: int) -> str:
    """The name of the manifest file of a generation."""
    return f"manifest-{generation:06d}.json"


def to_json(manifest: Manifest) -> dict[str, Any]:
    """As `manifest-NNNNNN.json` has it."""
    previous = manifest.previous
    return {
        "format": list(FORMAT),
        "requires": requirements(manifest),
        "generation": manifest.generation,
        "created": manifest.created.isoformat(),
        "event": _event_to_json(manifest.event),
        "metric": str(manifest.metric),
        "dim": manifest.dim,
        "dtype": manifest.dtype,
        "fingerprint": manifest.fingerprint.to_json(),
        "matcher": None if manifest.matcher is None else manifest.matcher.to_json(),
        "recipe": dict(manifest.recipe),
        "next_item": manifest.next_item,
        "columns": None if manifest.columns is None else dict(manifest.columns),
        "previous": None
        if previous is None
        else {"file": previous.name, **_file_to_json(previous.entry)},
        "keys": list(manifest.keys),
        "identity": manifest.identity,
        "owed": [{"kind": owed.kind, "about": dict(owed.about)} for owed in manifest.owed],
        "history": [_past_to_json(past) for past in manifest.history],
        "shards": [
            {
                "folder": shard.folder,
                "rows": shard.rows,
                "files": _files_to_json(shard.files),
                "deleted": _deleted_to_json(shard.deleted),
                "first_item": shard.first_item,
            }
            for shard in manifest.shards
        ],
        "attached": [
            {
                "kind": attached.kind,
                "folder": attached.folder,
                "covers": list(attached.covers),
                "deleted": attached.deleted,
                "files": _files_to_json(attached.files),
                "about": dict(attached.about),
            }
            for attached in manifest.attached
        ],
        "overlays": [
            {
                "file": overlay.file,
                "rows": overlay.rows,
                "attributes": list(overlay.attributes),
                **_file_to_json(overlay.entry),
            }
            for overlay in manifest.overlays
        ],
    }


def requirements(manifest: Manifest) -> list[str]:
    """What a reader must know of."""
    needed = {DELETIONS: manifest.deleted > 0, OVERLAYS: len(manifest.overlays) > 0}
    return [name for name, is_needed in needed.items() if is_needed] + required_by(manifest.matcher)


def _event_to_json(event: Event) -> dict[str, Any]:
    said = {"what": event.what, "rows": event.rows, "kind": event.kind}
    return {name: value for name, value in said.items() if value is not None}


def _past_to_json(past: Past) -> dict[str, Any]:
    return {
        "generation": past.generation,
        "created": past.created.isoformat(),
        "items": past.rows,
        **_event_to_json(past.event),
    }


def _file_to_json(entry: FileEntry) -> dict[str, Any]:
    return {"bytes": entry.size, "sha256": entry.sha256}


def _files_to_json(files: Mapping[str, FileEntry]) -> dict[str, dict[str, Any]]:
    return {name: _file_to_json(entry) for name, entry in files.items()}


def _deleted_to_json(deleted: DeletedEntry | None) -> dict[str, Any] | None:
    if deleted is None:
        return None
    return {"file": deleted.file, "rows": deleted.rows, **_file_to_json(deleted.entry)}


def from_json(data: Any) -> Manifest:
    """Raises LookupError, TypeError, ValueError where it is no manifest."""
    manifest = Manifest(
        generation=_count(data["generation"]),
        created=_time(data["created"]),
        metric=Metric(data["metric"]),
        dim=_count(data["dim"]),
        dtype=str(data["dtype"]),
        fingerprint=Fingerprint.from_json(data["fingerprint"]),
        recipe=dict(data["recipe"]),
        next_item=_count(data["next_item"], most=2**62),
        shards=tuple(_shard_from_json(shard) for shard in data["shards"]),
        # Format 1.0 has none.
        attached=tuple(_attached_from_json(entry) for entry in data.get("attached", ())),
        # Formats before 1.6 have none.
        overlays=tuple(_overlay_from_json(entry) for entry in data.get("overlays", ())),
        previous=_previous_from_json(data["previous"]),
        # Formats before 1.3 have none of these.
        event=_event_from_json(data.get("event", {"what": "unknown"})),
        history=tuple(_past_from_json(past) for past in data.get("history", ())),
        columns=_columns_from_json(data.get("columns")),
        keys=tuple(map(str, data.get("keys", ()))),
        owed=tuple(
            Owed(kind=str(owed["kind"]), about=dict(owed["about"])) for owed in data.get("owed", ())
        ),
        identity=None if data.get("identity") is None else str(data["identity"]),
        matcher=matcher_from_json(data),
    )
    if not re.fullmatch("[0-9a-f]{32}", manifest.identity or "0" * 32):
        raise ValueError("its identity is not 32 hex digits")
    if manifest.dim < 1 or manifest.dtype not in ("float32", "float16"):
        raise ValueError(f"it lists vectors of {manifest.dim} dimensions in {manifest.dtype}")
    if len(set(manifest.folders)) < len(manifest.shards):
        raise ValueError("it lists a shard twice")
    if len({overlay.file for overlay in manifest.overlays}) < len(manifest.overlays):
        raise ValueError("it lists an overlay twice")
    for overlay in manifest.overlays:
        missing = [name for name in overlay.columns if name not in (manifest.columns or {})]
        if missing:
            raise ValueError(f"{overlay.file} has {missing[0]}, and its columns have not")
    return manifest


def _columns_from_json(data: Any) -> dict[str, str] | None:
    return None if data is None else {str(name): str(kind) for name, kind in data.items()}


def _count(value: Any, *, most: int = _MOST) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError(f"it has {value!r} where a count from 0 up is needed")
    return value


def _time(text: Any) -> datetime:
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except OverflowError:
        raise ValueError(f"{text} is before the year 1 or after 9999 in UTC") from None


def _event_from_json(data: Any) -> Event:
    kind = data.get("kind")
    return Event(
        what=str(data["what"]),
        rows=_count(data.get("rows", 0)),
        kind=None if kind is None else str(kind),
    )


def _past_from_json(data: Any) -> Past:
    return Past(
        generation=_count(data["generation"]),
        created=_time(data["created"]),
        event=_event_from_json(data),
        rows=None if data["items"] is None else _count(data["items"]),
    )


def _previous_from_json(data: Any) -> Previous | None:
    if data is None:
        return None
    return Previous(check_manifest_name(data["file"]), _file_from_json(data))


def check_manifest_name(name: Any) -> str:
    """The name, if it is one of a manifest. Raises ValueError."""
    if not isinstance(name, str) or not re.fullmatch(r"manifest-[0-9]{6,12}\.json", name):
        raise ValueError(f"it names {name!r}, which is not a manifest")
    return name


def is_plain(name: str) -> bool:
    """Whether a file may be called so: letters, digits, dots and dashes."""
    return re.fullmatch(r"\w[\w.-]*", name) is not None


def _shard_from_json(data: Any) -> ShardEntry:
    rows, first = _count(data["rows"]), data.get("first_item")
    deleted = _deleted_from_json(data.get("deleted"))  # formats before 1.3 have none
    if deleted is not None and not 0 < deleted.rows <= rows:
        raise ValueError(f"of {rows} rows of {data['folder']} it has {deleted.rows} deleted")
    return ShardEntry(
        folder=_inside(data["folder"], r"shards/[0-9]+(-[0-9]+)?"),
        rows=rows,
        files=_files_from_json(data),
        deleted=deleted,
        first_item=None if first is None else _count(first, most=2**62),
    )


def _deleted_from_json(data: Any) -> DeletedEntry | None:
    if data is None:
        return None
    return DeletedEntry(
        file=_inside(data["file"], r"deleted/[0-9]+-[0-9]+\.bits"),
        rows=_count(data["rows"]),
        entry=_file_from_json(data),
    )


def _attached_from_json(data: Any) -> AttachedEntry:
    return AttachedEntry(
        kind=str(data["kind"]),
        folder=_inside(data["folder"], r"attached/[0-9]+-[a-z]+"),
        covers=tuple(map(str, data["covers"])),
        deleted=_count(data.get("deleted", 0)),  # formats before 1.3 have none
        files=_files_from_json(data),
        about=dict(data.get("about", {})),  # formats before 1.2 have none
    )


def _overlay_from_json(data: Any) -> OverlayEntry:
    file, names = _inside(data["file"], r"overlays/[0-9]+\.parquet"), data["attributes"]
    try:
        if (
            not isinstance(names, list)
            or not names
            or len(set(map(check_name, names))) < len(names)
        ):
            raise ValueError(f"the attributes of {file} are none, or not told apart")
    except UsageError as error:
        raise ValueError(f"{file}: {error}") from None
    rows = _count(data["rows"])
    if rows == 0:
        raise ValueError(f"{file} speaks of no item")
    return OverlayEntry(file=file, rows=rows, attributes=tuple(names), entry=_file_from_json(data))


def _inside(path: Any, pattern: str) -> str:
    if not isinstance(path, str) or not re.fullmatch(pattern, path, re.ASCII):
        raise ValueError(f"it lists files outside the gallery ({path})")
    return path


def _files_from_json(data: Any) -> dict[str, FileEntry]:
    if not all(map(is_plain, data["files"])):
        raise ValueError(f"it lists files outside the gallery ({data['folder']})")
    return {name: _file_from_json(entry) for name, entry in data["files"].items()}


def _file_from_json(data: Any) -> FileEntry:
    return FileEntry(_count(data["bytes"]), str(data["sha256"]))
