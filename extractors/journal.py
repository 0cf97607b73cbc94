"""What an extraction has finished, kept beside its parts so that the next run can go on."""

import hashlib
import json
from dataclasses import asdict, dataclass
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

from reid_index.errors import UsageError
from reid_index.files import remove_all_but, write_json

from .pictures import Picture, Source

_NAME = "journal.json"


@dataclass(frozen=True)
class Part:
    """A finished shard of a run. name: its folder; rows: 0 where nobody was left, and then there
    is no folder. pictures: how many of the source it used up; skipped: people left out; digest:
    of the pictures' `identity`, so that a source that changed is noticed."""

    name: str
    rows: int
    pictures: int
    skipped: int
    digest: str


class Journal:
    """The finished parts of a run in a folder, in order.

    job: what else must be the same for a run to go on: extractor, metric, storage, root.
    """

    def __init__(self, folder: Path, job: dict[str, Any], parts: list[Part]) -> None:
        self.folder = folder
        self.parts = parts
        self._job = job

    @classmethod
    def open(cls, folder: Path, job: dict[str, Any], source: Source, *, strict: bool) -> "Journal":
        """The journal of the folder's run, cut off before the first part that no longer holds:
        whose shard is gone, whose pictures have changed or, with strict, which left people out.
        A new one where there is none. What belongs to no part is removed.

        Raises UsageError for a journal of another job, or that cannot be read.
        """
        parts: list[Part] = []
        if (folder / _NAME).exists():
            parts = _read(folder, job)
            parts = list(takewhile(lambda part: _is_there(folder, part), parts))
            parts = parts[: _unchanged(parts, source)]
        if strict:
            parts = list(takewhile(lambda part: not part.skipped, parts))
        journal = cls(folder, job, parts)
        journal._write()
        remove_all_but(folder, {part.name for part in parts} | {_NAME, "lock"})
        return journal

    def add(self, part: Part) -> None:
        """Note a part whose shard is written."""
        self.parts.append(part)
        self._write()

    @property
    def next_name(self) -> str:
        """The folder name of the part to come."""
        return f"part-{len(self.parts) + 1:06d}"

    def _write(self) -> None:
        content = {"job": self._job, "parts": [asdict(part) for part in self.parts]}
        write_json(self.folder / _NAME, content)


def identity(picture: Picture) -> bytes:
    """What makes a picture the same one when a run goes on: its file's name, size and time, of a
    video the number of the frame, boxes, columns."""
    try:
        stat = picture.path.stat()
        state = (stat.st_size, stat.st_mtime_ns)
    except (OSError, ValueError):  # gone, or no name that a file can have
        state = (-1, -1)
    which = () if picture.frame is None else (picture.frame,)
    return repr((picture.source, state, picture.people, *which)).encode(errors="surrogateescape")


def _read(folder: Path, job: dict[str, Any]) -> list[Part]:
    path = folder / _NAME
    try:
        data = json.loads(path.read_bytes())
        parts = [Part(**part) for part in data["parts"]]
        changed = [name for name, value in job.items() if data["job"].get(name) != value]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UsageError(f"{path} cannot be read; delete {folder} to start anew") from None
    if changed:
        raise UsageError(
            f"{folder} holds an unfinished run with another {', '.join(changed)}; run that one "
            "again to finish it, or delete the folder"
        )
    return parts


def _is_there(folder: Path, part: Part) -> bool:
    return not part.rows or (folder / part.name / "shard.json").exists()


def _unchanged(parts: list[Part], source: Source) -> int:
    """How many of the parts, from the first on, come from pictures that are still the same."""
    pictures = source.pictures()
    for index, part in enumerate(parts):
        digest = hashlib.sha256()
        for picture in islice(pictures, part.pictures):
            digest.update(identity(picture))
        if digest.hexdigest() != part.digest:
            return index
    return len(parts)
