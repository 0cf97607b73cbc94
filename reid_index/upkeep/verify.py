"""Whether a gallery is whole: every byte by its sha256, every count by every other; and making
again what is damaged and can be made again.

A file's bytes are compared before HDF5, Arrow or Faiss see them: damage cannot crash these.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import CorruptGallery, GalleryLocked, MissingExtra, ReidIndexError
from ..files import sha256_file
from ..gallery import Gallery
from ..store.append import shard_at
from ..store.attached import made_again
from ..store.commit import (
    Listed,
    earlier_generations,
    earlier_manifests,
    files_of,
    listed_files,
    read_current,
    read_earlier,
)
from ..store.deletions import read_deleted
from ..store.items import type_text
from ..store.lease import is_held
from ..store.manifest import (
    AttachedEntry,
    FileEntry,
    Manifest,
    OverlayEntry,
    ShardEntry,
    manifest_name,
)
from ..store.overlays import read_overlay, wrong_cells
from ..store.retire import KEPT_IN
from ..store.shard import Shard
from ..store.vectors import stored_type
from .remake import make_again, recipe_of

_ROWS, _HISTORY = "rows", "history"
"""What a finding may be about, beside an attachment: what the gallery is made of, or was."""


_LENGTH_OFF = {"float32": 2e-6, "float16": 4e-3}
"""How far from 1 the length of a normalised row may be: twice what writing allows."""

_Progress = Callable[[int], object]


@dataclass(frozen=True)
class _Finding:
    """line: what is wrong. about: _ROWS, _HISTORY, or the kind of an attachment."""

    line: str
    about: str


@dataclass(frozen=True)
class Repaired:
    """made: kinds of attachments that were made again. left: what was not, and why, a line each.
    whole: whether nothing is damaged any more; what is left may be only stale."""

    made: tuple[str, ...]
    left: tuple[str, ...]
    whole: bool


def verify_gallery(
    gallery: Gallery, *, progress: Callable[[int], object] = lambda _bytes: None
) -> list[str]:
    """What is wrong with a gallery, one line each; empty when nothing is.

    Compares every byte of every file that the gallery's generation and the manifests before it
    list with its sha256; then every count with every other: rows of the manifest, the shards'
    headers, arrays and items, deleted rows, what overlays say, columns, item ids, history, and what
    the attachments were made from; that all vectors are finite and as long as the headers say.
    What Faiss has to read is left out where it is not installed. What can be made again is said
    with the command that does. progress is told of bytes as they are read.
    """
    return [finding.line for finding in _findings(gallery, progress)]


def all_files(gallery: Gallery) -> Iterator[tuple[Path, FileEntry]]:
    """Every file that `verify_gallery` reads, with what it should be."""
    yield from listed_files(gallery.path, gallery.manifest)
    yield from earlier_manifests(gallery.path, gallery.manifest)


def repair_gallery(
    gallery: Gallery, *, progress: Callable[[int], object] = lambda _bytes: None
) -> Repaired:
    """Make damaged or stale indexes, graphs and calibrations again from the shards, each in one
    commit; `gallery` then sees them. Shards are never touched, and while one is damaged nothing
    is made from it.

    progress is told of bytes as they are read. Raises GalleryLocked.
    """
    findings = _findings(gallery, progress)
    damaged = {finding.about for finding in findings}
    manifest = gallery.manifest
    made, left = [], []
    for entry in manifest.attached:
        if entry.kind in damaged or not manifest.is_fresh(entry):
            why = (
                "it would be made from shards that are damaged"
                if _ROWS in damaged
                else _try_again(gallery, entry)
            )
            if why is None:
                made.append(entry.kind)
            else:
                left.append(f"{gallery.path / entry.folder}: left as it is: {why}")
    left += [one.line for one in findings if one.about in (_ROWS, _HISTORY)]
    return Repaired(tuple(made), tuple(left), whole=damaged <= set(made))


def _try_again(gallery: Gallery, entry: AttachedEntry) -> str | None:
    """Make an attachment again; why it could not be, None where it could."""
    recipe = recipe_of(gallery.path, entry)
    if isinstance(recipe, str):
        return recipe
    try:
        make_again(gallery, recipe)
    except GalleryLocked:
        raise
    except ReidIndexError as error:
        return str(error)
    return None


def _findings(gallery: Gallery, progress: _Progress) -> list[_Finding]:
    path, manifest = gallery.path, gallery.manifest
    found = []
    needed: tuple[Listed, ...] = (*manifest.shards, *manifest.overlays)
    for listed in needed:
        lines = _check_files(files_of(path, listed), progress)
        found += [_Finding(line, _ROWS) for line in lines]
    for entry in manifest.attached:
        lines = _check_files(files_of(path, entry), progress)
        found += [_Finding(line + made_again(entry.kind), entry.kind) for line in lines]
    lines = _check_files(earlier_manifests(path, manifest), progress)
    found += [_Finding(line, _HISTORY) for line in lines or _check_history(path, manifest)]
    damaged = {finding.about for finding in found}
    if _ROWS not in damaged:
        found += [_Finding(line, _ROWS) for line in _check_rows(path, manifest)]
        for entry in manifest.attached:
            if entry.kind not in damaged:
                lines = _check_attached(path, manifest, entry)
                found += [_Finding(line, entry.kind) for line in lines]
    if not found:
        found += [_Finding(line, _HISTORY) for line in _check_current(path)]
    return found


def _check_files(listed: Iterable[tuple[Path, FileEntry]], progress: _Progress) -> list[str]:
    lines = []
    for path, entry in listed:
        line = _check_file(path, entry)
        if line:
            lines.append(line)
        progress(entry.size)
    return lines


def _check_file(path: Path, entry: FileEntry) -> str | None:
    try:
        if path.stat().st_size != entry.size:
            return f"{path}: {path.stat().st_size} bytes, the manifest says {entry.size}"
        if sha256_file(path) != entry.sha256:
            return f"{path}: its bytes have changed since it was written (sha256 differs)"
    except OSError as error:
        return f"{path}: cannot be read: {error.strerror}"
    return None


def _check_current(path: Path) -> list[str]:
    """CURRENT and the manifest that it names, which may have changed since the gallery was
    opened."""
    try:
        read_current(path)
    except ReidIndexError as error:
        return [str(error)]
    return []


def _check_history(path: Path, manifest: Manifest) -> list[str]:
    """Generations are numbered upwards, item ids are never given again, and what is deleted stays
    so."""
    lines = []
    later = manifest
    for earlier in earlier_generations(path, manifest):
        file = path / earlier.file_name
        if earlier.generation >= later.generation:
            lines.append(f"{file}: generation {earlier.generation} before {later.generation}")
        if earlier.next_item > later.next_item:
            lines.append(f"{file}: item ids went back from {earlier.next_item} afterwards")
        gone = {shard.folder: shard.gone for shard in earlier.shards}
        lines += [
            f"{file}: of {shard.folder} it has {gone[shard.folder]} rows deleted, a later one "
            f"{shard.gone}"
            for shard in later.shards
            if shard.gone < gone.get(shard.folder, 0)
        ]
        later = earlier
    numbers = [past.generation for past in later.history] + [later.generation]
    if any(after <= before for before, after in pairwise(numbers)):
        lines.append(f"{path / later.file_name}: its history is numbered {numbers}")
    return lines


def _check_rows(path: Path, manifest: Manifest) -> list[str]:
    """The shards one by one, and all of them together."""
    lines, ids = [], [np.empty(0, np.int64)]
    shapes: dict[str, set[tuple[int, ...]]] = {}
    for entry in manifest.shards:
        try:
            shard = shard_at(path, entry)
            lines += _check_shard(shard, entry, manifest)
            for name, array in shard.arrays.items():
                shapes.setdefault(name, set()).add(array.shape[1:])
            ids.append(shard.items["item"].to_numpy())
            read_deleted(path, entry)
        except ReidIndexError as error:
            lines.append(str(error))
    lines += [
        f"{path}: its shards hold {name} of different shapes, {sorted(them)}"
        for name, them in shapes.items()
        if len(them) > 1
    ]
    given = np.concatenate(ids)
    if len(np.unique(given)) != len(given):
        lines.append(f"{path}: an item id is given twice")
    lines += _check_overlays(path, manifest, given)
    if given.min(initial=0) < 0:
        lines.append(f"{path}: an item id is below 0")
    if given.max(initial=-1) >= manifest.next_item:
        lines.append(f"{path}: an item id is beyond the next one to be given")
    return lines


def _check_overlays(path: Path, manifest: Manifest, items: NDArray[np.int64]) -> list[str]:
    """What overlays say, and of which of the items that are stored."""
    lines = []
    for entry in manifest.overlays:
        file = path / entry.file
        try:
            overlay = read_overlay(path, entry)
        except CorruptGallery as error:
            lines.append(str(error))
            continue
        wrong = wrong_cells(overlay)
        if wrong:
            lines.append(f"{file}: {wrong}")
        if not np.isin(overlay["item"].to_numpy(), items).all():
            lines.append(f"{file}: it speaks of items that are not there")
        lines += [
            f"{file}: column {column.name!r} is {type_text(column.type)}, in the manifest "
            f"{(manifest.columns or {}).get(column.name, 'missing')}"
            for column in overlay.schema
            if (manifest.columns or {}).get(column.name) != type_text(column.type)
        ]
    return lines


def _check_shard(shard: Shard, entry: ShardEntry, manifest: Manifest) -> list[str]:
    """A shard against the manifest and itself. Raises BadShard, BadItems, FormatTooNew."""
    folder, header = shard.folder, shard.header
    if header.rows != entry.rows:
        return [f"{folder}: shard.json says {header.rows} rows, the manifest {entry.rows}"]
    pairs: dict[str, tuple[Any, Any]] = {
        "dim": (header.dim, manifest.dim),
        "dtype": (header.dtype, manifest.dtype),
        "metric": (header.metric, manifest.metric),
        "fingerprint": (header.fingerprint, manifest.fingerprint),
        "matcher": (header.matcher, manifest.matcher),
    }
    lines = [
        f"{folder}: shard.json has another {name} than the manifest"
        for name, (mine, its) in pairs.items()
        if mine != its
    ]
    for name, array in shard.arrays.items():
        kind = stored_type(name, header.dtype)
        if array.dtype != kind:
            lines.append(f"{folder}: vectors.h5 holds {name} as {array.dtype}, not {kind}")
    return lines + _check_items(shard, entry, manifest) + _check_vectors(shard)


def _check_vectors(shard: Shard) -> list[str]:
    """The numbers in vectors.h5: finite, 0 and 1 in `visible`, as long as the header says."""
    folder, header = shard.folder, shard.header
    for name in shard.arrays.keys() - {"global"}:
        for piece in shard.pieces(name):
            if not np.isfinite(piece).all():
                return [f"{folder}: vectors.h5 holds NaN or Inf in {name}"]
            if name == "visible" and not np.isin(piece, (0, 1)).all():
                return [f"{folder}: vectors.h5 holds something else than 0 and 1 in visible"]
    longest, farthest = 0.0, 0.0
    for piece in shard.pieces("global"):
        rows = piece.astype(np.float64)
        squared = np.einsum("nd,nd->n", rows, rows)
        if not np.isfinite(squared).all():
            return [f"{folder}: vectors.h5 holds NaN or Inf"]
        lengths = np.sqrt(squared)
        longest = max(longest, float(lengths.max(initial=0)))
        farthest = max(farthest, float(np.abs(lengths - 1).max(initial=0)))
    lines = []
    if abs(longest - header.max_norm) > 1e-6 * longest:
        lines.append(
            f"{folder}: shard.json says that the longest vector has length {header.max_norm}, "
            f"it has {longest}"
        )
    if header.normalised and farthest > _LENGTH_OFF[header.dtype]:
        lines.append(f"{folder}: shard.json says that all vectors have length 1, and one has not")
    return lines


def _check_items(shard: Shard, entry: ShardEntry, manifest: Manifest) -> list[str]:
    """The items' columns and ids against what the manifest says of them."""
    lines = []
    listed = manifest.columns
    for column in shard.items.schema:
        kind = type_text(column.type)
        if listed is not None and listed.get(column.name) != kind:
            lines.append(
                f"{shard.folder}: column {column.name!r} is {kind}, in the manifest "
                f"{listed.get(column.name, 'missing')}"
            )
    ids = shard.items["item"].to_numpy()
    first = entry.first_item
    if first is not None and not np.array_equal(ids, np.arange(first, first + entry.rows)):
        lines.append(f"{shard.folder}: its item ids are not those from {first} on")
    return lines


