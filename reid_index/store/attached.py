"""What is made from a gallery's rows and kept with them: neighbour graph, calibration, index."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..errors import CorruptGallery, UsageError
from ..files import sha256_file, write_folder
from .commit import describe, earlier_generations, files_of, wrong_size
from .manifest import AttachedEntry, Event, FileEntry, Manifest, Owed, is_plain
from .writer import Writer

ATTACHABLE = {"graph": "reid graph", "calibration": "reid calibrate", "index": "reid index"}
"""The kinds of attachments, and the command that makes each."""


def attach(
    writer: Writer,
    kind: str,
    write: Callable[[Path], None],
    *,
    generation: int,
    about: Mapping[str, Any],
) -> None:
    """Commit a generation with the folder that `write` fills; see `Gallery.attach`."""
    check_kind(kind)
    present = writer.present
    made_from = _generation(writer, generation)
    name = f"attached/{writer.generation:06d}-{kind}"
    with writer.making(name) as folder:
        write_folder(folder, write)
        entry = AttachedEntry(
            kind=kind,
            folder=name,
            covers=made_from.folders,
            deleted=made_from.deleted,
            files=_describe(folder),
            about=about,
        )
        others = tuple(other for other in present.attached if other.kind != kind)
        owed = _others_owed(present, kind)
        writer.commit(Event(what="attach", kind=kind), attached=(*others, entry), owed=owed)


def detach(writer: Writer, kind: str) -> None:
    """Commit a generation without the attachment of that kind, which is not owed any longer."""
    others = tuple(other for other in writer.present.attached if other.kind != kind)
    owed = _others_owed(writer.present, kind)
    writer.commit(Event(what="detach", kind=kind), attached=others, owed=owed)


def _others_owed(present: Manifest, kind: str) -> tuple[Owed, ...]:
    return tuple(owed for owed in present.owed if owed.kind != kind)


def _generation(writer: Writer, generation: int) -> Manifest:
    """A generation up to the present one. Raises UsageError where history does not go back to it:
    what was made from rows that have been removed for good is not to be kept."""
    if writer.present.generation == generation:
        return writer.present
    for earlier in earlier_generations(writer.gallery, writer.present):
        if earlier.generation == generation:
            return earlier
    raise UsageError(
        f"{writer.gallery}: generation {generation} is gone, it is at {writer.present.generation}; "
        "what was made from it is not kept: make it again"
    )


def _describe(folder: Path) -> dict[str, FileEntry]:
    names = sorted(path.name for path in folder.iterdir())
    for name in names:
        if not is_plain(name):
            raise UsageError(f"an attached file cannot be called {name!r}; give it a plain name")
    return describe(folder, names)


def attached_folder(gallery: Path, entry: AttachedEntry) -> Path:
    """The folder of an attachment that is to be used, every byte of it checked: compiled code goes
    by what is in it. Raises CorruptGallery."""
    wrong = wrong_size(gallery, entry) or _wrong_bytes(gallery, entry)
    if wrong:
        raise CorruptGallery(f"{wrong}{made_again(entry.kind)}")
    return gallery / entry.folder


def _wrong_bytes(gallery: Path, entry: AttachedEntry) -> str | None:
    for path, listed in files_of(gallery, entry):
        if sha256_file(path) != listed.sha256:
            return f"{path}: its bytes have changed since it was written"
    return None


def made_again(kind: str) -> str:
    """The end of a message about a damaged attachment: the command that makes it again."""
    return f"; `{ATTACHABLE[kind]}` makes it again" if kind in ATTACHABLE else ""


def check_kind(kind: str) -> None:
    """Raise UsageError unless a gallery can have an attachment of that kind."""
    if kind not in ATTACHABLE:
        raise UsageError(f"there is no attachment {kind!r}; there are {', '.join(ATTACHABLE)}")
