"""`reid rebuild`: the items of a gallery, embedded by another model."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .compact import held, removed
from .extractor_options import (
    make_preprocess,
    make_weighting,
    preprocess_options,
    weighting_option,
)
from .paths import PATH
from .progress import progress_bar
from .sources import (
    NOTE,
    SEGMENTS,
    extract,
    extraction_options,
    refuse_unstorable,
    staging,
    told_unchanged,
)

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from extractors.extractor import Extractor
    from extractors.pictures import Source
    from extractors.resegmenting import Listed
    from reid_index.store.lease import Held
    from reid_index.store.manifest import Manifest
    from reid_index.upkeep.rebuild import Rebuilt

_PARTS = "parts"
"""In the staging folder: a folder for each run of the extractor, by number."""

_NAMED = 3
"""Items without a picture that an error names; the others are counted."""

_PATIENCE = 60.0
_PAUSE = 0.5
"""Seconds to wait for another writer to finish, and between tries: hours may have gone before."""


@click.command(name="rebuild", short_help="Embed the pictures of GALLERY by another model.")
@click.argument("gallery", type=PATH)
@click.option("--extractor", required=True, metavar="NAME", help="See `reid extractors`.")
@click.option("--weights", type=PATH, help="The extractor's model file.")
@preprocess_options
@weighting_option
@click.option("--root", type=PATH, help="Where the pictures are now.")
@click.option(
    "--metric",
    type=click.Choice(["cosine", "inner_product", "euclidean"]),
    default=None,
    help="[default: as it is]",
)
@click.option(
    "--dtype", type=click.Choice(["float32", "float16"]), default=None, help="[default: as it is]"
)
@click.option("--drop-missing", is_flag=True, help="Leave out items without a readable picture.")
@click.option(
    "--no-remake", is_flag=True, help="Do not make the graph, index and calibration again."
)
@extraction_options
@click.pass_context
def command(
    ctx: click.Context,
    /,
    gallery: Path,
    extractor: str,
    weights: Path | None,
    weighting: str | None,
    root: Path | None,
    metric: str | None,
    dtype: str | None,
    drop_missing: bool,
    no_remake: bool,
    device: str,
    batch_size: int,
    workers: int | None,
    strict: bool,
    **preprocess: Any,
) -> None:
    """Embed every item of GALLERY again, from its picture or frames, by another model.

    Ids and all that is known of the items stay. The gallery can be searched, added to and deleted
    from meanwhile; then all changes at once. What was interrupted goes on when it is run again.
    """
    from extractors import open_extractor, recipe
    from extractors.rebuilding import moved_roots
    from reid_index import Metric
    from reid_index.errors import UsageError
    from reid_index.store.commit import read_current
    from reid_index.store.shard import check_matcher
    from reid_index.upkeep.rebuild import read_crops, retire_former

    if strict and drop_missing:
        raise UsageError("--strict and --drop-missing clash: give one of the two")
    refuse_unstorable(*([] if weights is None else [weights]))
    present = read_current(gallery, writing=True)
    fed = make_preprocess(**preprocess)
    weighed = make_weighting(weighting)
    opened = open_extractor(
        extractor, weights=weights, preprocess=fed, device=device, weighting=weighed
    )
    job: dict[str, Any] = {
        "fingerprint": opened.fingerprint.to_json(),
        "metric": metric or str(present.metric),
        "dtype": dtype or present.dtype,
    }
    cut = _cut_of(present, opened)
    made = opened if cut is None else opened.segments
    check_matcher(made.matcher, Metric(job["metric"]))
    said = recipe(
        extractor,
        weights=weights,
        preprocess=fed,
        weighting=weighed,
        # What items are said to be stays as it is, so what comes later is to be like it.
        attributes=present.recipe.get("attributes"),
    )
    if cut is not None:
        said["segments"] = cut
    roots = {} if root is None else moved_roots(read_crops(gallery), root)
    with staging(gallery, "rebuilding") as folder:
        if not _begin(gallery, folder, job):
            if all(old == new for old, new in roots.items()):
                _tell_pending(ctx, retire_former(gallery))
                return
            done = _move(gallery, roots, remake=not no_remake)
            _tell(gallery, done)
            _tell_pending(ctx, done.pending)
            return
        run = _Run(
            gallery=gallery,
            folder=folder,
            job=job,
            roots=roots,
            drop_missing=drop_missing,
            of_segments=cut is not None,
            commit={"recipe": said, "remake": not no_remake},
        )
        pace = {"batch_size": batch_size, "workers": workers, "strict": strict}
        try:
            done = run.rebuild(opened, pace)
            told = _told(_parts(folder))
            _clear(folder)
        finally:
            if not _parts(folder):
                _clear(folder)
    _tell(gallery, done)
    if told:
        click.echo(
            f"{gallery}: what is known of its items stays as it was; what the model tells of them, "
            f"{', '.join(told)}, is added by `reid attributes {gallery} --from {weights}`",
            err=True,
        )
    _tell_pending(ctx, done.pending)


def _told(parts: Sequence[Path]) -> list[str]:
    """The attributes that the extractor of these shards tells."""
    from reid_index.attributes import names_in
    from reid_index.store.shard import open_shard

    columns = (name for part in parts for name in open_shard(part).columns.names)
    return list(dict.fromkeys(names_in(columns)))


def _cut_of(manifest: "Manifest", extractor: "Extractor") -> dict[str, int] | None:
    """What the recipe says of segments; None where the gallery is of crops and stays so. Crops
    become segments of one frame where the extractor makes segments of all."""
    from extractors.segmenting import Cut

    if "segments" in manifest.recipe:
        said: dict[str, int] = manifest.recipe["segments"]
        return said
    return None if extractor.segments.matcher is None else Cut().to_json()


# The folder beside the gallery, which outlives an interrupted run


def _begin(gallery: Path, folder: Path, job: dict[str, Any]) -> bool:
    """Note in the folder what is being done; False where it is done already.

    Raises UsageError where the folder has something else that is not finished.
    """
    from reid_index import files
    from reid_index.errors import UsageError
    from reid_index.store.commit import read_current

    now, earlier = _job_of(read_current(gallery)), _read_note(folder)
    if earlier is None or earlier == now:  # the note goes first, so what has none is finished, too
        is_left = (folder / _PARTS).exists()
        _clear(folder)
        earlier = None
        if is_left:
            click.echo(f"{folder}: removed what an earlier run had left", err=True)
    if now == job:
        click.echo(f"{gallery}: its vectors are of this extractor already", err=True)
        return False
    if earlier is not None and earlier != job:
        changed = ", ".join(name for name in job if earlier[name] != job[name])
        raise UsageError(
            f"{folder} holds an unfinished rebuild with another {changed}; run that one again to "
            "finish it, or delete the folder"
        )
    files.write_json(folder / NOTE, job)
    return True


def _job_of(manifest: "Manifest") -> dict[str, Any]:
    return {
        "fingerprint": manifest.fingerprint.to_json(),
        "metric": str(manifest.metric),
        "dtype": manifest.dtype,
    }


def _read_note(folder: Path) -> dict[str, Any] | None:
    from reid_index.errors import UsageError
    from reid_index.reading import read_json

    path = folder / NOTE
    try:
        note = read_json(path)
        return {name: note[name] for name in ("fingerprint", "metric", "dtype")}
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"{path} cannot be read; delete {folder} to start anew") from None


def _clear(folder: Path) -> None:
    from reid_index import files

    files.remove(folder / NOTE)
    files.remove(folder / _PARTS)


def _parts(folder: Path) -> list[Path]:
    """The shards that runs have finished, in order; each got its name when it was whole."""
    found = folder.glob(f"{_PARTS}/*/{_PARTS}/part-*/shard.json")
    return sorted(path.parent for path in found)


def _move(gallery: Path, roots: dict[str, str], *, remake: bool) -> "Rebuilt":
    """Tell a gallery where its pictures are now; its vectors stay as they are."""
    from reid_index import Gallery
    from reid_index.upkeep.rebuild import move

    with (
        told_unchanged(gallery),
        Gallery.open(gallery) as opened,
        progress_bar(len(opened), unit=" rows") as bar,
    ):
        return move(opened, roots, remake=remake, progress=bar.update)


# Extraction, and the commit


@dataclass(frozen=True, kw_only=True)
class _Run:
    """A rebuild. folder: its staging folder. job: what the vectors are to be. roots: root → where
    its pictures are now, for those that have moved. of_segments: whether items are made of frames,
    which are what is extracted then, each one once. commit: further arguments of `Gallery.rebuild`.
    """

    gallery: Path
    folder: Path
    job: dict[str, Any]
    roots: dict[str, str]
    drop_missing: bool
    of_segments: bool
    commit: dict[str, Any]

    def rebuild(self, extractor: "Extractor", pace: dict[str, Any]) -> "Rebuilt":
        """Extract until every item has been tried, then commit; again for those added meanwhile.

        Nothing is locked, and no generation held, while pictures are read. Raises NothingToIndex,
        UnreadableImage.
        """
        import numpy as np

        from extractors.rebuilding import (
            as_source,
            extracted_items,
            remove_changed,
            with_pictures,
            without,
        )

        from .formats import counted

        crops = self._crops()
        self._refuse_no_pictures(crops)
        tried = extracted_items(remove_changed(_parts(self.folder), crops))
        if len(tried):
            were = "was" if len(tried) == 1 else "were"
            click.echo(f"{counted(len(tried), 'crop')} {were} there from an earlier run", err=True)
        while True:
            new = without(self._crops(), tried)
            if new.num_rows:
                named = with_pictures(new)
                if named.num_rows:
                    self._extract(as_source(named), extractor, pace)
                tried = np.concatenate([tried, new["item"].to_numpy()])
                continue
            done = self._commit(tried, extractor)
            if done is not None:
                return done

    def _items(self) -> "pa.Table":
        """What the gallery's items were cut from."""
        from extractors.resegmenting import COLUMNS
        from reid_index.upkeep.rebuild import read_crops

        return read_crops(self.gallery, COLUMNS if self.of_segments else ())

    def _crops(self) -> "pa.Table":
        """What is to be extracted: the items, or the frames that they have."""
        from extractors.rebuilding import located
        from extractors.resegmenting import listed_frames

        items = self._items()
        return located(listed_frames(items).frames if self.of_segments else items, self.roots)

    def _refuse_no_pictures(self, crops: "pa.Table") -> None:
        from extractors.rebuilding import with_pictures
        from reid_index.errors import NothingToIndex

        if crops.num_rows == 0:
            raise NothingToIndex(f"{self.gallery}: it holds no items; build a new gallery")
        if with_pictures(crops).num_rows == 0:
            raise NothingToIndex(
                f"{self.gallery}: it was made of vectors, and knows of no pictures to embed again; "
                "build a new gallery from the pictures, or name their folder by --root"
            )

    def _extract(self, source: "Source", extractor: "Extractor", pace: dict[str, Any]) -> None:
        """Extract into a folder of its own, so that what earlier runs have finished stays."""
        from reid_index import Metric, files

        runs = [int(path.name) for path in self.folder.glob(f"{_PARTS}/[0-9]*")]
        folder = self.folder / _PARTS / f"{max(runs, default=0) + 1:06d}"
        files.make_folder(folder)
        metric, dtype = Metric(self.job["metric"]), self.job["dtype"]
        is_of = {"of_frames": self.of_segments}
        extract(source, extractor, folder, metric=metric, dtype=dtype, **is_of, **pace)

    def _commit(self, tried: "NDArray[np.int64]", extractor: "Extractor") -> "Rebuilt | None":
        """Commit what has been extracted; None where others have added items that were not tried.

        Raises NothingToIndex and UnreadableImage where pictures cannot be read, GalleryLocked.
        """
        from extractors.rebuilding import extracted_items, without
        from extractors.resegmenting import listed_frames
        from reid_index import Gallery
        from reid_index.errors import UsageError

        parts: Sequence[Path] = _parts(self.folder)
        items = self._items()
        extracted = extracted_items(parts)
        if self.of_segments:
            listed = listed_frames(items)
            tried_items = listed.items[listed.whole(tried)]
            extracted = listed.items[listed.whole(extracted)]
        else:
            tried_items = tried
        missing = without(items, extracted)
        if without(missing, tried_items).num_rows:
            return None
        self._refuse_missing(missing, is_all=not len(extracted))
        if self.of_segments:
            parts = self._encode(parts, listed, extractor)
        with Gallery.open(self.gallery) as gallery, progress_bar(len(gallery), unit=" rows") as bar:
            try:
                with told_unchanged(self.gallery):
                    return _patiently(
                        lambda: gallery.rebuild(
                            parts,
                            drop_missing=missing["item"].to_pylist(),
                            roots=self.roots,
                            progress=bar.update,
                            **self.commit,
                        )
                    )
            except UsageError:
                if without(self._crops(), tried).num_rows == 0:
                    raise
                return None

    def _encode(
        self, parts: Sequence[Path], listed: "Listed", extractor: "Extractor"
    ) -> Sequence[Path]:
        """Shards of the items that have all of their frames in the parts."""
        from extractors.resegmenting import write_listed
        from reid_index import Metric

        return write_listed(
            parts,
            self.folder / SEGMENTS,
            listed,
            encoder=extractor.segments,
            fingerprint=extractor.fingerprint,
            metric=Metric(self.job["metric"]),
            dtype=self.job["dtype"],
        )

    def _refuse_missing(self, missing: "pa.Table", *, is_all: bool) -> None:
        from reid_index.errors import NothingToIndex, UnreadableImage

        from .formats import counted

        if is_all:
            raise NothingToIndex(
                f"{self.gallery}: not one of the pictures of its {missing.num_rows:,} items can be "
                "read; --root says where they are now"
            )
        if missing.num_rows and not self.drop_missing:
            some = missing.slice(0, _NAMED).to_pylist()
            named = ", ".join(f"{row['item']}: {row['source'] or 'no picture'}" for row in some)
            more = ", …" if missing.num_rows > _NAMED else ""
            raise UnreadableImage(
                f"{self.gallery}: no picture of {counted(missing.num_rows, 'item')} can be read "
                f"({named}{more}): put them there and run this again, which keeps what is done; "
                "or leave these items out by --drop-missing"
            )


