"""`reid add`: more pictures, vectors or shards to a gallery that is there."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .extractor_options import attributes_option
from .graph import tell_stale
from .paths import PATH
from .sources import (
    NOTE,
    cut_frames,
    drop_parts,
    extract,
    extraction_options,
    find_people,
    find_source,
    gallery_cut,
    gallery_extractor,
    kind_of,
    read_vector_file,
    refuse_needless,
    refuse_nothing,
    source_options,
    staging,
    tell_left_out,
    told_unchanged,
)

if TYPE_CHECKING:
    from extractors.pictures import Person, Picture, Source
    from reid_index import Gallery
    from reid_index.erasure.receipt import Receipt

    from .sources import Kind

IN_GALLERY = "in the gallery already"

_Reason = Callable[["Picture", "Person"], str | None]
"""Why a person in a picture is left out; None where not."""


@click.command(name="add", short_help="Add pictures, vectors or shards to GALLERY.")
@click.argument("gallery", type=PATH)
@click.argument("sources", nargs=-1, required=True, type=PATH)
@click.option(
    "--weights",
    type=PATH,
    help="Where the model file is now.",
)
@attributes_option("Where the model is now that predicts the gallery's attributes.")
@source_options
@click.option("--again", is_flag=True, help="Add pictures that are in the gallery once more.")
@click.option(
    "--except-erased",
    multiple=True,
    type=PATH,
    metavar="RECEIPT",
    help="Leave out crops that a receipt of reid delete lists. Can be given again.",
)
@extraction_options
def command(
    gallery: Path,
    sources: tuple[Path, ...],
    weights: Path | None,
    attributes: Path | None,
    layout: str,
    keep_junk: bool,
    boxes: Path | None,
    tracks: Path | None,
    whole: bool,
    videos: Path | None,
    items: Path | None,
    again: bool,
    except_erased: tuple[Path, ...],
    device: str,
    **pace: Any,
) -> None:
    """Add SOURCES to GALLERY: all of them or, when it fails, none.

    SOURCES are what `reid build` takes. Pictures are embedded by the gallery's own extractor; those
    that are in the gallery already are left out, so that the same command, run every night, adds
    what is new. It goes on where it stopped when it was interrupted and is run again.
    """
    of_videos: dict[str, Any] = {"tracks": tracks, "whole": whole, "videos": videos}
    kind = kind_of(sources, command="add", of_videos=any(of_videos.values()))
    of_pictures: dict[str, Any] = {"layout": layout, "boxes": boxes, "keep_junk": keep_junk}
    given = {**of_pictures, "layout": layout if layout != "auto" else None}
    if kind in ("pictures", "videos"):
        refuse_needless(f"adding {kind}", items=items, **(given if kind == "videos" else of_videos))
        _add_pictures(
            gallery,
            sources,
            kind=kind,
            look=of_videos if kind == "videos" else of_pictures,
            weights=weights,
            attributes=attributes,
            device=device,
            again=again,
            receipts=except_erased,
            **pace,
        )
        return
    refuse_needless(
        f"adding {kind}",
        weights=weights,
        attributes=attributes,
        **given,
        **of_videos,
        again=again,
        except_erased=except_erased or None,
        strict=pace["strict"],
    )
    if kind == "shards":
        refuse_needless("adding shards", items=items)
        _add_shards(gallery, sources)
    else:
        _add_vectors(gallery, sources[0], items)


def _add_shards(path: Path, shards: Sequence[Path]) -> None:
    from reid_index.store.shard import FILES

    files = [shard / name for shard in shards for name in FILES]
    _commit(path, _digest_of_files(files), lambda gallery, key: gallery.add_shards(shards, key=key))


def _add_vectors(path: Path, file: Path, items: Path | None) -> None:
    from reid_index import Gallery
    from reid_index.errors import DimensionMismatch, ExtractorMismatch

    with Gallery.open(path) as gallery:
        name, dim = gallery.fingerprint.name, gallery.dim
    if not name.startswith("external:"):
        raise ExtractorMismatch(
            f"{path} has vectors of the extractor {name}, and {file} does not say what made its "
            "own: add pictures, or shards, which say it"
        )
    made = read_vector_file(file, items)
    if made.array.shape[1] != dim:
        raise DimensionMismatch(
            f"{file}: its vectors have {made.array.shape[1]} dimensions, those of {path} {dim}"
        )
    _commit(
        path,
        _digest_of_files([file] if items is None else [file, items]),
        lambda gallery, key: gallery.add(made.array, made.items, root=made.root, key=key),
    )


def _add_pictures(
    path: Path,
    paths: Sequence[Path],
    *,
    kind: "Kind",
    look: dict[str, Any],
    weights: Path | None,
    attributes: Path | None,
    device: str,
    again: bool,
    receipts: Sequence[Path],
    **pace: Any,
) -> None:
    """look: what `find_source` is to know of pictures, `find_people` of videos."""
    from reid_index import Gallery
    from reid_index.erasure.receipt import read_receipt
    from reid_index.errors import UsageError

    with Gallery.open(path) as gallery:
        if gallery.fingerprint.name.startswith("external:"):
            raise UsageError(
                f"{path}: its vectors were made elsewhere, so no pictures can be embedded like "
                "them; add vectors, or shards, of the same extractor"
            )
        cut = gallery_cut(gallery)
        if kind == "videos" and cut is None:
            raise UsageError(
                f"{path} is a gallery of crops, and videos are cut into segments: build a gallery "
                "of them"
            )
        extractor = gallery_extractor(
            gallery, weights=weights, device=device, attributes=attributes
        )
        metric, dtype = gallery.metric, gallery.manifest.dtype
    read = [read_receipt(receipt) for receipt in receipts]
    found = (find_people if kind == "videos" else find_source)(paths, **look)
    # Without --again, what was added is left out as known, whoever asks.
    state = _digest_of_pictures(found) if again else None
    with _run(path, state) as run:
        if run is None:
            return
        known = None if again else _Known.of(path, segments=cut is not None)
        source = found
        if kind == "videos" and known is not None:
            # Before a video is decoded, which takes long.
            source = find_people(paths, **look, known=known.has_box)
            known = None
        if known is not None or read:
            source = _without(source, _reasons(found, known=known, receipts=read))
        tell_left_out(source)
        # No generation is held meanwhile: this may take hours, and a compaction would have to wait.
        taken = extract(
            source,
            extractor,
            run.staging,
            metric=metric,
            dtype=dtype,
            of_frames=cut is not None,
            **pace,
        )
        if source.count == found.count:
            refuse_nothing(source, taken, kind=kind)
        parts = taken.parts
        if parts and cut is not None:
            parts = cut_frames(taken, extractor, run.staging, cut=cut, metric=metric, dtype=dtype)
        if parts:
            _add(path, run, lambda gallery, key: gallery.add_shards(parts, key=key))
        else:
            click.echo(f"{path}: there is nothing new to add", err=True)
        drop_parts(run.staging)


def _commit(path: Path, state: str, add: "Callable[[Gallery, str], object]") -> None:
    """Add what needs no extraction; add gets the gallery and the run's key."""
    from reid_index import Gallery

    Gallery.open(path).close()  # before anything is written beside what is no gallery
    with _run(path, state) as run:
        if run is not None:
            _add(path, run, add)


