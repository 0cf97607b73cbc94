"""What is made from a gallery's rows and kept with them: neighbour graph, calibration, index."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .errors import CorruptGallery, UsageError
from .files import remove_all_but, write_folder
from .manifest import (
    AttachedEntry,
    Manifest,
    commit,
    describe_attached,
    read_current,
    shards_at,
    writer_lock,
    wrong_size,
)

ATTACHABLE = {"graph": "reid graph", "calibration": "reid calibrate", "index": "reid index"}
"""The kinds of attachments, and the command that makes each."""


def attach(
    gallery: Path,
    kind: str,
    write: Callable[[Path], None],
    *,
    generation: int,
    about: Mapping[str, Any],
) -> Manifest:
    """Commit a generation with the folder that `write` fills; see `Gallery.attach`."""
    check_kind(kind)
    with writer_lock(gallery):
        manifest = read_current(gallery, writing=True)
        covers = shards_at(gallery, generation)
        sweep(gallery, manifest)
        name = f"attached/{manifest.generation + 1:06d}-{kind}"
        try:
            write_folder(gallery / name, write)
            entry = describe_attached(gallery, name, kind=kind, covers=covers, about=about)
        except BaseException:
            shutil.rmtree(gallery / name, ignore_errors=True)
            raise
        # The former folder stays until the next commit: an older generation may be open.
        others = [other for other in manifest.attached if other.kind != kind]
        manifest = replace(
            manifest,
            generation=manifest.generation + 1,
            created=datetime.now(UTC),
            attached=(*others, entry),
        )
        return commit(gallery, manifest)


def detach(gallery: Path, kind: str) -> Manifest:
    """Commit a generation without the attachment of that kind, if there is one; the present
    generation. Its folder stays until the next commit, as in `attach`."""
    with writer_lock(gallery):
        manifest = read_current(gallery, writing=True)
        others = tuple(other for other in manifest.attached if other.kind != kind)
        if others == manifest.attached:
            return manifest
        sweep(gallery, manifest)
        manifest = replace(
            manifest,
            generation=manifest.generation + 1,
            created=datetime.now(UTC),
            attached=others,
        )
        return commit(gallery, manifest)


def attached_folder(gallery: Path, entry: AttachedEntry) -> Path | None:
    """The folder of an attachment that is to be used; None where it is gone, as a later generation
    that has replaced it may have removed it. Raises CorruptGallery where a file in it is gone or
    of another size."""
    folder = gallery / entry.folder
    if not folder.is_dir():
        return None
    wrong = wrong_size(gallery, entry)
    if wrong:
        raise CorruptGallery(f"{wrong}{made_again(entry.kind)}")
    return folder


def made_again(kind: str) -> str:
    """The end of a message about a damaged attachment: the command that makes it again."""
    return f"; `{ATTACHABLE[kind]}` makes it again" if kind in ATTACHABLE else ""


def check_kind(kind: str) -> None:
    """Raise UsageError unless a gallery can have an attachment of that kind."""
    if kind not in ATTACHABLE:
        raise UsageError(f"there is no attachment {kind!r}; there are {', '.join(ATTACHABLE)}")


def sweep(path: Path, manifest: Manifest) -> None:
    """Remove shards and attachments that no manifest or only a former one lists."""
    for name, listed in (("shards", manifest.shards), ("attached", manifest.attached)):
        if (path / name).exists():
            remove_all_but(path / name, {Path(entry.folder).name for entry in listed})
