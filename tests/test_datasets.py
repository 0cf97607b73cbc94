"""Readers of datasets, on tiny folders in the exact layouts: records by value, counts, traps."""

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from extractors.datasets import NAMES, PUBLISHED, differences, open_dataset
from extractors.harvest import harvest
from extractors.pictures import Source
from extractors.stripes import StripesExtractor
from reid_index.errors import BadSource, UsageError
from reid_index.metric import Metric
from reid_index.store.shard import open_shard

DATA = Path(__file__).parents[1].parent / "shared" / "data"


def draw(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 8), 128).save(folder / name)
    return folder


def touch(folder: Path, *names: str) -> Path:
    """Readers open no picture, so that where hundreds are needed they may be empty."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def rows(source: Source | None, *names: str) -> list[tuple[Any, ...]]:
    """(path, *columns) of each person; the files must lie below the root and be counted."""
    assert source is not None
    found = []
    for picture in source.pictures():
        assert picture.path == source.root / picture.source
        assert picture.path.exists()
        (person,) = picture.people
        found.append((picture.source, *(person.columns.get(name) for name in names)))
    assert source.count == len(found)
    return found


MARKET = (
    "query/0002_c3s1_000451_00.jpg",
    "bounding_box_test/0002_c12s2_000500_01.jpg",
    "bounding_box_test/0000_c1s1_000100_02.jpg",
    "bounding_box_test/-1_c1s1_000200_03.jpg",
    "bounding_box_train/0007_c4s3_000300_04.jpg",
)


def test_market_records_by_value_under_a_misleading_path(tmp_path: Path) -> None:
    root = draw(tmp_path / "2020_c1" / "0005_c9", *MARKET)
    (root / "query" / "Thumbs.db").touch()
    (root / "readme.txt").touch()
    dataset = open_dataset(root, "market1501")
    names = ("person", "camera", "role", "sequence", "frame_first", "frame_last")
    assert rows(dataset.query, *names) == [(MARKET[0], "0002", 3, None, 1, 451, 451)]
    assert rows(dataset.gallery, *names) == [
        (MARKET[2], None, 1, "distractor", 1, 100, 100),
        (MARKET[1], "0002", 12, None, 2, 500, 500),
    ]
    assert rows(dataset.train, *names) == [(MARKET[4], "0007", 4, None, 3, 300, 300)]
    assert dataset.gallery.left_out == {"junk (person -1)": 1}
    assert dataset.found == {
        "train": 1,
        "query": 1,
        "gallery": 2,
        "bounding_box_test": 3,
        "junk": 1,
        "gallery distractors": 1,
        "train persons": 1,
        "query persons": 1,
        "gallery persons": 1,
        "cameras": 4,
        "answerable queries": 1,
    }
    lines = differences(dataset)
    assert len(lines) == len(PUBLISHED["market1501"])
    assert "market1501: 2 gallery, published are 15,913" in lines


def test_the_same_camera_answers_nothing_and_equal_counts_are_no_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw(tmp_path, "query/0002_c3_f1.jpg", "bounding_box_test/0002_c3_f2.jpg")
    monkeypatch.setitem(
        PUBLISHED, "market1501", {"train": 0, "query": 1, "gallery": 1, "answerable queries": 0}
    )
    dataset = open_dataset(tmp_path, "market1501")
    assert dataset.train is None
    assert differences(dataset) == []


def test_a_source_can_be_harvested(tmp_path: Path) -> None:
    dataset = open_dataset(draw(tmp_path / "m", *MARKET), "market1501")
    run = harvest(dataset.gallery, StripesExtractor(), tmp_path / "out", metric=Metric.COSINE)
    (part,) = run.parts
    items = open_shard(part).items
    assert items["person"].to_pylist() == [None, "0002"]
    assert items["role"].to_pylist() == ["distractor", None]


def test_duke_and_cuhk03_np_in_the_market_layout(tmp_path: Path) -> None:
    duke = draw(
        tmp_path / "duke", "query/0001_c2_f0046182.jpg", "bounding_box_test/0001_c8_f0000001.jpg"
    )
    names = ("person", "camera", "frame_first")
    assert rows(open_dataset(duke, "dukemtmc").query, *names) == [
        ("query/0001_c2_f0046182.jpg", "0001", 2, 46182)
    ]
    for kind, person in (("labeled", "0011"), ("detected", "0022")):
        draw(
            tmp_path / "np" / kind,
            f"query/{person}_c1_1.png",
            f"bounding_box_test/{person}_c2_7.png",
        )
    for kind, person in (("labeled", "0011"), ("detected", "0022")):
        found = open_dataset(tmp_path / "np", f"cuhk03-np-{kind}").gallery
        assert rows(found, "person", "camera") == [
            (f"bounding_box_test/{person}_c2_7.png", person, 2)
        ]
    direct = open_dataset(tmp_path / "np" / "labeled", "cuhk03-np-labeled")
    assert [row[1] for row in rows(direct.query, "person")] == ["0011"]


def cell(*names: str) -> np.ndarray:
    """A MATLAB cell of strings, (n, 1)."""
    array = np.empty((len(names), 1), object)
    array[:, 0] = names
    return array


def test_cuhk03_np_from_its_mat_file(tmp_path: Path) -> None:
    files = ("1_001_1_01.png", "1_001_2_06.png", "2_001_1_02.png", "5_013_2_10.png")
    draw(tmp_path / "images_detected", *files)
    config = {
        "filelist": cell(*files),
        "labels": np.array([[1], [1], [844], [1467]], np.uint16),
        "train_idx": np.array([[4]], np.uint16),
        "query_idx": np.array([[1], [3]], np.uint16),
        "gallery_idx": np.array([[2]], np.uint16),
    }
    path = tmp_path / "cuhk03_new_protocol_config_detected.mat"
    savemat(path, config)
    dataset = open_dataset(tmp_path, "cuhk03-np-detected")
    names = ("person", "camera", "camera_pair")
    assert rows(dataset.query, *names) == [
        ("images_detected/1_001_1_01.png", "0001", 1, 1),
        ("images_detected/2_001_1_02.png", "0844", 1, 2),
    ]
    assert rows(dataset.gallery, *names) == [("images_detected/1_001_2_06.png", "0001", 2, 1)]
    assert rows(dataset.train, *names) == [("images_detected/5_013_2_10.png", "1467", 2, 5)]
    savemat(path, {**config, "query_idx": np.array([[0]], np.uint16)})
    with pytest.raises(BadSource, match="an index is outside 1 to 4"):
        open_dataset(tmp_path, "cuhk03-np-detected")
    del config["gallery_idx"]
    savemat(path, config)
    words = "no variable 'gallery_idx', it holds filelist, labels, query_idx, train_idx"
    with pytest.raises(BadSource, match=words):
        open_dataset(tmp_path, "cuhk03-np-detected")


def persons(source: Source | None) -> set[str]:
    return {person for _, person in rows(source, "person")}


def test_cuhk03_classic_with_and_without_the_published_splits(tmp_path: Path) -> None:
    names = [f"{1 + n % 5}_{n:03d}_{view}_0{view}.png" for n in range(1, 104) for view in (1, 2)]
    root = touch(tmp_path / "cuhk03" / "images_labeled", *names)
    everybody = {name[:5] for name in names}
    first, again, other = (open_dataset(root, "cuhk03-classic", split=s) for s in (0, 0, 19))
    order = sorted(everybody, key=lambda name: hashlib.sha256(f"0 {name}".encode()).digest())
    assert persons(first.query) == persons(again.query) == set(order[:100])
    assert persons(other.query) != persons(first.query)
    assert rows(first.query) == rows(first.gallery)
    assert persons(first.train) == everybody - persons(first.query)
    assert first.found == {"train persons": 3, "query persons": 100, "gallery persons": 100}

    with h5py.File(tmp_path / "cuhk03" / "cuhk-03.mat", "w") as file:
        file["one"], file["two"] = np.array([[2.0], [1.0]]), np.array([[3.0, 4.0], [2.0, 3.0]])
        references = [[file["one"].ref, file["two"].ref]]
        file.create_dataset("testsets", data=references, dtype=h5py.ref_dtype)
    published = open_dataset(root, "cuhk03-classic", split=1)
    assert rows(published.query, "person", "camera", "camera_pair") == [
        ("3_002_1_01.png", "3_002", 1, 3),
        ("3_002_2_02.png", "3_002", 2, 3),
        ("4_003_1_01.png", "4_003", 1, 4),
        ("4_003_2_02.png", "4_003", 2, 4),
    ]
    with pytest.raises(BadSource, match="its testsets cannot be read"):
        open_dataset(root, "cuhk03-classic", split=2)


def test_msmt17_takes_the_camera_from_the_name_and_person_0_for_a_person(tmp_path: Path) -> None:
    for version, folders in ((1, ("train", "test")), (2, ("mask_train_v2", "mask_test_v2"))):
        root = tmp_path / "a_b_99_c" / f"MSMT17_V{version}"
        name = "x_y_77/0000_000_12_0303morning_0008_0.jpg"
        draw(root / folders[1], name, "0001/0001_001_15_0303noon_0001_1.jpg")
        draw(root / folders[0], "0000/0000_000_01_0303morning_0008_0.jpg", "0003/0003_000_02_x.jpg")
        lists = {
            "query": f"{name} 0\n",
            "gallery": "0001/0001_001_15_0303noon_0001_1.jpg 1\n\n",
            "train": "0000/0000_000_01_0303morning_0008_0.jpg 0\n",
            "val": "0003/0003_000_02_x.jpg 3\n",
        }
        for part, text in lists.items():
            (root / f"list_{part}.txt").write_text(text)
        for folder in (root, root.parent):
            dataset = open_dataset(folder, f"msmt17-v{version}")
            columns = ("person", "camera", "role")
            assert rows(dataset.query, *columns) == [(f"{folders[1]}/{name}", "0", 12, None)]
            assert [row[1:] for row in rows(dataset.gallery, *columns)] == [("1", 15, None)]
            assert [row[1:] for row in rows(dataset.train, *columns)] == [
                ("0", 1, None),
                ("3", 2, None),
            ]
    (root / "list_query.txt").write_text("0001/0001_001_15_0303noon_0001_1.jpg\n")
    with pytest.raises(BadSource, match=r"entry 1: .* is no path and person"):
        open_dataset(root, "msmt17-v2")
    (root / "list_query.txt").write_text("0009/0009_001_15_x.jpg 9\n")
    with pytest.raises(BadSource, match=r"names .*mask_test_v2/0009/0009_001_15_x.jpg, which is"):
        open_dataset(root, "msmt17-v2")


def mars(folder: Path, *, queries: Sequence[int] = (1, 5)) -> Path:
    """Tracklets of test: person 2 in cameras 1 and 3, the latter twice, distractor, person 4 in
    cameras 1 and 2, of which the second is a query, too, and junk. Queries: rows of them."""
    tracks = [
        ("0002", 1, 1, 2),
        ("0002", 3, 2, 3),
        ("0002", 3, 1, 2),
        ("0000", 6, 1, 2),
        ("0004", 1, 1, 2),
        ("0004", 2, 1, 2),
        ("00-1", 2, 1, 3),
    ]
    names: list[str] = []
    table = []
    for track, (person, camera, first, last) in enumerate(tracks, start=1):
        frames = range(first, last + 1)
        start = len(names) + 1
        names += [f"{person}C{camera}T{track:04d}F{frame:03d}.jpg" for frame in frames]
        table.append((start, len(names), int(person[-2:]), camera))
    draw(folder / "bbox_test", *(f"{name[:4]}/{name}" for name in names))
    (folder / "info").mkdir(exist_ok=True)
    (folder / "info" / "test_name.txt").write_text("".join(f"{name}\n" for name in names))
    save = {"track_test_info": np.array(table, np.int32)}
    savemat(folder / "info" / "tracks_test_info.mat", save)
    rows_of = np.array([queries], np.uint16)
    savemat(folder / "info" / "query_IDX.mat", {"query_IDX": rows_of})
    return folder


def tracks_of(source: Source | None) -> list[str]:
    """The tracks of a source, in order."""
    return list(dict.fromkeys(track for _, track in rows(source, "track")))


def test_mars_in_both_protocols(tmp_path: Path) -> None:
    root = mars(tmp_path / "0001C9T0001F001", queries=(1, 5, 6))
    official, common = (open_dataset(root, f"mars-{name}") for name in ("official", "torchreid"))
    names = ("person", "camera", "role", "track", "frame_first", "frame_last")
    assert rows(official.query, *names) == [
        ("bbox_test/0002/0002C1T0001F001.jpg", "0002", 1, None, "1", 1, 1),
        ("bbox_test/0002/0002C1T0001F002.jpg", "0002", 1, None, "1", 2, 2),
        ("bbox_test/0004/0004C1T0005F001.jpg", "0004", 1, None, "5", 1, 1),
        ("bbox_test/0004/0004C1T0005F002.jpg", "0004", 1, None, "5", 2, 2),
        ("bbox_test/0004/0004C2T0006F001.jpg", "0004", 2, None, "6", 1, 1),
        ("bbox_test/0004/0004C2T0006F002.jpg", "0004", 2, None, "6", 2, 2),
    ]
    assert rows(common.query, *names) == rows(official.query, *names)
    assert tracks_of(official.gallery) == ["1", "2", "3", "4", "5", "6"]
    assert rows(common.gallery, *names) == [
        ("bbox_test/0002/0002C3T0002F002.jpg", "0002", 3, None, "2", 2, 2),
        ("bbox_test/0002/0002C3T0002F003.jpg", "0002", 3, None, "2", 3, 3),
        ("bbox_test/0002/0002C3T0003F001.jpg", "0002", 3, None, "3", 1, 1),
        ("bbox_test/0002/0002C3T0003F002.jpg", "0002", 3, None, "3", 2, 2),
        ("bbox_test/0000/0000C6T0004F001.jpg", None, 6, "distractor", "4", 1, 1),
        ("bbox_test/0000/0000C6T0004F002.jpg", None, 6, "distractor", "4", 2, 2),
    ]
    assert common.gallery.left_out == {"junk (person -1)": 3}
    counts = {
        "train tracklets": 0,
        "query tracklets": 3,
        "query persons": 2,
        "test tracklets": 7,
        "junk tracklets": 1,
        "gallery distractors": 1,
        "train frames": 0,
        "test frames": 15,
        "cameras": 4,
    }
    assert official.found == {**counts, "gallery tracklets": 6, "answerable queries": 3}
    assert common.found == {**counts, "gallery tracklets": 3, "answerable queries": 1}


def test_mars_train(tmp_path: Path) -> None:
    root = mars(tmp_path)
    names = ["0001C1T0001F001.jpg", "00-1C6T0002F001.jpg", "0003C6T0001F001.jpg"]
    draw(root / "bbox_train", *(f"{name[:4]}/{name}" for name in names))
    (root / "info" / "train_name.txt").write_text("\n".join(names))
    table = np.array([[1, 1, 1, 1], [2, 2, -1, 6], [3, 3, 3, 6]], np.int32)
    savemat(root / "info" / "tracks_train_info.mat", {"track_train_info": table})
    dataset = open_dataset(root, "mars-official")
    assert rows(dataset.train, "person", "camera", "track") == [
        ("bbox_train/0001/0001C1T0001F001.jpg", "0001", 1, "1"),
        ("bbox_train/0003/0003C6T0001F001.jpg", "0003", 6, "3"),
    ]
    assert (dataset.found["train tracklets"], dataset.found["train frames"]) == (2, 3)


def test_mars_lists_that_do_not_belong_together(tmp_path: Path) -> None:
    with pytest.raises(BadSource, match=r"rows are not within the 7 of tracks_test_info\.mat"):
        open_dataset(mars(tmp_path, queries=(8,)), "mars-official")
    lines = (mars(tmp_path) / "info" / "test_name.txt").read_text().splitlines()
    (tmp_path / "info" / "test_name.txt").write_text("\n".join(lines[1:]))
    with pytest.raises(BadSource, match=r"row 1: lines 1 to 2 of test_name\.txt are not one"):
        open_dataset(tmp_path, "mars-official")


def test_ilids_vid(tmp_path: Path) -> None:
    folders = ("person001", "person004", "person319", "person320")
    draw(
        tmp_path / "i-LIDS-VID" / "sequences",
        *(
            f"cam{camera}/{person}/cam{camera}_{person}_{frame:05d}.png"
            for camera in (1, 2)
            for person in folders
            for frame in (317, 318)
        ),
    )
    seeded = open_dataset(tmp_path, "ilids-vid", split=3)
    order = sorted(folders, key=lambda name: hashlib.sha256(f"3 {name}".encode()).digest())
    assert persons(seeded.query) == persons(seeded.gallery) == set(order[:2])

    splits = tmp_path / "train-test people splits"
    splits.mkdir()
    ls_set = np.array([[1, 2, 3, 4], [4, 2, 3, 1]], np.uint16)
    savemat(splits / "train_test_splits_ilidsvid.mat", {"ls_set": ls_set})
    dataset = open_dataset(tmp_path, "ilids-vid", split=1)
    names = ("person", "camera", "track", "frame_first")
    base = "i-LIDS-VID/sequences"
    assert rows(dataset.query, *names) == [
        (f"{base}/cam1/{person}/cam1_{person}_00{frame}.png", person, 1, person, frame)
        for person in ("person004", "person320")
        for frame in (317, 318)
    ]
    assert rows(dataset.gallery, *names)[0] == (
        f"{base}/cam2/person004/cam2_person004_00317.png",
        "person004",
        2,
        "person004",
        317,
    )
    train = dict.fromkeys(row[1:] for row in rows(dataset.train, "camera", "person"))
    everybody = [(camera, person) for camera in (1, 2) for person in ("person001", "person319")]
    assert list(train) == everybody
    assert (dataset.found["query tracklets"], dataset.found["train persons"]) == (2, 2)
    with pytest.raises(UsageError, match=r"ilidsvid\.mat has the splits 0 to 1, not 2"):
        open_dataset(tmp_path, "ilids-vid", split=2)
    savemat(splits / "train_test_splits_ilidsvid.mat", {"ls_set": ls_set - 1})
    with pytest.raises(BadSource, match="a row of ls_set does not number the 4 persons"):
        open_dataset(tmp_path, "ilids-vid")


def test_prid2011_uses_long_tracklets_of_the_shared_persons(tmp_path: Path) -> None:
    frames = {
        ("a", 1): 22,
        ("b", 1): 22,
        ("a", 2): 21,
        ("b", 2): 40,
        ("a", 200): 30,
        ("b", 200): 22,
    }
    frames |= {("a", 201): 30, ("b", 201): 30, ("a", 3): 30, ("b", 4): 30}
    for (camera, person), count in frames.items():
        folder = tmp_path / "prid_2011" / "multi_shot" / f"cam_{camera}" / f"person_{person:04d}"
        touch(folder, *(f"{frame:04d}.png" for frame in range(1, count + 1)))
    seeded = open_dataset(tmp_path, "prid2011")
    assert persons(seeded.query) | persons(seeded.train) == {"person_0001", "person_0200"}
    assert (seeded.query.count, seeded.gallery.count) in {(22, 22), (30, 22)}

    splits = [{"train": ["person_0001"], "test": ["person_0200", "person_0002"]}]
    path = tmp_path / "splits_prid2011.json"
    path.write_text(json.dumps(splits))
    dataset = open_dataset(tmp_path, "prid2011")
    names = ("person", "camera", "track", "frame_first")
    assert rows(dataset.query, *names)[20:22] == [
        (f"prid_2011/multi_shot/cam_a/{person}/{frame:04d}.png", person, 1, person, frame)
        for person, frame in (("person_0002", 21), ("person_0200", 1))
    ]
    assert (dataset.query.count, dataset.gallery.count) == (51, 62)
    assert {camera for _, camera in rows(dataset.gallery, "camera")} == {2}
    for text in ('[{"train": []}]', "[", '[{"test": ["person_0003"], "train": []}]'):
        path.write_text(text)
        with pytest.raises(BadSource, match=r"splits_prid2011\.json: "):
            open_dataset(tmp_path, "prid2011")


def test_black_reid_names(tmp_path: Path) -> None:
    root = draw(
        tmp_path / "b_1_c1",
        "query/b_0012_c12_7.jpg",
        "gallery/0012_c3_001.jpg",
        "gallery/b_0100_c0_1.jpg",
        "train/b_0012_c1_1.jpg",
        "train/0012_c2_1.png",
    )
    dataset = open_dataset(root, "black-reid")
    names = ("person", "camera", "black")
    assert rows(dataset.query, *names) == [("query/b_0012_c12_7.jpg", "12", 12, True)]
    assert rows(dataset.gallery, *names) == [
        ("gallery/0012_c3_001.jpg", "12", 3, False),
        ("gallery/b_0100_c0_1.jpg", "100", 0, True),
    ]
    assert rows(dataset.train, *names) == [
        ("train/0012_c2_1.png", "0012", 2, False),
        ("train/b_0012_c1_1.jpg", "b_0012", 1, True),
    ]
    draw(root, "query/b0012_c1_1.jpg")
    with pytest.raises(BadSource, match=r"b0012_c1_1\.jpg: the name is not one of Black-reID"):
        open_dataset(root, "black-reid")


def test_csv(tmp_path: Path) -> None:
    draw(tmp_path / "crops", "a.png", "b.png", "c.png", "d.png")
    path = tmp_path / "lists.d" / "split.csv"
    path.parent.mkdir()
    path.write_text(
        "file,person,camera,split,role,floor\n"
        "../crops/a.png,007,1,query,,2\n"
        "../crops/b.png,007,2,gallery,,3\n"
        "../crops/c.png,,2,gallery,distractor,\n"
        "../crops/d.png,008,1,train,,1\n"
    )
    dataset = open_dataset(path, "csv")
    names = ("person", "camera", "role", "floor")
    assert dataset.query.root == tmp_path
    assert rows(dataset.query, *names) == [("crops/a.png", "007", 1, None, 2)]
    assert rows(dataset.gallery, *names) == [
        ("crops/b.png", "007", 2, None, 3),
        ("crops/c.png", None, 2, "distractor", None),
    ]
    assert rows(dataset.train, *names) == [("crops/d.png", "008", 1, None, 1)]
    assert (dataset.found, dataset.published, differences(dataset)) == ({}, {}, [])
    for text, words in (
        ("file,person\na.png,1\n", "there is no column `split`"),
        ("file,split\na.png,test\n", "a.png has the split 'test'; say query, gallery or train"),
        ("file,split\na.png,query\n", "no row has the split 'gallery'"),
    ):
        path.write_text(text)
        with pytest.raises(BadSource, match=words):
            open_dataset(path, "csv")


def test_the_development_split_of_market1501() -> None:
    path = DATA / "market1501" / "dev-split.csv"
    if not path.exists():
        pytest.skip("the research data (../shared/data/market1501) is not here")
    dataset = open_dataset(path, "csv")
    assert (dataset.query.count, dataset.gallery.count) == (1_076, 3_218)
    assert dataset.train is not None
    assert dataset.train.count == 8_642


@pytest.mark.parametrize("name", NAMES)
def test_what_is_missing_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadSource, match=f"^{tmp_path}/gone: there is no such .*{name}"):
        open_dataset(tmp_path / "gone", name)
    expected = re.compile(rf"^{tmp_path}.*(there is no such file or folder; |is a list|persons)")
    with pytest.raises(BadSource, match=expected) as caught:
        open_dataset(tmp_path, name)
    assert name.removesuffix("-official").removesuffix("-torchreid") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_wrong_names_and_splits(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no dataset 'market'; there are market1501, du"):
        open_dataset(tmp_path, "market")
    with pytest.raises(UsageError, match="market1501 has one split, 0, not 1"):
        open_dataset(tmp_path, "market1501", split=1)
    with pytest.raises(UsageError, match="prid2011 has the splits 0 to 9, not -1"):
        open_dataset(tmp_path, "prid2011", split=-1)


def test_files_that_are_not_what_they_are_called(tmp_path: Path) -> None:
    mars(tmp_path)
    (tmp_path / "info" / "query_IDX.mat").write_bytes(b"not a MATLAB file at all" * 20)
    with pytest.raises(BadSource, match=r"query_IDX\.mat: not a MATLAB file up to version 7"):
        open_dataset(tmp_path, "mars-official")
    draw(tmp_path, "query/me.jpg")
    with pytest.raises(BadSource, match=r"query/me\.jpg: the name is not Market-style"):
        open_dataset(tmp_path, "market1501")
