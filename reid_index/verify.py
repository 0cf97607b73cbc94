"""Reading every byte of a gallery to say whether it is whole."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from .attached import made_again
from .errors import ReidIndexError
from .files import sha256_file
from .gallery import Gallery
from .manifest import FileEntry, earlier_manifests, listed_files
from .shard import open_shard


def verify_gallery(
    gallery: Gallery, *, progress: Callable[[int], object] = lambda _bytes: None
) -> list[str]:
    """What is wrong with a gallery, one line each; empty when nothing is.

    Checks every byte of every file against its sha256, that vectors, items and headers have the
    same number of rows, that all vectors are finite, and that no item id is given twice. What can
    be made again is said with the command that does. The manifest was checked by opening it.
    progress is told of bytes as they are read.
    """
    remedies = {
        gallery.path / one.folder: made_again(one.kind) for one in gallery.manifest.attached
    }
    problems = []
    for path, entry in all_files(gallery):
        problem = _check_file(path, entry)
        if problem:
            problems.append(problem + remedies.get(path.parent, ""))
        progress(entry.size)
    if problems:
        return problems
    for shard in gallery.manifest.shards:
        problems += _check_shard(gallery.path / shard.folder, shard.rows)
    if not problems:
        ids = gallery.items["item"].to_numpy()
        if len(np.unique(ids)) != len(ids):
            problems.append(f"{gallery.path}: an item id is given twice")
        if len(ids) and ids.max() >= gallery.manifest.next_item:
            problems.append(f"{gallery.path}: an item id is beyond the next one to be given")
    return problems


def all_files(gallery: Gallery) -> Iterator[tuple[Path, FileEntry]]:
    """Every file that `verify_gallery` reads, with what it should be."""
    yield from listed_files(gallery.path, gallery.manifest)
    yield from earlier_manifests(gallery.path, gallery.manifest)


def _check_file(path: Path, entry: FileEntry) -> str | None:
    try:
        if path.stat().st_size != entry.size:
            return f"{path}: {path.stat().st_size} bytes, the manifest says {entry.size}"
        if sha256_file(path) != entry.sha256:
            return f"{path}: its bytes have changed since it was written (sha256 differs)"
    except OSError as error:
        return f"{path}: cannot be read: {error.strerror}"
    return None


def _check_shard(folder: Path, rows: int) -> list[str]:
    try:
        shard = open_shard(folder)
        counts = {shard.header.rows, len(shard.vectors), shard.items.num_rows, rows}
        if len(counts) > 1:
            return [f"{folder}: manifest, shard.json, vectors and items have {sorted(counts)} rows"]
        if not all(np.isfinite(piece).all() for piece in shard.pieces("global")):
            return [f"{folder}: vectors.h5 holds NaN or Inf"]
    except ReidIndexError as error:
        return [str(error)]
    return []
