"""What the readers of datasets find: crops and tracklets by part, and a part as a `Source`.

Readers look at names, lists and labels; they open no picture.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa

from reid_index.errors import BadSource
from reid_index.reading import read_bytes

from .images import SUFFIXES
from .names import last_number
from .pictures import MARKET_COLUMNS, Person, Picture, Source

JUNK = "junk (person -1)"
"""What a source calls the files that it leaves out as no proper box."""

_LARGEST_LIST = 2**30
"""Bytes of a list of names: some ten million of them."""


@dataclass(frozen=True)
class Record:
    """One crop, or one tracklet: crops of one person from one camera in order of time.

    files: paths relative to the dataset's folder, with "/". columns: item columns that hold for
    all of them; a tracklet has a `track`, and the last number in a file's name is its frame.
    """

    files: Sequence[str]
    columns: Mapping[str, Any]


@dataclass(frozen=True)
class Part:
    """One side of a dataset. left_out: why → how many files."""

    records: Sequence[Record]
    left_out: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Listing:
    """A dataset as it was found.

    root: the folder that files are relative to. columns: name → type of the item columns beyond
    the standard ones. counts: name → number, of what is in no part.
    """

    root: Path
    query: Part
    gallery: Part
    train: Part | None = None
    columns: Mapping[str, pa.DataType] = field(default_factory=lambda: MARKET_COLUMNS)
    counts: Mapping[str, int] = field(default_factory=dict)

    def source(self, part: Part) -> Source:
        """A part as a source: a picture for each file, one person in it."""
        return Source(
            root=self.root,
            count=_files(part),
            columns=self.columns,
            left_out=part.left_out,
            pictures=lambda: _pictures(self.root, part.records),
        )

    def count(self) -> dict[str, int]:
        """Name → number, for each part P of train, query and gallery: "P", its files; "P persons",
        its labels; "P tracklets", its tracklets or crops. Further "gallery distractors", tracklets
        or crops of nobody in particular; "cameras"; "answerable queries", tracklets or crops whose
        person another camera saw, too; and what the reader counted.
        """
        parts = {"query": self.query, "gallery": self.gallery, "train": self.train or Part(())}
        found = dict(self.counts)
        for name, part in parts.items():
            found[name] = _files(part)
            found[f"{name} tracklets"] = len(part.records)
            found[f"{name} persons"] = len(_values(part, "person"))
        found["cameras"] = len(set().union(*(_values(part, "camera") for part in parts.values())))
        roles = [record.columns.get("role") for record in self.gallery.records]
        found["gallery distractors"] = roles.count("distractor")
        found["answerable queries"] = _answerable(self.query, self.gallery)
        return found


def _files(part: Part) -> int:
    return sum(len(record.files) for record in part.records)


def _values(part: Part, column: str) -> set[Any]:
    return {record.columns.get(column) for record in part.records} - {None}


def _answerable(query: Part, gallery: Part) -> int:
    cameras: dict[str, set[int]] = {}
    for record in gallery.records:
        if record.columns["person"] is not None:
            cameras.setdefault(record.columns["person"], set()).add(record.columns["camera"])
    return sum(
        bool(cameras.get(record.columns["person"], set()) - {record.columns["camera"]})
        for record in query.records
    )


def _pictures(root: Path, records: Iterable[Record]) -> Iterator[Picture]:
    for record in records:
        for file in record.files:
            columns = record.columns
            if "track" in columns:
                frame = last_number(PurePosixPath(file).stem)
                columns = {**columns, "frame_first": frame, "frame_last": frame}
            yield Picture(root / file, file, (Person(columns=columns),), root=root)


def need(path: Path, *, layout: str) -> Path:
    """The path, where it is. Raises BadSource, with the layout that was expected, elsewhere."""
    if not path.exists():
        raise BadSource(f"{path}: there is no such file or folder; {layout}")
    return path


def first_of(paths: Sequence[Path], *, layout: str) -> Path:
    """The first path that exists. Raises BadSource, with the first, where none does."""
    return next((path for path in paths if path.exists()), None) or need(paths[0], layout=layout)


def picture_names(folder: Path) -> list[str]:
    """Names of the pictures in the folder itself, sorted. Raises BadSource."""
    try:
        names = [path.name for path in folder.iterdir()]
    except OSError as error:
        raise BadSource(f"{folder}: the folder cannot be listed: {error.strerror}") from None
    return sorted(
        name for name in names if Path(name).suffix.lower() in SUFFIXES and not name.startswith(".")
    )


def read_lines(path: Path, *, layout: str) -> list[str]:
    """Lines of a UTF-8 file, without blank ones. Raises BadSource."""
    try:
        content = read_bytes(need(path, layout=layout), most=_LARGEST_LIST)
        lines = content.decode("utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise BadSource(f"{path}: cannot be read as text: {error}") from None
    return [line.strip() for line in lines if line.strip()]


def shuffled(names: Iterable[str], *, seed: int) -> list[str]:
    """The names ordered by the SHA-256 of "SEED NAME": the same on every machine and version."""
    return sorted(names, key=lambda name: hashlib.sha256(f"{seed} {name}".encode()).digest())


def check_pictures(root: Path, part: Part, *, listed_in: Path) -> None:
    """Raises BadSource where the first file of a part is not there: a list of another folder.

    Further files that are missing are told when they are opened.
    """
    if part.records and not (root / part.records[0].files[0]).exists():
        file = root / part.records[0].files[0]
        raise BadSource(f"{listed_in}: names {file}, which is not there; put the pictures there")