def _patiently(call: "Callable[[], Rebuilt]") -> "Rebuilt":
    """What the call returns, once nobody else is writing. Raises GalleryLocked after a minute."""
    from reid_index.errors import GalleryLocked

    end = time.monotonic() + _PATIENCE
    while True:
        try:
            return call()
        except GalleryLocked:
            if time.monotonic() > end:
                raise
            time.sleep(_PAUSE)


def _tell(gallery: Path, done: "Rebuilt") -> None:
    from .formats import aligned, counted

    rows = [
        ["items", f"{done.rows:,}"],
        removed(done),
        ["shards", f"{done.shards_before:,} before, {done.shards_after:,} now"],
    ]
    if done.missing:
        missing = counted(done.missing, "item")
        rows.append(["left out", f"{missing} without a readable picture"])
    if done.remade:
        rows.append(["made again", ", ".join(done.remade)])
    rows += [["left out", f"{kind}: {why}"] for kind, why in done.dropped]
    click.echo(f"{gallery}:\n{aligned(rows)}", nl=False)


def _tell_pending(ctx: click.Context, pending: "tuple[Held, ...]") -> None:
    if pending:
        generations = "; ".join(map(held, pending))
        click.echo(
            f"erasure pending: {generations}, with the former vectors; run `reid compact` when it "
            "is not",
            err=True,
        )
        ctx.exit(1)
