"""MSMT17 (Wei et al., Person Transfer GAN, CVPR 2018, arXiv:1711.08565), versions 1 and 2."""

import re
from pathlib import Path

from reid_index.errors import BadSource

from .records import Listing, Part, Record, check_pictures, read_lines

_FOLDERS = {1: ("train", "test"), 2: ("mask_train_v2", "mask_test_v2")}
_LINE = re.compile(r"^(?P<path>\S.*?)\s+(?P<person>\d+)$", re.ASCII)
_CAMERA = re.compile(r"^[^_]+_[^_]+_(?P<camera>\d{1,9})(?:_|\.)", re.ASCII)
"""`0000_000_01_0303morning_0008_0.jpg`: the third field of the name, never of the folder's."""


def read_msmt17(folder: Path, *, version: int) -> Listing:
    """The folder, or `MSMT17_V1` or `_V2` in it, with list_query.txt, list_gallery.txt and, if
    they are there, list_train.txt and list_val.txt, which both are `train`.

    Lines are `PATH PERSON`, the path within train and test (version 1) or mask_train_v2 and
    mask_test_v2 (version 2). Person 0 is a person here, and train and test both count from 0, so
    that a number in one is somebody else in the other. Raises BadSource.
    """
    train, test = _FOLDERS[version]
    inner = folder / f"MSMT17_V{version}"
    root = inner if inner.is_dir() else folder
    layout = f"msmt17-v{version} is a folder with list_query.txt, list_gallery.txt and {test}"
    lists = [name for name in ("train", "val") if (root / f"list_{name}.txt").exists()]
    trained = [_part(root, train, name, layout=layout) for name in lists]
    return Listing(
        root=root,
        query=_part(root, test, "query", layout=layout),
        gallery=_part(root, test, "gallery", layout=layout),
        train=Part([one for part in trained for one in part.records]) if trained else None,
        columns={},
    )


def _part(root: Path, folder: str, name: str, *, layout: str) -> Part:
    path = root / f"list_{name}.txt"
    records = []
    for number, line in enumerate(read_lines(path, layout=layout), start=1):
        match = _LINE.match(line)
        camera = match and _CAMERA.match(match["path"].rpartition("/")[2])
        if not match or not camera:
            raise BadSource(
                f"{path}, entry {number}: {line!r} is no path and person "
                "(0000/0000_000_01_0303morning_0008_0.jpg 0)"
            )
        columns = {"person": match["person"], "camera": int(camera["camera"])}
        records.append(Record((f"{folder}/{match['path']}",), columns))
    part = Part(records)
    check_pictures(root, part, listed_in=path)
    return part
