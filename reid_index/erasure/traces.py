"""Looking for what a receipt names in a gallery's folder: in all bytes, rows and attachments."""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from stat import S_ISDIR, S_ISREG

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from ..errors import UsageError
from ..store.append import shard_at
from ..store.commit import earlier_manifests, listed_files, open_present, read_earlier
from ..store.deletions import read_deleted
from ..store.lease import Held, holders, is_held
from ..store.manifest import Manifest, ShardEntry
from ..store.retire import KEPT_IN
from ..threads import over_ranges
from .erasure import NAME
from .receipt import Receipt
from .sought import Finder
from .traces_attached import attachment_traces
from .traces_tables import Found, Sought, hdf5_traces, parquet_traces

_BLOCK = 2**22
"""Bytes that a thread looks at at a time."""

_STRIDE = 16 * _BLOCK
"""Bytes after which progress is told."""

_PARQUET = b"PAR1"
_HDF5 = b"\x89HDF\r\n\x1a\n"


@dataclass(frozen=True, kw_only=True)
class Traces:
    """What is left of the items of a receipt, and what removes it.

    lines: one for each place, never with the value in clear; empty when all is gone. Of many places
    alike in a file the first few. items: ids of items, not deleted, that hold some of it: they came
    back later, and are to be deleted. held: former generations that hold some, and that readers
    hold. strays: what no compaction removes, as it is no part of the gallery; in words where its
    name is an erased one. wrong: kinds of attachments that are to be made again. compact: whether
    compaction removes some, apart from all that.
    """

    lines: tuple[str, ...]
    items: tuple[int, ...] = ()
    held: tuple[Held, ...] = ()
    strays: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()
    compact: bool = False


def find_traces(
    gallery: Path,
    receipt: Receipt,
    *,
    progress: Callable[[int], object] = lambda _bytes: None,
) -> Traces:
    """What is left in a gallery's folder of the items of a receipt.

    Looked for are vectors and pieces of them, paths and labels, at any offset of every file below
    the folder, listed or not, and in its names; item ids, texts, crops and vectors in every column
    and row of every Parquet and HDF5 file, dictionaries and statistics included; and in attachments
    what was made from such rows: see traces_attached.py. What `Receipt.remarks` says is not
    covered, nor are bytes that are compressed in files of other kinds.

    In items that were added after the erasure, the same picture, crop, vector or person is a trace,
    other texts are not. progress is told of bytes as they are read; `bytes_below` has their number.
    Raises UsageError for a receipt of another gallery, GalleryNotFound, CorruptGallery, BadShard,
    FormatTooNew.
    """
    opened = open_present(gallery)
    try:
        _check_gallery(gallery, opened.manifest, receipt)
        return _find(gallery, opened.manifest, receipt, progress)
    finally:
        opened.lease.end()


def _check_gallery(gallery: Path, manifest: Manifest, receipt: Receipt) -> None:
    if manifest.identity is not None and manifest.identity != receipt.gallery:
        raise UsageError(f"the receipt is of another gallery than {gallery}, so it proves nothing")
    if manifest.generation <= receipt.generation:
        raise UsageError(
            f"{gallery} is at generation {manifest.generation}, and the items were deleted from "
            f"generation {receipt.generation}: this is a copy from before that"
        )


def _find(
    gallery: Path, manifest: Manifest, receipt: Receipt, progress: Callable[[int], object]
) -> Traces:
    sought = Sought.of(receipt)
    places = _Places(gallery, manifest)
    lines: list[str] = []
    for path in _files_below(gallery):
        # What the gallery itself calls its files is of nobody.
        shown = path if places.is_listed(path) else _shown(path, gallery, sought)
        found = _in_file(
            path,
            sought,
            progress,
            explained=places.explained_in(path, sought),
            is_overlay=places.is_overlay(path),
        )
        if shown != path:
            found.lines.insert(0, _NAMED)
        if found.lines:
            lines += [f"{shown}: {line}" for line in found.lines]
            places.note(path, found, str(path) if shown == path else f"a file in {shown}")
    attached, wrong = attachment_traces(gallery, manifest, touched=places.touched)
    for folder, line in attached:
        lines.append(line)
        places.note_attached(folder)
    return places.traces(lines, wrong)


_NAMED = "the name of a file in it is that of an erased picture, or has its path or a label"


