"""What is trained on: crops with a person each, decoded once and kept in memory."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from reid_index.errors import NothingToIndex, UnreadableImage

from ..boxes import crop_box
from ..images import read_image
from ..pictures import Person, Picture, Source
from ..preprocess import FILTERS, Preprocess


@dataclass(frozen=True)
class Labelled:
    """Crops and who is on them.

    people: (picture, person) for each crop. classes: int64 (N,), from 0 on, one for each person of
    each source. persons: what each class is called.
    """

    people: Sequence[tuple[Picture, Person]]
    classes: NDArray[np.int64]
    persons: Sequence[str]

    def __len__(self) -> int:
        return len(self.people)

    @property
    def lonely(self) -> int:
        """How many persons have one crop only."""
        return sum(count == 1 for count in Counter(self.classes.tolist()).values())


def read_labelled(sources: Iterable[Source]) -> Labelled:
    """The labelled people of some sources; the same label in two sources is two persons.

    Those without a label, distractors and junk, are left out. Raises NothingToIndex where fewer
    than two persons are left, or each has one crop only: then nothing can be learnt from pairs.
    """
    people: list[tuple[Picture, Person]] = []
    names: dict[tuple[int, str], int] = {}
    classes = []
    root = ""
    for number, source in enumerate(sources):
        root = str(source.root)
        for picture in source.pictures():
            for person in picture.people:
                label = person.columns.get("person")
                if label is not None:
                    people.append((picture, person))
                    classes.append(names.setdefault((number, str(label)), len(names)))
    found = Labelled(people, np.array(classes, np.int64), [name for _, name in names])
    if len(names) < 2:
        raise NothingToIndex(
            f"{root}: {len(names)} labelled persons are there to train on, and two at least are "
            "needed; labels are the column `person`, or in Market-style names"
        )
    if found.lonely == len(names):
        raise NothingToIndex(
            f"{root}: each of the {len(names)} persons has one crop only: what stays the same from "
            "crop to crop cannot be learnt from that"
        )
    return found


def decode(
    labelled: Labelled,
    preprocess: Preprocess,
    *,
    workers: int | None = None,
    progress: Callable[[int], object] = lambda _crops: None,
) -> NDArray[np.uint8]:
    """All crops, resized: uint8 (N, height, width, 3), RGB: 25 kB each at 128 × 64.

    Raises UnreadableImage for the first that cannot be read.
    """
    crops = np.empty((len(labelled), preprocess.height, preprocess.width, 3), np.uint8)
    size = (preprocess.width, preprocess.height)

    def read(number: int) -> None:
        picture, person = labelled.people[number]
        try:
            crop = read_image(picture.path, root=picture.root)
            if person.box is not None:
                crop = crop_box(crop, person.box)
        except UnreadableImage as error:
            raise UnreadableImage(f"{error}; nothing is trained on a part") from None
        if crop.shape[:2] != crops.shape[1:3]:
            image = Image.fromarray(crop)
            crop = np.asarray(image.resize(size, FILTERS[preprocess.interpolation]))
        crops[number] = crop

    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        for _ in pool.map(read, range(len(labelled))):
            progress(1)
    return crops
