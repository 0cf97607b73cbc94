"""The datasets of the field, by name: their parts as sources, and their counts beside the
published ones."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from reid_index.errors import BadSource, UsageError

from .cuhk03 import read_classic, read_new_protocol
from .market import read_black, read_market
from .mars import read_mars
from .msmt17 import read_msmt17
from .pictures import LISTS, Picture, Source, find_pictures
from .records import Listing
from .two_cameras import read_ilids_vid, read_prid2011

_MSMT17 = {
    "train": 32_621,
    "query": 11_659,
    "gallery": 82_161,
    "train persons": 1_041,
    "query persons": 3_060,
    "cameras": 15,
}
_MARS = {
    "train tracklets": 8_298,
    "query tracklets": 1_980,
    "query persons": 626,
    "test tracklets": 12_180,
    "junk tracklets": 870,
    "gallery distractors": 3_248,
    "train frames": 509_914,
    "test frames": 681_089,
    "cameras": 6,
}
_CUHK03_NP = {
    "query": 1_400,
    "train persons": 767,
    "query persons": 700,
    "gallery persons": 700,
    "cameras": 2,
}

PUBLISHED: Mapping[str, Mapping[str, int]] = {
    "market1501": {
        "train": 12_936,
        "query": 3_368,
        "gallery": 15_913,
        "bounding_box_test": 19_732,
        "junk": 3_819,
        "gallery distractors": 2_798,
        "train persons": 751,
        "query persons": 750,
        "gallery persons": 750,
        "cameras": 6,
        "answerable queries": 3_368,
    },
    "dukemtmc": {
        "train": 16_522,
        "query": 2_228,
        "gallery": 17_661,
        "train persons": 702,
        "query persons": 702,
        "gallery persons": 1_110,
        "junk": 0,
        "cameras": 8,
    },
    "cuhk03-np-labeled": {"train": 7_368, "gallery": 5_328, **_CUHK03_NP},
    "cuhk03-np-detected": {"train": 7_365, "gallery": 5_332, **_CUHK03_NP},
    "cuhk03-classic": {"train persons": 1_367, "query persons": 100, "gallery persons": 100},
    "msmt17-v1": _MSMT17,
    "msmt17-v2": _MSMT17,
    "mars-official": {**_MARS, "gallery tracklets": 11_310, "answerable queries": 1_980},
    "mars-torchreid": {**_MARS, "gallery tracklets": 9_330, "answerable queries": 1_840},
    "ilids-vid": {
        "train persons": 150,
        "query persons": 150,
        "gallery persons": 150,
        "query tracklets": 150,
        "gallery tracklets": 150,
        "cameras": 2,
    },
    "prid2011": {
        "train persons": 89,
        "query persons": 89,
        "gallery persons": 89,
        "query tracklets": 89,
        "gallery tracklets": 89,
        "cameras": 2,
    },
    "black-reid": {"train persons": 1_274},
    "csv": {},
}
"""Name → what was counted → the published number. What the counts are: `Listing.count`, and the
docstrings of the readers. Where they were published: docs/datasets.md."""

NAMES = tuple(PUBLISHED)
SPLITS: Mapping[str, int] = {"cuhk03-classic": 20, "ilids-vid": 10, "prid2011": 10}
"""Name → how many splits it has, where it has more than one."""

_PARTS = ("query", "gallery", "train")


@dataclass(frozen=True)
class Dataset:
    """A dataset to evaluate on.

    query, gallery, train: their people and what is known of them; cameras are numbered as the
    files say; train is None where it is not there. found, published: the same names → how many
    are here, and how many were published.
    """

    name: str
    query: Source
    gallery: Source
    train: Source | None
    found: Mapping[str, int]
    published: Mapping[str, int]


def differences(dataset: Dataset) -> list[str]:
    """A line for each count that is not the published one; empty where all are."""
    return [
        f"{dataset.name}: {dataset.found[name]:,} {name}, published are {number:,}"
        for name, number in dataset.published.items()
        if dataset.found[name] != number
    ]


def open_dataset(folder: Path, name: str, *, split: int = 0) -> Dataset:
    """The dataset of that name in the folder, as docs/datasets.md says; for "csv", in the list.

    split: which, from 0, of those datasets that have several (`SPLITS`); 0 for the others.

    Raises UsageError for an unknown name or split; BadSource, BadItems for what is missing or
    cannot be read.
    """
    if name not in NAMES:
        raise UsageError(f"there is no dataset {name!r}; there are {', '.join(NAMES)}")
    splits = SPLITS.get(name, 1)
    if not 0 <= split < splits:
        there = f"the splits 0 to {splits - 1}" if splits > 1 else "one split, 0"
        raise UsageError(f"{name} has {there}, not {split}")
    folder = Path(os.path.abspath(folder))
    if not folder.exists():
        raise BadSource(f"{folder}: there is no such file or folder; give the one of {name}")
    if name == "csv":
        return _read_csv(folder)
    if not folder.is_dir():
        raise BadSource(f"{folder}: {name} is a folder; give that")
    listing = _read(folder, name, split)
    counted = listing.count()
    return Dataset(
        name=name,
        query=listing.source(listing.query),
        gallery=listing.source(listing.gallery),
        train=None if listing.train is None else listing.source(listing.train),
        found={key: counted.get(key, 0) for key in PUBLISHED[name]},
        published=PUBLISHED[name],
    )


def _read(folder: Path, name: str, split: int) -> Listing:
    match name:
        case "market1501" | "dukemtmc":
            return read_market(folder, name=name)
        case "cuhk03-np-labeled" | "cuhk03-np-detected":
            return read_new_protocol(folder, kind=name.removeprefix("cuhk03-np-"))
        case "cuhk03-classic":
            return read_classic(folder, split=split)
        case "msmt17-v1" | "msmt17-v2":
            return read_msmt17(folder, version=int(name[-1]))
        case "mars-official" | "mars-torchreid":
            return read_mars(folder, queries_in_gallery=name == "mars-official")
        case "ilids-vid":
            return read_ilids_vid(folder, split=split)
        case "prid2011":
            return read_prid2011(folder, split=split)
        case _:
            return read_black(folder)


def _read_csv(path: Path) -> Dataset:
    """A list with the columns file, person, camera and split: query, gallery or train. Further
    columns are items' columns; paths are relative to the list, as `find_pictures` reads them."""
    if path.suffix.lower() not in LISTS or path.is_dir():
        raise BadSource(f"{path}: csv is a list of files, .csv or .parquet; give that")
    whole = find_pictures([path])
    if "split" not in whole.columns:
        raise BadSource(f"{path}: there is no column `split`; say query, gallery or train in it")
    counts = dict.fromkeys(_PARTS, 0)
    for picture in whole.pictures():
        for person in picture.people:
            part = person.columns["split"]
            if part not in counts:
                raise BadSource(
                    f"{path}: {picture.source} has the split {part!r}; say query, gallery or train"
                )
            counts[part] += 1
    for part in ("query", "gallery"):
        if not counts[part]:
            raise BadSource(f"{path}: no row has the split {part!r}; both sides are needed")
    query, gallery, train = (_only(whole, part, counts[part]) for part in _PARTS)
    return Dataset("csv", query, gallery, train if train.count else None, {}, PUBLISHED["csv"])


def _only(whole: Source, part: str, count: int) -> Source:
    """The people of one split."""

    def pictures() -> Iterator[Picture]:
        for picture in whole.pictures():
            people = tuple(one for one in picture.people if one.columns["split"] == part)
            if people:
                yield replace(picture, people=people)

    return replace(whole, count=count, pictures=pictures)