def _check_attached(path: Path, manifest: Manifest, entry: AttachedEntry) -> list[str]:
    """What an attachment holds against the rows that it was made from."""
    folder = path / entry.folder
    shards = {shard.folder: shard for shard in manifest.shards}
    missing = [name for name in entry.covers if name not in shards]
    if missing:
        return [f"{folder}: made from {missing[0]}, which is not there{made_again(entry.kind)}"]
    stored = sum(shards[name].rows for name in entry.covers)
    gone = sum(shards[name].gone for name in entry.covers)
    if entry.deleted > gone:
        return [
            f"{folder}: made when {entry.deleted} rows were deleted, and {gone} are"
            f"{made_again(entry.kind)}"
        ]
    checks = {"graph": _check_graph, "index": _check_index, "calibration": _check_calibration}
    # Whatever else is kept under that kind, its bytes are right.
    if entry.kind not in checks or f"{entry.kind}.json" not in entry.files:
        return []
    try:
        checks[entry.kind](path, manifest, entry, stored)
    except CorruptGallery as error:
        return [str(error)]
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        return [f"{folder}: cannot be read ({error}){made_again(entry.kind)}"]
    return []


def _check_graph(path: Path, _manifest: Manifest, entry: AttachedEntry, stored: int) -> None:
    from ..reranking.graph import read_graph

    read_graph(path / entry.folder, rows=stored - entry.deleted)