def _add(path: Path, run: "_Run", add: "Callable[[Gallery, str], object]") -> None:
    from reid_index import Gallery

    from .formats import counted

    with Gallery.open(path) as gallery:
        with told_unchanged(path):
            added = gallery.manifest.event.rows if add(gallery, run.key) else 0
        click.echo(f"{path}: {counted(added, 'item')} added, {len(gallery):,} in all", err=True)
        tell_stale(gallery)


# What was added is not added again


@dataclass(frozen=True)
class _Run:
    """staging: the folder for its parts. key: what the gallery knows this addition by."""

    staging: Path
    key: str


@contextmanager
def _run(path: Path, state: str | None) -> Iterator[_Run | None]:
    """A staging folder and a key for this addition; None where it is known to be done.

    A run can be killed after its commit and before it has cleared up. So its key is on the disk
    before it begins; the next run looks whether the gallery has it, and tells by `state`, which
    says what is added, whether that was the same addition; None is like no other.
    """
    from uuid import uuid4

    from reid_index import files
    from reid_index.errors import ReidIndexError

    with staging(path, "adding") as folder:
        note = folder / NOTE
        earlier = _read_note(note)
        if earlier is not None and _added_to(path, earlier["key"]):
            drop_parts(folder)
            files.remove(note)
            line = f"{path}: the items of an earlier run are in it, which was cut short then"
            is_same = state is not None and earlier["state"] == state
            click.echo(f"{line}; nothing is added twice" if is_same else line, err=True)
            if is_same:
                yield None
                return
        run = _Run(staging=folder, key=uuid4().hex)
        files.write_json(note, {"key": run.key, "state": state})
        try:
            yield run
        except BaseException:
            # A commit can fail and still take effect, so the key stays unless it surely has not.
            with suppress(ReidIndexError, OSError):
                if not _added_to(path, run.key):
                    files.remove(note)
            raise
        files.remove(note)


def _read_note(path: Path) -> dict[str, Any] | None:
    from reid_index.errors import UsageError

    if not path.exists():
        return None
    try:
        note = json.loads(path.read_bytes())
        return {"key": str(note["key"]), "state": note["state"]}
    except (ValueError, KeyError, TypeError):
        raise UsageError(
            f"{path} cannot be read: see by `reid inspect --history` whether the last addition is "
            f"there, then delete {path.parent}"
        ) from None


