"""What is looked for: an image, a folder of images of one person, vectors, or an item."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from extractors import open_recipe
from extractors.boxes import crop_box, read_boxes
from extractors.embeddings import holds_vectors, read_vectors
from extractors.images import SUFFIXES, read_image, silence_pillow_warnings
from extractors.pictures import find_pictures, parse_market
from reid_index import Gallery
from reid_index.errors import NothingToIndex, UnreadableImage, UsageError

if TYPE_CHECKING:
    from extractors.extractor import Crop, Extractor

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Target:
    """vectors: (n, D). images: the crops they come from, none for bare vectors. person, camera:
    where known. label: what to call the target."""

    vectors: NDArray[np.floating]
    images: Sequence[Image.Image]
    person: str | None
    camera: int | None
    label: str


def item_target(gallery: Gallery, item: int, *, other_root: Path | None) -> Target:
    """An item of the gallery: its own vector, and its crop if that can be had."""
    row = gallery.row_of(item)
    record = gallery.items.slice(row, 1).to_pylist()[0]
    box = record["box"]
    image = load_crop(
        record["source"] or "",
        gallery.root_of(row),
        None if box is None else (box[0], box[1], box[2], box[3]),
        other_root=other_root,
    )
    return Target(
        vectors=gallery.vectors([row]),
        images=[] if image is None else [image],
        person=record["person"],
        camera=record["camera"],
        label=f"item {item}",
    )


def file_target(
    gallery: Gallery,
    path: Path,
    *,
    box: Box | None,
    boxes: Path | None,
    position: int | None,
    weights: Path | None,
    device: str,
    batch_size: int = 32,
) -> Target:
    """A file or folder: vectors as they are, pictures through the gallery's extractor.

    box, or boxes with position (from 1), says which person of a full picture is meant.
    Raises UsageError, BadSource, UnreadableImage, NothingToIndex, ExtractorMismatch, BadWeights.
    """
    if not path.exists():
        raise UsageError(f"{path}: there is no such file or folder to look for")
    if path.is_file() and path.suffix.lower() not in SUFFIXES and holds_vectors(path):
        vectors, _ = read_vectors(path)
        return Target(vectors, [], None, None, path.name)
    silence_pillow_warnings()
    crops = _crops(path, box=box, boxes=boxes, position=position)
    extractor = open_recipe(gallery.manifest.recipe, weights=weights, device=device)
    gallery.check_fingerprint(extractor.fingerprint, of="the query")
    known = (parse_market(path.name) if path.is_file() else None) or {}
    return Target(
        _embed(extractor, crops, batch_size),
        [Image.fromarray(crop) for crop in crops],
        known.get("person"),
        known.get("camera"),
        path.name,
    )


def _embed(
    extractor: "Extractor", crops: "Sequence[Crop]", batch_size: int
) -> NDArray[np.floating]:
    batches = [crops[at : at + batch_size] for at in range(0, len(crops), batch_size)]
    return np.concatenate([extractor.extract(batch).global_ for batch in batches])


def _crops(
    path: Path, *, box: Box | None, boxes: Path | None, position: int | None
) -> "list[Crop]":
    if path.is_dir():
        if box is not None or position is not None:
            raise UsageError(f"{path} is a folder: a box or position belongs to one picture")
        return _folder_crops(path, boxes)
    if boxes is not None:
        if box is not None:
            raise UsageError("--box and --boxes clash; give one of the two")
        box = _box_of(path, boxes, position)
    elif position is not None:
        raise UsageError("--position counts the boxes of a picture: it needs --boxes FILE")
    image = read_image(path)
    return [image if box is None else crop_box(image, box)]


def _folder_crops(folder: Path, boxes: Path | None) -> "list[Crop]":
    """All crops of a folder that shows one person. One that cannot be read is an error here: the
    answer would silently be another one."""
    crops = []
    for picture in find_pictures([folder], layout="folder", boxes=boxes).pictures():
        image = read_image(picture.path)
        for person in picture.people:
            crops.append(image if person.box is None else crop_box(image, person.box))
    if not crops:
        raise NothingToIndex(f"{folder}: there are no pictures in it to look for")
    return crops


def _box_of(path: Path, boxes: Path, position: int | None) -> Box:
    found = [box for box in read_boxes(boxes, pictures=path.parent) if box.source == path.name]
    if not found:
        raise UsageError(f"{boxes}: it has no box in {path.name}")
    if position is None and len(found) > 1:
        raise UsageError(
            f"{boxes}: {len(found)} people in {path.name}; say which with --position 1 to "
            f"{len(found)}"
        )
    if position is not None and not 1 <= position <= len(found):
        raise UsageError(f"{boxes}: no person {position} in {path.name}, it has {len(found)}")
    box = found[(position or 1) - 1]
    return (box.x, box.y, box.width, box.height)


def load_crop(
    source: str, root: str, box: Box | None, *, other_root: Path | None = None
) -> Image.Image | None:
    """The crop of an item, or None where its picture is gone, broken or outside its root."""
    folder = other_root or (Path(root) if root else None)
    if folder is None or not source or "\0" in source:
        return None
    path = (folder / source).resolve()
    # A shard that somebody else wrote may name any path; only pictures below the root are shown.
    if not path.is_relative_to(folder.resolve()):
        return None
    try:
        image = read_image(path)
        return Image.fromarray(image if box is None else crop_box(image, box))
    except UnreadableImage:
        return None
