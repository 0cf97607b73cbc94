"""Video datasets of two cameras, each person a folder of frames in either: iLIDS-VID, PRID 2011.

Half of the persons are for testing: camera 1 is the query, camera 2 the gallery. Both halves
change from split to split.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from reid_index.errors import BadSource, UsageError
from reid_index.reading import read_json

from .matlab import read_mat
from .records import (
    Listing,
    Part,
    Record,
    first_of,
    need,
    picture_names,
    shuffled,
)

_SHARED = 200
_LONGER_THAN = 21


def read_ilids_vid(folder: Path, *, split: int) -> Listing:
    """iLIDS-VID (Wang et al., Person Re-Identification by Video Ranking, ECCV 2014).

    Frames: `sequences/cam1/personNNN/*.png` and cam2, in the folder or in i-LIDS-VID in it. Splits:
    `train_test_splits_ilidsvid.mat`, in the folder or in "train-test people splits" in it, whose
    ls_set (10, persons) numbers the sorted persons from 1: the first half of a row is to test on,
    the second to train on. Without it the test half is the first persons in the order of the
    SHA-256 of "SPLIT PERSON": repeatable, but not the published splits.

    Raises BadSource, UsageError for a split that the file does not have.
    """
    layout = "ilids-vid is a folder with i-LIDS-VID/sequences/cam1 and cam2"
    inner = [folder / "i-LIDS-VID" / "sequences", folder / "sequences"]
    sequences = first_of(inner, layout=layout)
    cameras = [need(sequences / name, layout=layout) for name in ("cam1", "cam2")]
    persons, others = (_folders(camera) for camera in cameras)
    if persons != others:
        single = sorted(set(persons) ^ set(others))[0]
        raise BadSource(f"{sequences}: {single} is in one of cam1 and cam2; put it into both")
    name = "train_test_splits_ilidsvid.mat"
    places = [folder / "train-test people splits" / name, folder / name]
    path = next((place for place in places if place.exists()), None)
    if path is None:
        return _listing(folder, cameras, *_seeded_halves(persons, split))
    (table,) = read_mat(path, "ls_set", layout=layout)
    if table.ndim != 2 or not np.array_equal(
        np.sort(table, axis=1), np.tile(np.arange(1, len(persons) + 1), (len(table), 1))
    ):
        raise BadSource(f"{path}: a row of ls_set does not number the {len(persons)} persons")
    _check_split(split, len(table), path)
    order = [persons[number - 1] for number in table[split].astype(int)]
    half = len(order) // 2
    return _listing(folder, cameras, order[:half], order[half:])


def read_prid2011(folder: Path, *, split: int) -> Listing:
    """PRID 2011 (Hirzer et al., Person Re-identification by Descriptive and Discriminative
    Classification, SCIA 2011), multi-shot.

    Frames: `multi_shot/cam_a/person_NNNN/*.png` and cam_b, in the folder or in prid_2011 in it.
    Persons 1 to 200 are the same in both; beyond, equal numbers are different people. As is widely
    done, of these only the persons with more than 21 frames in both cameras are used. Splits:
    `splits_prid2011.json`, in the folder, a list of objects with the folder names `train` and
    `test`. Without it halves are made as for iLIDS-VID.

    Raises BadSource, UsageError for a split that the file does not have.
    """
    layout = "prid2011 is a folder with multi_shot/cam_a and cam_b"
    inner = [folder / "prid_2011" / "multi_shot", folder / "multi_shot"]
    shots = first_of(inner, layout=layout)
    cameras = [need(shots / name, layout=layout) for name in ("cam_a", "cam_b")]
    path = folder / "splits_prid2011.json"
    both = set(_folders(cameras[0])) & set(_folders(cameras[1]))
    if path.exists():
        test, train = _json_halves(path, split)
        for person in (*test, *train):
            if person not in both:
                raise BadSource(f"{path}: {person!r} is no folder of both {shots}/cam_a and cam_b")
        return _listing(folder, cameras, test, train)
    shared = {f"person_{number:04d}" for number in range(1, _SHARED + 1)} & both
    persons = [
        person
        for person in sorted(shared)
        if min(len(picture_names(camera / person)) for camera in cameras) > _LONGER_THAN
    ]
    return _listing(folder, cameras, *_seeded_halves(persons, split))


def _folders(camera: Path) -> list[str]:
    try:
        paths = [path for path in camera.iterdir() if path.is_dir()]
    except OSError as error:
        raise BadSource(f"{camera}: the folder cannot be listed: {error.strerror}") from None
    return sorted(path.name for path in paths if not path.name.startswith("."))


def _check_split(split: int, splits: int, path: Path) -> None:
    if split >= splits:
        raise UsageError(f"{path} has the splits 0 to {splits - 1}, not {split}")


def _seeded_halves(persons: Sequence[str], split: int) -> tuple[list[str], list[str]]:
    """Persons to test on and to train on."""
    order = shuffled(persons, seed=split)
    return order[: len(order) // 2], order[len(order) // 2 :]


def _json_halves(path: Path, split: int) -> tuple[list[str], list[str]]:
    try:
        splits = read_json(path)
        _check_split(split, len(splits), path)
        test, train = ([str(name) for name in splits[split][part]] for part in ("test", "train"))
    except UsageError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadSource(
            f"{path}: not a list of objects with the folder names train and test: {error!r}"
        ) from None
    return test, train


def _listing(
    folder: Path, cameras: Sequence[Path], test: Sequence[str], train: Sequence[str]
) -> Listing:
    if not test:
        raise BadSource(f"{cameras[0]}: nobody to test on; more than one person is needed")
    records = [
        {person: _tracklet(folder, path, person, camera=camera) for person in (*test, *train)}
        for camera, path in enumerate(cameras, start=1)
    ]
    query, gallery = (Part([camera[person] for person in sorted(test)]) for camera in records)
    trained = [camera[person] for camera in records for person in sorted(train)]
    return Listing(folder, query, gallery, Part(trained), columns={})


def _tracklet(root: Path, path: Path, person: str, *, camera: int) -> Record:
    prefix = (path / person).relative_to(root).as_posix()
    files = [f"{prefix}/{name}" for name in picture_names(path / person)]
    if not files:
        raise BadSource(f"{path / person}: there is no picture in it; put the frames there")
    return Record(files, {"person": person, "camera": camera, "track": person})