def _check_index(path: Path, manifest: Manifest, entry: AttachedEntry, stored: int) -> None:
    from ..search.index import IndexFacts, open_index
    from ..search.index_tuning import Rows

    folder = path / entry.folder
    facts = IndexFacts.from_json(json.loads((folder / "index.json").read_bytes()))
    if facts.rows != stored:
        raise ValueError(f"it is one of {facts.rows} rows, its shards have {stored}")
    shards = [one for one in manifest.shards if one.folder in entry.covers]
    vectors = [shard_at(path, one).vectors for one in shards]
    try:
        open_index(
            folder, rows=stored, dim=manifest.dim, metric=manifest.metric, take=Rows(vectors).take
        )
    except MissingExtra:
        return


def _check_calibration(path: Path, manifest: Manifest, entry: AttachedEntry, stored: int) -> None:
    from ..evaluation.calibration import Calibration

    said = json.loads((path / entry.folder / "calibration.json").read_bytes())
    made = Calibration.from_json(said)
    for name in ("positives", "negatives"):
        if getattr(made, name) != said[name]:
            raise ValueError(f"its bins count {getattr(made, name)} {name}, it says {said[name]}")
    if made.histograms.metric is not manifest.metric:
        raise ValueError(f"it is of {made.histograms.metric}, the gallery of {manifest.metric}")
    if made.items != stored - entry.deleted:
        raise ValueError(f"it says {made.items} items, there were {stored - entry.deleted}")
    if not made.rows <= made.usable <= made.items or made.generation > manifest.generation:
        raise ValueError(
            f"it is of {made.rows} of {made.usable} usable of {made.items} items, generation "
            f"{made.generation}"
        )