def _added_to(path: Path, key: str) -> bool:
    from reid_index import Gallery

    with Gallery.open(path) as gallery:
        return gallery.has_added(key)


def _digest_of_files(paths: Sequence[Path]) -> str:
    stats = [(os.path.abspath(path), path.stat()) for path in paths if path.exists()]
    known = [(path, stat.st_size, stat.st_mtime_ns) for path, stat in stats]
    return hashlib.sha256(repr(known).encode(errors="surrogateescape")).hexdigest()


def _digest_of_pictures(source: "Source") -> str:
    from extractors.journal import identity

    digest = hashlib.sha256(str(source.root).encode())
    for picture in source.pictures():
        digest.update(identity(picture))
    return digest.hexdigest()


# What is left out


Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class _Known:
    """What is in a gallery and not deleted. Paths have all links of their root followed.

    pictures: path and box of every picture. tracks: path and track of every video's.
    frames: path, number and box of what videos have without a track.
    """

    pictures: set[tuple[str, tuple[float, ...] | None]]
    tracks: set[tuple[str, str]]
    frames: set[tuple[str, int | None, tuple[float, ...] | None]]

    @classmethod
    def of(cls, path: Path, *, segments: bool) -> "_Known":
        from extractors.frames import read_frame
        from reid_index.erasure.erasure import picture_path
        from reid_index.upkeep.rebuild import read_crops

        crops = read_crops(path, ("video", "track", "frames") if segments else ())
        roots = crops["root"].combine_chunks().dictionary.to_pylist()
        real = {root: os.path.realpath(root) for root in roots if root}
        known = cls(set(), set(), set())
        for batch in crops.to_batches(4096):
            for row in batch.to_pylist():
                if not row["root"] or not row["source"]:
                    continue
                place, box = picture_path(real[row["root"]], row["source"]), row["box"]
                of_video = row.get("video") is not None and row["video"] == row["source"]
                if of_video and row["track"] is not None:
                    known.tracks.add((place, row["track"]))
                    continue
                texts = row.get("frames")
                if not texts:
                    known.pictures.add((place, None if box is None else tuple(box)))
                for text in texts or ():
                    frame = read_frame(text, of_video=of_video)
                    if of_video:
                        known.frames.add((place, frame.number, stored_box(frame.box)))
                    else:
                        place = picture_path(real[row["root"]], frame.source or "")
                        known.pictures.add((place, stored_box(frame.box)))
        return known

    def has_box(self, file: Path, track: str | None, frame: int, box: Box | None) -> bool:
        """Whether a box of a video is."""
        # However one comes to a folder, its videos are the same.
        place = os.path.join(_real_folder(str(file.parent)), file.name)
        if track is not None:
            return (place, track) in self.tracks
        return (place, frame, stored_box(box)) in self.frames


@cache
def _real_folder(folder: str) -> str:
    return os.path.realpath(folder)


def _reasons(
    source: "Source",
    *,
    known: _Known | None,
    receipts: "Sequence[Receipt]",
) -> _Reason:
    """known: what is in the gallery, None where that does not matter."""
    from extractors.frames import Frame
    from reid_index.erasure.erasure import frame_value, picture_path
    from reid_index.erasure.receipt import is_erased

    # However one comes to a folder, its pictures are the same.
    root, real = str(source.root), os.path.realpath(source.root)

    def reason(picture: "Picture", person: "Person") -> str | None:
        box, path = stored_box(person.box), picture_path(real, picture.source)
        of_video = picture.frame is not None
        for one in {picture_path(root, picture.source), path} if receipts else ():
            if of_video:
                seconds = person.columns.get("start_s")
                shown = Frame(number=picture.frame, seconds=seconds, box=person.box)
                frame = frame_value(one, str(shown))
            else:
                frame = str(Frame(source=one, box=person.box))
            if is_erased(receipts, one, box=box, frame=frame):
                return "erased, as a receipt says"
        if known and (path, box) in known.pictures:
            return IN_GALLERY
        return None

    return reason


def stored_box(box: Box | None) -> tuple[float, ...] | None:
    """A box as the gallery has it, in single precision."""
    import numpy as np

    if box is None:
        return None
    with np.errstate(over="ignore"):
        return tuple(np.asarray(box, np.float32).tolist())


def _without(source: "Source", reason: _Reason) -> "Source":
    """The source without the people for whom there is a reason."""
    people = ((picture, person) for picture in source.pictures() for person in picture.people)
    found = (reason(picture, person) for picture, person in people)
    left_out = Counter(why for why in found if why is not None)

    def pictures() -> "Iterator[Picture]":
        for picture in source.pictures():
            kept = tuple(person for person in picture.people if reason(picture, person) is None)
            if kept:
                yield replace(picture, people=kept)

    return replace(
        source,
        count=source.count - left_out.total(),
        left_out={**source.left_out, **left_out},
        pictures=pictures,
    )
