"""Crops and their best matches, each with the heat of a trained model's map."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from PIL import Image

from extractors.boxes import crop_box
from extractors.extractor import Crop
from extractors.heat import heat_maps, overlay
from extractors.images import read_image, silence_pillow_warnings
from extractors.pictures import Person, find_pictures
from extractors.trained import Model, TrainedExtractor, read_model
from reid_index import Gallery, Match
from reid_index.errors import NothingToIndex, UnreadableImage, UsageError

from .formats import printable
from .progress import progress_bar
from .sheet import verdict_of
from .target import load_crop

MOST = 120
"""Crops on one sheet: with matches it is then 30,000 pixels high, which viewers still show."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One crop. picture, heat: as it is and with its heat over it, None where it cannot be had.
    name: of its file. verdict: of a match, "same" person as the crop's, "other" or "unknown"; None
    of the crop itself. score: of a match, similarity or distance, as `score_name` says."""

    picture: Image.Image | None
    heat: Image.Image | None
    name: str
    verdict: str | None = None
    score: float | None = None
    score_name: str = ""


@dataclass(frozen=True)
class Row:
    """A crop and its matches, best first."""

    crop: Shown
    matches: tuple[Shown, ...]


@dataclass(frozen=True)
class _Read:
    """A crop that could be read. person, camera: as its name tells, where that is Market-style."""

    name: str
    pixels: Crop
    person: str | None
    camera: int | None


def explain(
    weights: Path,
    paths: Sequence[Path],
    *,
    gallery: Path | None,
    top: int,
    where: str | None,
    not_own_camera: bool,
    root: Path | None,
    device: str,
    strict: bool,
) -> list[Row]:
    """A row for each crop that can be read; the others are told and counted, or with strict raised.

    weights: a model file of `reid train`. paths: picture files and folders. gallery: where matches
    come from, top of them, by `where`; root: where its pictures are now.

    Raises BadSource, BadWeights, ExtractorMismatch, NothingToIndex, UnreadableImage, UsageError,
    and what opening a gallery raises.
    """
    silence_pillow_warnings()
    model = read_model(weights)
    found = None if gallery is None else Gallery.open(gallery)
    crops = _read(paths, strict=strict)
    matches: list[list[Match]] = [[] for _ in crops]
    if found is not None:
        extractor = TrainedExtractor(weights, device=device)
        found.check_fingerprint(extractor.fingerprint, of="the crops")
        for crop, best in zip(crops, matches, strict=True):
            if not_own_camera and crop.camera is None:
                raise UsageError(
                    f"{crop.name}: no camera is known by its name: leave out --not-own-camera"
                )
            own = [crop.camera] if not_own_camera and crop.camera is not None else []
            made = extractor.extract([crop.pixels])
            has_parts = found.matcher is not None and not found.matcher.of_frames
            best += found.search(
                made.global_,
                k=top,
                where=where,
                not_camera=own,
                parts=made.parts if has_parts else None,
                visible=made.visible if has_parts else None,
            ).matches
    rows = []
    with progress_bar(len(crops), unit="crop") as bar:
        for crop, best in zip(crops, matches, strict=True):
            rows.append(_row(crop, best, model, root=root, device=device))
            bar.update(1)
    return rows


def _read(paths: Sequence[Path], *, strict: bool) -> list[_Read]:
    source = find_pictures(paths)
    if source.count > MOST:
        raise UsageError(
            f"{source.root}: {source.count:,} crops; a sheet has {MOST} at most: name fewer"
        )
    crops = []
    for picture in source.pictures():
        for person in picture.people:
            try:
                crops.append(_crop(picture.path, picture.root, person))
            except UnreadableImage as error:
                if strict:
                    raise
                click.echo(f"skipped: {printable(str(error))}", err=True)
    if not crops:
        raise NothingToIndex(f"{source.root}: there is no crop that can be read")
    if len(crops) < source.count:
        skipped = source.count - len(crops)
        click.echo(f"{skipped:,} of {source.count:,} were skipped", err=True)
    return crops


def _crop(path: Path, root: Path, person: Person) -> _Read:
    pixels = read_image(path, root=root)
    if person.box is not None:
        pixels = crop_box(pixels, person.box)
    known = person.columns
    return _Read(path.name, pixels, known.get("person"), known.get("camera"))


def _row(
    crop: _Read, matches: Sequence[Match], model: Model, *, root: Path | None, device: str
) -> Row:
    pictures = [load_crop(one.source, one.root, one.box, other_root=root) for one in matches]
    loaded = [np.asarray(picture.convert("RGB")) for picture in pictures if picture is not None]
    pixels = [crop.pixels, *loaded]
    heats = [
        Image.fromarray(overlay(one, heat))
        for one, heat in zip(pixels, heat_maps(model, pixels, device=device), strict=True)
    ]
    rest = iter(heats[1:])
    strip = tuple(
        Shown(
            picture=picture,
            heat=None if picture is None else next(rest),
            name=Path(match.source).name,
            verdict=verdict_of(match.person, crop.person),
            score=match.similarity if match.distance is None else match.distance,
            score_name="similarity" if match.distance is None else "distance",
        )
        for match, picture in zip(matches, pictures, strict=True)
    )
    itself = Shown(picture=Image.fromarray(crop.pixels), heat=heats[0], name=crop.name)
    return Row(itself, strip)