class _Places:
    """Whom the places belong to in which something was found: so what removes it.

    touched: folders of the present generation with something in what it lists of them.
    """

    def __init__(self, gallery: Path, manifest: Manifest) -> None:
        self._gallery = gallery
        self._shards = {gallery / shard.folder: shard for shard in manifest.shards}
        self._attached = {gallery / entry.folder for entry in manifest.attached}
        self._overlays = {gallery / entry.file: entry for entry in manifest.overlays}
        self._listed = {file for file, _ in listed_files(gallery, manifest)}
        self._listed |= {file for file, _ in earlier_manifests(gallery, manifest)}
        self._listed |= {gallery / name for name in ("CURRENT", "lock", manifest.file_name)}
        self._manifest = manifest
        self.touched: set[Path] = set()
        self._items: set[int] = set()
        self._readers: set[Held] = set()
        self._strays: dict[str, None] = {}
        self._compact = False

    def is_listed(self, path: Path) -> bool:
        """Whether the present generation has that file."""
        return path in self._listed

    def is_overlay(self, path: Path) -> bool:
        """Whether it is what the present generation has of items since they were added."""
        return path in self._overlays

    def explained_in(self, path: Path, sought: Sought) -> set[int]:
        """Needles that a file has for another reason: the root of items that were added later."""
        entry = self._shards.get(path.parent)
        if entry is None or path.name != "shard.json" or not entry.rows:
            return set()
        shard = shard_at(self._gallery, entry)
        first = pc.min(shard.read_columns(["item"])["item"]).as_py()
        if first <= sought.receipt.last_item:
            return set()
        escaped = json.dumps(shard.header.root, ensure_ascii=False)[1:-1]
        return set().union(*sought.within([escaped.encode()]).values())

    @cached_property
    def _held(self) -> Mapping[Path, Held]:
        return _held(self._gallery, self._manifest)

    def note(self, path: Path, found: Found, words: str) -> None:
        """Something was found in a file; words: what it may be called."""
        if path in self._listed:
            self.touched.add(path.parent)
            if path.parent in self._shards:
                self._note_rows(self._shards[path.parent], found.rows)
            # Compaction leaves nothing of an item in it that is not there.
            self._compact |= path in self._overlays and bool(found.rows)
        elif not self._is_former(self._part(path)):
            self._strays[words] = None

    def note_attached(self, folder: Path) -> None:
        """An attachment was, or may have been, made from something erased."""
        if folder not in self._attached:
            self._is_former(folder)

    def traces(self, lines: Iterable[str], wrong: Iterable[str]) -> Traces:
        return Traces(
            lines=tuple(lines),
            items=tuple(sorted(self._items)),
            held=tuple(sorted(self._readers, key=lambda held: held.generation)),
            strays=tuple(self._strays),
            wrong=tuple(sorted(wrong)),
            compact=self._compact,
        )

    def _note_rows(self, entry: ShardEntry, rows: set[int]) -> None:
        if not rows:
            return
        items = shard_at(self._gallery, entry).read_columns(["item"])["item"].to_numpy()
        deleted = read_deleted(self._gallery, entry)
        is_gone = np.zeros(len(items), np.bool_) if deleted is None else deleted
        some = sorted(rows)
        self._items.update(items[some][~is_gone[some]].tolist())
        self._compact |= bool(is_gone[some].any())

    def _is_former(self, part: Path) -> bool:
        """Whether compaction removes it, maybe once a reader has ended; noted if so."""
        if part in self._held:
            self._readers.add(self._held[part])
            return True
        is_kept = part in self._shards or part in self._attached
        is_temporary = part.name.startswith(".") and part.name.endswith(".tmp")
        if is_temporary or (part.parent.name in KEPT_IN and not is_kept):
            self._compact = True
            return True
        return False

    def _part(self, path: Path) -> Path:
        """The file or folder that is kept or removed as one."""
        parts = path.relative_to(self._gallery).parts
        return self._gallery.joinpath(*parts[: 2 if parts[0] in KEPT_IN else 1])


def _held(gallery: Path, present: Manifest) -> Mapping[Path, Held]:
    """What former generations need that readers hold."""
    found: dict[Path, Held] = {}
    for path in sorted(gallery.glob("manifest-*.json")):
        if path.name != present.file_name and is_held(path):
            earlier = read_earlier(path)
            held = Held(earlier.generation, holders(path))
            folders = [*earlier.folders, *(entry.folder for entry in earlier.attached)]
            bitmaps = [shard.deleted.file for shard in earlier.shards if shard.deleted is not None]
            overlays = [entry.file for entry in earlier.overlays]
            names = (path.name, *folders, *bitmaps, *overlays)
            found |= {gallery / name: held for name in names}
    return found


