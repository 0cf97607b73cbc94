"""What is looked for: an image, a folder of images of one person, vectors, or an item."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from extractors.boxes import Box as PersonBox
from extractors.boxes import boxes_by_source, crop_box, read_boxes
from extractors.embeddings import holds_vectors, read_vectors
from extractors.extractor import Embedding, joined
from extractors.images import SUFFIXES, read_image, silence_pillow_warnings
from extractors.pictures import LISTS, find_pictures, parse_market
from reid_index import Gallery
from reid_index.attributes import PREFIX
from reid_index.errors import BadSource, NothingToIndex, UnreadableImage, UsageError
from reid_index.matcher import told

from .sources import gallery_extractor

if TYPE_CHECKING:
    from extractors.extractor import Crop, Extractor

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Target:
    """vectors: (n, D). parts: (n, P, Dp), None where the gallery compares none; visible: (n, P),
    which of them are to be seen, None where the gallery does not ask or all are. images: the crops
    they come from, none for bare vectors. person, camera: where known. label: what to call the
    target. attributes: columns `attr.<name>`, `.confidence` and `.origin` with n values each, as
    the gallery has them of an item, or its extractor predicts them; None where nothing is known."""

    vectors: NDArray[np.floating]
    parts: NDArray[np.floating] | None
    images: Sequence[Image.Image]
    person: str | None
    camera: int | None
    label: str
    visible: NDArray[np.uint8] | None = None
    attributes: Mapping[str, Sequence[Any]] | None = None


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
        parts=gallery.parts([row]) if _has_parts(gallery) else None,
        images=[] if image is None else [image],
        person=record["person"],
        camera=record["camera"],
        label=f"item {item}",
        visible=gallery.visible([row]) if _has_visible(gallery) else None,
        attributes={name: [record[name]] for name in record if name.startswith(PREFIX)} or None,
    )


def _has_parts(gallery: Gallery) -> bool:
    return gallery.matcher is not None and not gallery.matcher.of_frames


def _has_visible(gallery: Gallery) -> bool:
    return gallery.matcher is not None and gallery.matcher.has_visible


def file_target(
    gallery: Gallery,
    path: Path,
    *,
    box: Box | None,
    boxes: Path | None,
    position: int | None,
    weights: Path | None,
    device: str,
    attributes: Path | None = None,
    predict: bool = True,
) -> Target:
    """A file or folder: vectors as they are, pictures through the gallery's extractor.

    box, or boxes with position (from 1), says which person of a full picture is meant. weights,
    attributes: where the model files are now. predict: False where nobody asks for attributes.
    Raises UsageError, BadSource, UnreadableImage, NothingToIndex, ExtractorMismatch, BadWeights.
    """
    if not path.exists():
        raise BadSource(f"{path}: there is no such file or folder to look for")
    if holds_target_vectors(path):
        if gallery.matcher is not None:
            raise UsageError(
                f"{path}: a file of vectors has no parts, and this gallery compares items by "
                f"{told(gallery.matcher)}, too: give pictures, or --item N"
            )
        vectors, _ = read_vectors(path)
        return Target(vectors, None, [], None, None, path.name)
    silence_pillow_warnings()
    person, camera = None, None
    if not is_many(path):
        crop, _, person, camera = read_person(path, box=box, boxes=boxes, position=position)
        crops = [crop]
    elif box is None and position is None:
        crops = _folder_crops(path, boxes)
    else:
        what = "a folder" if path.is_dir() else "a list"
        raise UsageError(f"{path} is {what}: a box or position belongs to one picture")
    extractor = gallery_extractor(
        gallery,
        weights=weights,
        device=device,
        of="the query",
        attributes=attributes,
        predict=predict,
    )
    made = _embed(extractor, crops)
    return Target(
        vectors=made.global_,
        parts=made.parts if _has_parts(gallery) else None,
        images=[Image.fromarray(crop) for crop in crops],
        person=person,
        camera=camera,
        label=path.name,
        visible=made.visible if _has_visible(gallery) else None,
        attributes=made.attributes,
    )


def _embed(extractor: "Extractor", crops: "Sequence[Crop]") -> Embedding:
    """What the extractor yields for the crops, a few at a time, in one."""
    batches = [crops[at : at + 32] for at in range(0, len(crops), 32)]
    return joined([extractor.extract(batch) for batch in batches])


def read_person(
    path: Path, *, box: Box | None, boxes: Path | None, position: int | None
) -> "tuple[Crop, Box | None, str | None, int | None]":
    """The person in a picture file: their crop, box, label and camera, where known."""
    known = parse_market(path.name) or {}
    person, camera = known.get("person"), known.get("camera")
    if boxes is not None:
        if box is not None:
            raise UsageError("--box and --boxes clash; give one of the two")
        found = _box_of(path, boxes, position)
        box = (found.x, found.y, found.width, found.height)
        person = person if found.person is None else found.person
        camera = camera if found.camera is None else found.camera
    elif position is not None:
        raise UsageError("--position counts the boxes of a picture: it needs --boxes FILE")
    image = read_image(path)
    return image if box is None else crop_box(image, box), box, person, camera


def is_many(path: Path) -> bool:
    """Whether it names many pictures: a folder, or a list of them."""
    return path.is_dir() or path.suffix.lower() in LISTS


def holds_target_vectors(path: Path) -> bool:
    """Whether it is a file of vectors, and no picture."""
    return path.is_file() and path.suffix.lower() not in SUFFIXES and holds_vectors(path)


def _folder_crops(folder: Path, boxes: Path | None) -> "list[Crop]":
    """All crops of a folder or list that shows one person. One that cannot be read is an error
    here: the answer would silently be another one."""
    crops = []
    for picture in find_pictures([folder], layout="folder", boxes=boxes).pictures():
        image = read_image(picture.path, root=picture.root)
        for person in picture.people:
            crops.append(image if person.box is None else crop_box(image, person.box))
    if not crops:
        raise NothingToIndex(f"{folder}: there are no pictures in it to look for")
    return crops


def _box_of(path: Path, boxes: Path, position: int | None) -> PersonBox:
    absolute = os.path.abspath(path)
    groups = boxes_by_source(read_boxes(boxes, pictures=path.parent))
    fitting = [source for source in groups if absolute.endswith(f"/{source}")]
    # Of a.jpg and day/a.jpg, both in the file, day/a.jpg says more.
    found = groups[max(fitting, key=len)] if fitting else []
    if not found:
        raise UsageError(f"{boxes}: it has no box in {path.name}")
    if position is None and len(found) > 1:
        raise UsageError(
            f"{boxes}: {len(found)} people in {path.name}; say which with --position 1 to "
            f"{len(found)}"
        )
    if position is not None and not 1 <= position <= len(found):
        raise UsageError(f"{boxes}: no person {position} in {path.name}, it has {len(found)}")
    return found[(position or 1) - 1]


def load_crop(
    source: str, root: str, box: Box | None, *, other_root: Path | None = None
) -> Image.Image | None:
    """The crop of an item, or None where its picture is gone, broken or outside its root, be that
    by its name or by a link."""
    folder = other_root or (Path(root) if root else None)
    inside = PurePosixPath(source)
    # A shard that somebody else wrote may name any path; only pictures below the root are shown.
    if folder is None or not source or inside.is_absolute() or ".." in inside.parts:
        return None
    try:
        image = read_image(folder / inside, root=folder)
        return Image.fromarray(image if box is None else crop_box(image, box))
    except UnreadableImage:
        return None
