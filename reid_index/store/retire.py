"""Removing what no generation needs any more: leftovers of crashes, and former generations."""

import re
from pathlib import Path

from .. import files
from .commit import earlier_manifests, lost_before, read_earlier
from .lease import Held, holders, is_held
from .manifest import CLEARED, Manifest

KEPT_IN = ("shards", "attached", "deleted", "overlays")
"""The folders whose entries are named by the generation that wrote them, and listed by manifests.
"""

_MANIFEST = re.compile(r"manifest-([0-9]+)\.json")

_RETIRING = ("compact", "rebuild", "attach", "detach")
"""Events after which former generations list files that the present one does not."""


def sweep(gallery: Path, present: Manifest) -> None:
    """Remove what a writer that crashed has left: temporary files, and what was written for a
    generation that was never committed; or, where it had committed, what it had yet to remove."""
    for path in _entries(gallery):
        is_temporary = path.name.startswith(".") and path.name.endswith(".tmp")
        if is_temporary or (_generation_of(path) or 0) > present.generation:
            files.remove(path)
    event = present.event
    if event.what in _RETIRING or (event.what == "attributes" and event.kind == CLEARED):
        retire(gallery, present)


def retire(gallery: Path, present: Manifest) -> tuple[Held, ...]:
    """Remove what only former generations list, and their manifests where history does not need
    them. What live readers hold stays, and they are named; oldest first.

    The caller holds the writer lock.
    """
    files.sync_folder(gallery)  # a power cut may not undo the commit, and keep what follows
    held = []
    needed = _needed(gallery, present)
    manifests = _manifests(gallery)
    for path in manifests:
        if path.name != present.file_name and is_held(path):
            held.append(Held(int(path.stem.partition("-")[2]), holders(path)))
            needed |= _needed(gallery, read_earlier(path))
    entries = [path for path in _entries(gallery) if path.parent != gallery]
    for path in (*manifests, *entries):
        if path not in needed:
            files.remove(path)
    return tuple(held)


def _needed(gallery: Path, manifest: Manifest) -> set[Path]:
    """What a generation lists of the folders (shards, attachments, bitmaps, overlays), its
    manifest, and those that its history is told by: all earlier ones, where one of them is
    damaged."""
    told = {path for path, _ in earlier_manifests(gallery, manifest)}
    if lost_before(gallery, manifest) is not None:
        told |= set(_manifests(gallery))
    deleted = [shard.deleted.file for shard in manifest.shards if shard.deleted is not None]
    attached = [entry.folder for entry in manifest.attached]
    overlays = [overlay.file for overlay in manifest.overlays]
    names = (manifest.file_name, *manifest.folders, *attached, *deleted, *overlays)
    return told | {gallery / name for name in names}


def _entries(gallery: Path) -> list[Path]:
    """What the gallery holds, and its folders."""
    found = list(gallery.iterdir())
    for name in KEPT_IN:
        if (gallery / name).is_dir():
            found += (gallery / name).iterdir()
    return found


def _manifests(gallery: Path) -> list[Path]:
    return sorted(path for path in gallery.iterdir() if _MANIFEST.fullmatch(path.name))


def _generation_of(path: Path) -> int | None:
    """The generation that wrote a file or folder; None where its name does not tell."""
    if path.parent.name in KEPT_IN:
        number = re.match(r"[0-9]+", path.name)
        return None if number is None else int(number[0])
    manifest = _MANIFEST.fullmatch(path.name)
    return None if manifest is None else int(manifest[1])
