"""Datasets whose folders hold crops named for person and camera: Market-1501's layout, Black-reID.

Market-1501: Zheng et al., Scalable Person Re-identification, ICCV 2015. DukeMTMC-reID: Zheng et
al., ICCV 2017, arXiv:1701.07717. CUHK03-NP comes in this layout, too. Black-reID: Xu et al., ACM
MM 2020, arXiv:2008.08528.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from reid_index.errors import BadSource

from .pictures import parse_market
from .records import JUNK, Listing, Part, Record, need, picture_names

_BLACK = re.compile(r"^(?P<label>.*\d.*)_c(?P<camera>\d{1,9})(?!\d)")
"""`b_0012_c3_1.jpg`, `0012_c3_1.jpg`: on the name alone, all digits of the camera."""


def read_market(folder: Path, *, name: str) -> Listing:
    """A folder in Market-1501's layout: query, bounding_box_test and, if it is there,
    bounding_box_train.

    Junk (person -1) is left out; person 0000 stays, with the role "distractor" and no label.
    counts: "bounding_box_test" and "junk", files. Raises BadSource where query or
    bounding_box_test is missing, and for a picture whose name is not Market-style.
    """
    layout = f"{name} is a folder with query, bounding_box_test and bounding_box_train"
    query = _market_part(folder, "query", layout=layout)
    gallery = _market_part(folder, "bounding_box_test", layout=layout)
    has_train = (folder / "bounding_box_train").exists()
    junk = gallery.left_out.get(JUNK, 0)
    return Listing(
        root=folder,
        query=query,
        gallery=gallery,
        train=_market_part(folder, "bounding_box_train", layout=layout) if has_train else None,
        counts={"bounding_box_test": len(gallery.records) + junk, "junk": junk},
    )


def _market_part(root: Path, part: str, *, layout: str) -> Part:
    records = []
    junk = 0
    for name in picture_names(need(root / part, layout=layout)):
        columns = parse_market(name)
        if columns is None:
            raise BadSource(
                f"{root / part / name}: the name is not Market-style (0002_c1s1_000451_03.jpg); "
                "rename it or move it away"
            )
        if columns["role"] == "junk":
            junk += 1
        else:
            records.append(Record((f"{part}/{name}",), columns))
    return Part(records, {JUNK: junk} if junk else {})


def read_black(folder: Path) -> Listing:
    """Black-reID: the folders query, gallery and, if it is there, train.

    Names begin with a label, then `_c` and the camera. In query and gallery the person is the
    label's number, or the second field of a label that begins with b (`b_0012`), without leading
    zeros; in train it is the whole label. The column `black` tells whether the label begins with b.

    Raises BadSource where query or gallery is missing, and for another name.
    """
    layout = "black-reid is a folder with query, gallery and train"
    has_train = (folder / "train").exists()
    return Listing(
        root=folder,
        query=_black_part(folder, "query", layout=layout),
        gallery=_black_part(folder, "gallery", layout=layout),
        train=_black_part(folder, "train", layout=layout) if has_train else None,
        columns={"black": pa.bool_()},
    )


def _black_part(root: Path, part: str, *, layout: str) -> Part:
    names = picture_names(need(root / part, layout=layout))
    return Part(
        [
            Record((f"{part}/{name}",), _black_columns(root / part / name, whole=part == "train"))
            for name in names
        ]
    )


def _black_columns(path: Path, *, whole: bool) -> Mapping[str, Any]:
    match = _BLACK.match(path.name)
    person = None
    if match:
        person = match["label"] if whole else _black_person(match["label"])
    if not match or not person:
        raise BadSource(
            f"{path}: the name is not one of Black-reID (b_0012_c3_1.jpg, 0012_c3_1.jpg); rename "
            "it or move it away"
        )
    black = match["label"].startswith("b")
    return {"person": person, "camera": int(match["camera"]), "black": black}


def _black_person(label: str) -> str | None:
    """The number that a label of query or gallery means; None where it has none."""
    match = re.fullmatch(r"b[^_]*_(\d+)(?:_.*)?|(\d+)", label, re.ASCII)
    return str(int(match[1] or match[2])) if match else None