def bytes_below(gallery: Path) -> int:
    """The size of all files below a folder, those that `find_traces` reads."""
    size = 0
    for path in _files_below(gallery):
        with suppress(FileNotFoundError):  # a writer has removed it meanwhile
            size += path.stat().st_size
    return size


def _files_below(folder: Path) -> Iterator[Path]:
    """Every file, in order, behind links too; each folder once."""
    seen = set()
    waiting = [folder]
    while waiting:
        path = waiting.pop()
        try:
            about = path.stat()
        except OSError:  # a link to nowhere, or gone meanwhile
            continue
        if S_ISREG(about.st_mode):
            yield path
        elif S_ISDIR(about.st_mode) and (about.st_dev, about.st_ino) not in seen:
            seen.add((about.st_dev, about.st_ino))
            with suppress(FileNotFoundError):
                waiting += sorted(path.iterdir(), reverse=True)


def _shown(path: Path, gallery: Path, sought: Sought) -> Path:
    """A file, or the folder up to which nothing of its name is erased."""
    name = os.fsencode(path.relative_to(gallery))
    starts = [at for at, _ in sought.finder.needles(np.frombuffer(name, np.uint8))]
    begin = 0
    for part in name.split(b"/"):
        if sought.receipt.is_cell(NAME, part):
            starts.append(begin)
        begin += len(part) + 1
    if not starts:
        return path
    return gallery / os.fsdecode(name[: min(starts)].rpartition(b"/")[0])


def _in_file(
    path: Path,
    sought: Sought,
    progress: Callable[[int], object],
    *,
    explained: set[int],
    is_overlay: bool,
) -> Found:
    found = Found(explained=explained)
    try:
        with path.open("rb") as file:
            begin = file.read(len(_HDF5))
            if begin.startswith(_PARQUET):
                found = parquet_traces(path, sought, is_overlay=is_overlay)
            elif begin == _HDF5:
                found = hdf5_traces(path, sought)
            _look_at_bytes(file.fileno(), sought, found, progress)
    except FileNotFoundError:
        return Found()  # a writer has removed it meanwhile
    except OSError as error:
        found.lines.append(f"cannot be read, so it may hold anything: {error.strerror}")
    return found


def _look_at_bytes(
    file: int, sought: Sought, found: Found, progress: Callable[[int], object]
) -> None:
    size = os.fstat(file).st_size
    pieces: list[tuple[int, int]] = []
    texts: list[int] = []
    finder = sought.finder
    for begin in range(0, size, _STRIDE):
        length = min(_STRIDE, size - begin)

        def look(first: int, last: int, begin: int = begin) -> _Hits:
            return _look(file, begin + first, begin + last, finder)

        for some_pieces, some_texts in over_ranges(look, length, piece=_BLOCK):
            pieces += some_pieces
            texts += [at for at, number in some_texts if number not in found.explained]
        progress(length)
    runs = [f"bytes {first:,} to {last:,}" for first, last in _runs(pieces)]
    found.add(runs, "pieces of an erased vector")
    at = [f"byte {offset:,}" for offset in sorted(set(texts))]
    found.add(at, "an erased path, label or text")


_Hits = tuple[list[tuple[int, int]], list[tuple[int, int]]]


def _look(file: int, start: int, stop: int, finder: Finder) -> _Hits:
    """Pieces, with their length, and needles that begin from start to stop, with their number."""
    buffer = _read(file, start, stop + finder.overlap)
    pieces, needles = finder.pieces(buffer), finder.needles(buffer)
    return (
        [(start + at, length) for at, length in pieces if start + at < stop],
        [(start + at, number) for at, number in needles if start + at < stop],
    )


def _read(file: int, start: int, stop: int) -> NDArray[np.uint8]:
    buffer = np.empty(stop - start, np.uint8)
    view = buffer.data
    filled = 0
    while filled < len(buffer):
        count = os.preadv(file, [view[filled:]], start + filled)
        if count == 0:
            break
        filled += count
    return buffer[:filled]


def _runs(pieces: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """First and last byte of pieces that follow each other or overlap; they ascend."""
    first = last = -1
    for at, length in pieces:
        if first >= 0 and at > last + 1:
            yield first, last
            first = -1
        if first < 0:
            first = at
        last = max(last, at + length - 1)
    if first >= 0:
        yield first, last