def unlisted_files(gallery: Gallery) -> list[str]:
    """What lies in the gallery's folder beside the files of its generation and of its history, one
    line each: what an interrupted write has left, what earlier generations' readers may still
    need, with its damage, and what is unknown. Whatever it is, the gallery is whole without it.
    """
    path, manifest = gallery.path, gallery.manifest
    linked = {file for file, _ in earlier_manifests(path, manifest)}
    listed = {path / name for name in ("CURRENT", "lock", manifest.file_name)} | linked
    listed |= {file for file, _ in listed_files(path, manifest)}
    around = {parent for file in listed for parent in (file.parent, file.parent.parent)}
    around |= {path / name for name in KEPT_IN}
    entries = list(_unlisted(path, listed, around))
    if not entries:
        return []
    needed = _needed_before(path, manifest, linked)
    generations = {number for one in needed.values() for number in one.generations}
    held = {number for number in generations if is_held(path / manifest_name(number))}
    last = read_current(path).generation
    return [
        line
        for entry in entries
        for line in _note(entry, manifest, last=last, needed=needed.get(entry), held=held)
    ]


@dataclass(frozen=True)
class _Needed:
    """Which earlier generations need a file or folder, latest first, and what files they expect
    in it."""

    generations: list[int] = field(default_factory=list)
    files: dict[Path, FileEntry] = field(default_factory=dict)


