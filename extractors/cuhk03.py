"""CUHK03 (Li et al., DeepReID, CVPR 2014): the new protocol (Zhong et al., CVPR 2017,
arXiv:1701.08398) and the classic one.

Pictures are named PAIR_PERSON_VIEW_IMAGE.png: camera pair 1 to 5, person within the pair, view 1
or 2, image 1 to 10, such as 1_001_2_06.png. The camera is the view; a person is seen by one pair
only.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from reid_index.errors import BadSource
from reid_index.store.vectors import HDF5_ERRORS

from .market import read_market
from .matlab import read_mat
from .records import (
    Listing,
    Part,
    Record,
    check_pictures,
    first_of,
    need,
    picture_names,
    shuffled,
)

_NAME = re.compile(
    r"^(?P<pair>\d)_(?P<person>\d{3,6})_(?P<view>[12])_(?P<image>\d{2})\.png$", re.ASCII
)
_COLUMNS = {"camera_pair": pa.int64()}
_TEST_PERSONS = 100


def read_new_protocol(folder: Path, *, kind: str) -> Listing:
    """CUHK03-NP. kind: "labeled" or "detected" boxes.

    One of: Market-1501's layout in `folder/KIND`; the same in the folder itself;
    `cuhk03_new_protocol_config_KIND.mat` (variables train_idx, query_idx, gallery_idx, counted
    from 1, labels, filelist) beside the pictures in `images_KIND` or `images`. From the latter,
    persons are the labels with four digits. Raises BadSource.
    """
    for market in (folder / kind, folder):
        if (market / "query").exists():
            return read_market(market, name=f"cuhk03-np-{kind}")
    config = folder / f"cuhk03_new_protocol_config_{kind}.mat"
    layout = (
        f"cuhk03-np-{kind} is a folder with {kind}/query and so on, or with {config.name} and "
        f"images_{kind}"
    )
    need(config, layout=layout)
    pictures = first_of([folder / f"images_{kind}", folder / "images"], layout=layout).name
    names = ("labels", "filelist", "train_idx", "query_idx", "gallery_idx")
    labels, files, *indexes = (one.ravel() for one in read_mat(config, *names, layout=layout))
    if len(labels) != len(files):
        raise BadSource(f"{config}: {len(labels)} labels for {len(files)} files; get it anew")
    train, query, gallery = (
        _configured(config, pictures, labels=labels, files=files, rows=rows) for rows in indexes
    )
    for part in (query, gallery, train):
        check_pictures(folder, part, listed_in=config)
    return Listing(folder, query, gallery, train, columns=_COLUMNS)


def _configured(
    config: Path,
    pictures: str,
    *,
    labels: NDArray[Any],
    files: NDArray[Any],
    rows: NDArray[Any],
) -> Part:
    if len(rows) and not (rows.min() >= 1 and rows.max() <= len(files)):
        raise BadSource(f"{config}: an index is outside 1 to {len(files)}; get it anew")
    records = []
    for row in rows.astype(np.int64) - 1:
        # MATLAB's cell of strings: an array of arrays of one text each.
        name = "".join(map(str, np.ravel(files[row])))
        columns = _columns(name)
        if columns is None:
            raise BadSource(f"{config}: {name!r} is not named like 1_001_2_06.png")
        person = {"person": f"{int(labels[row]):04d}"}
        records.append(Record((f"{pictures}/{name}",), {**columns, **person}))
    return Part(records)


def _columns(name: str) -> dict[str, Any] | None:
    match = _NAME.match(name)
    if match is None:
        return None
    return {
        "person": f"{match['pair']}_{match['person']}",
        "camera": int(match["view"]),
        "camera_pair": int(match["pair"]),
    }


def read_classic(folder: Path, *, split: int) -> Listing:
    """CUHK03's classic protocol: 100 persons to test on, the others to train on. All crops of
    the test persons are query and gallery at once; that each gallery sample has one crop of each
    person is the measure's affair. Persons are PAIR_PERSON.

    Pictures: in the folder itself, or in its only one of images_labeled, images_detected and
    images. Splits: `testsets` of the dataset's own `cuhk-03.mat`, in the folder, its parent, or
    `cuhk03_release` in either. Without that file the test persons are the first 100 of all that
    are there, ordered by the SHA-256 of "SPLIT PERSON": repeatable, but not the published splits.

    Raises BadSource.
    """
    layout = "cuhk03-classic is a folder with pictures named like 1_001_2_06.png"
    folders = ("images_labeled", "images_detected", "images")
    inside = [name for name in folders if (folder / name).is_dir()]
    if len(inside) > 1:
        raise BadSource(f"{folder}: has {' and '.join(inside)}; name the one to read")
    prefix = f"{inside[0]}/" if inside else ""
    records = []
    for name in picture_names(need(folder / prefix, layout=layout)):
        columns = _columns(name)
        if columns is None:
            raise BadSource(f"{folder / prefix / name}: {layout}; rename it or move it away")
        records.append(Record((prefix + name,), columns))
    persons = sorted({record.columns["person"] for record in records})
    if len(persons) <= _TEST_PERSONS:
        raise BadSource(
            f"{folder / prefix}: pictures of {len(persons)} persons; {layout}, of more than "
            f"{_TEST_PERSONS} persons"
        )
    test = _published(folder, split)
    if test is None:
        test = set(shuffled(persons, seed=split)[:_TEST_PERSONS])
    tested = Part(_of(records, test))
    return Listing(folder, tested, tested, Part(_of(records, set(persons) - test)), _COLUMNS)


def _of(records: Iterable[Record], persons: set[str]) -> list[Record]:
    return [record for record in records if record.columns["person"] in persons]


def _published(folder: Path, split: int) -> set[str] | None:
    """The test persons of a split in cuhk-03.mat; None where there is no such file.

    `testsets` (1, 20) refers to tables (2, 100) in HDF5, whose rows are pair and person.
    """
    places = [one / inner for one in (folder, folder.parent) for inner in ("", "cuhk03_release")]
    path = next((one / "cuhk-03.mat" for one in places if (one / "cuhk-03.mat").exists()), None)
    if path is None:
        return None
    try:
        with h5py.File(path, "r") as file:
            table = file[file["testsets"][0, split]]
            if table.size > 2 * _TEST_PERSONS:
                raise ValueError(f"a table of {table.shape}, for {_TEST_PERSONS} persons")
            pairs, persons = table[:].astype(int)
    except (*HDF5_ERRORS, IndexError) as error:
        raise BadSource(f"{path}: its testsets cannot be read: {error}") from None
    return {f"{pair}_{person:03d}" for pair, person in zip(pairs, persons, strict=True)}