def _unlisted(folder: Path, listed: set[Path], around: set[Path]) -> Iterator[Path]:
    """The topmost files and folders without anything listed in them, by name. around: folders of
    what is listed."""
    for entry in sorted(folder.iterdir()):
        if entry in around and entry.is_dir():
            yield from _unlisted(entry, listed, around)
        elif entry not in listed:
            yield entry


def _needed_before(path: Path, manifest: Manifest, linked: set[Path]) -> dict[Path, _Needed]:
    """What earlier generations need: manifests, shards, overlays, attachments, deletions. linked:
    the manifests before this one."""
    found: dict[Path, _Needed] = {}
    for earlier in (*earlier_generations(path, manifest), *_unlinked(path, manifest, linked)):
        parts = {path / earlier.file_name}
        every: tuple[Listed, ...] = (*earlier.shards, *earlier.overlays, *earlier.attached)
        for listed in every:
            for file, entry in files_of(path, listed):
                folder = None if isinstance(listed, OverlayEntry) else path / listed.folder
                part = folder if folder is not None and file.parent == folder else file
                parts.add(part)
                found.setdefault(part, _Needed()).files[file] = entry
        for part in parts:
            found.setdefault(part, _Needed()).generations.append(earlier.generation)
    return found


def _unlinked(path: Path, manifest: Manifest, linked: set[Path]) -> Iterator[Manifest]:
    """Generations that only readers keep, as the history has been compacted since, latest first."""
    for file in sorted(path.glob("manifest-*.json"), reverse=True):
        number = _number(file)
        if file not in linked and number is not None and number < manifest.generation:
            try:
                yield read_earlier(file)
            except CorruptGallery:
                continue


def _note(
    entry: Path, manifest: Manifest, *, last: int, needed: _Needed | None, held: set[int]
) -> Iterator[str]:
    """last: the generation that is the present one by now."""
    number = _number(entry)
    is_temporary = entry.name.startswith(".") and entry.name.endswith(".tmp")
    if is_temporary or (number is not None and number > last):
        yield f"{entry}: left over from an interrupted write; the next write removes it"
    elif number is not None and number > manifest.generation:
        yield f"{entry}: of a later generation, which others have committed meanwhile"
    elif needed is None and not entry.exists():
        return  # a writer has removed it meanwhile
    elif needed is None:
        yield f"{entry}: not a file of this gallery; nothing reads it"
    else:
        readers = [number for number in needed.generations if number in held]
        if readers:
            yield f"{entry}: kept for a reader of generation {readers[0]}"
        else:
            yield f"{entry}: of generation {needed.generations[0]}; a later write removes it"
        for file, size_and_sum in needed.files.items():
            damage = _check_file(file, size_and_sum)
            if damage:
                yield f"{damage}; the present generation does not need it"


def _number(path: Path) -> int | None:
    """The generation that wrote a file or folder, by its name."""
    found = re.match(r"(?:manifest-)?([0-9]+)", path.name)
    return None if found is None else int(found[1])
