"""Sources of pictures: folders, Market-style names, lists and boxes, by value."""

import json
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import no_privileges

from extractors.pictures import MARKET_COLUMNS, Person, Source, find_pictures, parse_market
from extractors.pictures import read_items as read
from reid_index.errors import BadItems, BadSource, ReidIndexError, UsageError
from reid_index.store.items import STANDARD


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def sources(source: Source) -> list[str]:
    return [picture.source for picture in source.pictures()]


def known(source: Source) -> list[dict[str, Any]]:
    """What is known of each person, in order, without what is not."""
    return [
        {name: value for name, value in person.columns.items() if value is not None}
        for picture in source.pictures()
        for person in picture.people
    ]


def listed(folder: Path, text: str | bytes, *, name: str = "list.csv") -> Source:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return find_pictures([path])


def market(**values: Any) -> dict[str, Any]:
    names = ("person", "camera", "frame_first", "frame_last", "sequence", "role")
    return {name: values.get(name) for name in names}


# Folders


def test_plain_folder(tmp_path: Path) -> None:
    touch(tmp_path, "b.JPG", "a/z.png", "a/b/c.webp", "a.tiff", "B.bmp")
    touch(tmp_path, ".hidden.jpg", ".cache/d.jpg", "a/.e/f.jpg", "notes.txt", "a/Thumbs.db")
    source = find_pictures([tmp_path])
    assert sources(source) == ["B.bmp", "a.tiff", "b.JPG", "a/z.png", "a/b/c.webp"]
    assert sources(source) == sources(source)
    first = next(source.pictures())
    assert (first.path, first.people) == (tmp_path / "B.bmp", (Person(),))
    assert (source.root, source.count, source.columns) == (tmp_path, 5, {})
    assert source.left_out == {"no picture by its name": 2}


def test_hidden_folder_that_was_named(tmp_path: Path) -> None:
    assert sources(find_pictures([touch(tmp_path / ".crops", "a.jpg")])) == ["a.jpg"]


def test_single_files_and_several_folders(tmp_path: Path) -> None:
    touch(tmp_path, "day/1/a.jpg", "day/2/b.jpg", "day/2/c.jpg", "other.jpg")
    one = find_pictures([tmp_path / "day/1/a.jpg"])
    assert (one.root, sources(one), one.count) == (tmp_path / "day/1", ["a.jpg"], 1)
    two = find_pictures([tmp_path / "day/2", tmp_path / "day/1/a.jpg"])
    assert (two.root, sources(two)) == (tmp_path / "day", ["2/b.jpg", "2/c.jpg", "1/a.jpg"])


def test_a_picture_named_twice_is_taken_once(tmp_path: Path) -> None:
    touch(tmp_path, "day/1/a.jpg", "day/b.jpg")
    twice = find_pictures([tmp_path / "day/1", tmp_path / "day", tmp_path / "day"])
    assert (sources(twice), twice.count) == (["b.jpg", "1/a.jpg"], 2)


def test_many_single_files_take_linear_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, *(f"{number}.jpg" for number in range(100)))
    paths = [tmp_path / f"{number}.jpg" for number in range(100)]
    hashed = []
    once = Path.__hash__
    monkeypatch.setattr(Path, "__hash__", lambda path: hashed.append(path) or once(path))
    assert find_pictures(paths).count == 100
    assert len(hashed) < 100 * 20 + 100 * len(tmp_path.parents)


def test_relative_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "crops/a.jpg")
    monkeypatch.chdir(tmp_path / "crops")
    source = find_pictures([Path("../crops")])
    assert (source.root, sources(source)) == (tmp_path / "crops", ["a.jpg"])


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    """They are listed like others; extraction skips them with a message."""
    name = os.fsdecode(b"caf\xe9.jpg")
    source = find_pictures([touch(tmp_path, "a.jpg", name)])
    assert (sources(source), source.count) == (["a.jpg", name], 2)


def test_empty_folder(tmp_path: Path) -> None:
    source = find_pictures([tmp_path])
    assert (source.count, sources(source), source.left_out) == (0, [], {})


def test_wrong_paths(tmp_path: Path) -> None:
    with pytest.raises(BadSource, match=f"^{tmp_path}/gone: there is no such file or folder$"):
        find_pictures([tmp_path, tmp_path / "gone"])
    with pytest.raises(UsageError, match=r"^name a folder"):
        find_pictures([])
    with pytest.raises(UsageError, match="no layout 'Market'; there are auto, folder, market"):
        find_pictures([tmp_path], layout="Market")


def test_folder_that_cannot_be_listed(public_path: Path) -> None:
    """Its people would be missing without a word."""
    touch(public_path, "a.jpg", "closed/b.jpg")
    (public_path / "closed").chmod(0)
    words = "closed: the folder cannot be listed: Permission"
    try:
        with no_privileges(), pytest.raises(BadSource, match=words):
            find_pictures([public_path])
    finally:
        (public_path / "closed").chmod(0o700)


# Market-style names


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        (
            "0002_c1s1_000451_03.jpg",
            market(person="0002", camera=1, frame_first=451, frame_last=451, sequence=1),
        ),
        (
            "-1_c3s2_000401_00.jpg",
            market(camera=3, frame_first=401, frame_last=401, sequence=2, role="junk"),
        ),
        (
            "0000_c6s4_002202_01.jpg",
            market(camera=6, frame_first=2202, frame_last=2202, sequence=4, role="distractor"),
        ),
        ("0001_c2_f0046182.jpg", market(person="0001", camera=2, frame_first=46182)),
        ("0005_c12s3_000071_01.jpg", market(person="0005", camera=12, frame_first=71, sequence=3)),
        ("1501_c6.png", market(person="1501", camera=6)),
        ("12_c1_20200101123059123456.jpg", market(person="12", camera=1)),
        ("0002_c1s1_000451_03.jpg.jpg", market(person="0002", camera=1, frame_first=451)),
    ],
)
def test_market_names(name: str, columns: dict[str, Any]) -> None:
    parsed = parse_market(name)
    assert parsed is not None
    assert parsed | {k: v for k, v in columns.items() if v is not None} == parsed
    assert parsed["person"] == columns["person"]
    assert parsed["role"] == columns["role"]
    assert parsed["frame_first"] == parsed["frame_last"] == columns["frame_first"]


@pytest.mark.parametrize(
    "name",
    [
        "person.jpg",
        "2020_c1",
        "0002_c.jpg",
        "0002c1s1_000451_03.jpg",
        "x0002_c1s1_000451_03.jpg",
        "0002_c1s1_000451_03_crop.jpg",
        "12_c20200101123059.jpg",
        "IMG_c1.jpg",
    ],
)
def test_other_names(name: str) -> None:
    assert parse_market(name) is None


def test_market_folder(tmp_path: Path) -> None:
    touch(tmp_path, "0002_c1s1_000451_03.jpg", "0000_c2s1_000001_01.jpg", "Thumbs.db")
    touch(tmp_path, "more/-1_c3s2_000401_00.jpg")
    source = find_pictures([tmp_path])
    assert known(source) == [
        {"camera": 2, "frame_first": 1, "frame_last": 1, "sequence": 1, "role": "distractor"},
        {"person": "0002", "camera": 1, "frame_first": 451, "frame_last": 451, "sequence": 1},
    ]
    assert (source.count, source.columns) == (2, MARKET_COLUMNS)
    assert source.left_out == {"no picture by its name": 1, "junk (person -1)": 1}
    kept = find_pictures([tmp_path], keep_junk=True)
    assert (kept.count, kept.left_out) == (3, {"no picture by its name": 1})
    assert known(kept)[2]["role"] == "junk"
    plain = find_pictures([tmp_path], layout="folder")
    assert (plain.count, known(plain), plain.columns) == (3, [{}, {}, {}], {})
    assert plain.left_out == {"no picture by its name": 1}


def test_names_that_fit_only_partly(tmp_path: Path) -> None:
    touch(tmp_path, "0002_c1s1_000451_03.jpg", "-1_c1s1_000451_03.jpg", "somebody.jpg")
    auto = find_pictures([tmp_path])
    assert (auto.count, known(auto), auto.columns, auto.left_out) == (3, [{}] * 3, {}, {})
    with pytest.raises(BadSource, match=f"^{tmp_path}: 1 names are not Market-style"):
        find_pictures([tmp_path], layout="market")


def test_mars_names(tmp_path: Path) -> None:
    names = ["0001C1T0001F001.jpg", "0001C6T0012F930.jpg", "00-1C1T0001F001.jpg"]
    folder = touch(tmp_path, *(f"{name[:4]}/{name}" for name in [*names, "0000C1T0001F001.jpg"]))
    source = find_pictures([folder])
    nobody = {"camera": 1, "track": "0001", "frame_first": 1, "frame_last": 1}
    distractor = nobody | {"role": "distractor"}
    first = nobody | {"person": "0001"}
    other = {"camera": 6, "track": "0012", "frame_first": 930, "frame_last": 930}
    assert known(source) == [distractor, first, first | other]
    assert (source.count, source.columns) == (3, MARKET_COLUMNS)
    assert source.left_out == {"junk (person -1)": 1}
    kept = find_pictures([folder], layout="mars", keep_junk=True)
    assert known(kept)[0] == nobody | {"role": "junk"}
    assert known(find_pictures([folder], layout="folder")) == [{}] * 4
    touch(folder, "0002_c1s1_000451_03.jpg")
    assert known(find_pictures([folder])) == [{}] * 5
    with pytest.raises(BadSource, match="1 names are not Mars-style"):
        find_pictures([folder], layout="mars")


def test_a_tracklet_alone_is_of_the_camera_whose_folder_it_is_in(tmp_path: Path) -> None:
    touch(tmp_path, "cam7/site/c3/12/f004.jpg", "cam7/site/12/f004.jpg")
    for place, camera in (("site/c3/12", 3), ("site/c3", 3), ("site", 3), ("site/12", None)):
        source = find_pictures([tmp_path / "cam7" / place], layout="tracklets")
        pictures = sorted(source.pictures(), key=lambda picture: str(picture.path), reverse=True)
        assert pictures[0].people[0].columns["camera"] == camera


def test_folders_of_tracklets(tmp_path: Path) -> None:
    touch(tmp_path, "cam1/p01/cam1_p01_00317.png", "cam2/p01/12.png", "x7/3a.png", "none/b.png")
    source = find_pictures([tmp_path], layout="tracklets")
    names = ("track", "camera", "frame_first", "frame_last")
    assert [tuple(one.get(name) for name in names) for one in known(source)] == [
        ("p01", 1, 317, 317),
        ("p01", 2, 12, 12),
        ("none", None, None, None),
        ("x7", None, 3, 3),
    ]
    assert (source.count, source.columns, source.left_out) == (4, {}, {})


def test_folder_names_are_not_parsed(tmp_path: Path) -> None:
    source = find_pictures([touch(tmp_path, "2020_c1/a.jpg", "0002_c1s1_000451_03.jpg/b.jpg")])
    assert known(source) == [{}, {}]


def test_notes_beside_market_pictures_do_not_matter(tmp_path: Path) -> None:
    source = find_pictures([touch(tmp_path, "0002_c1.jpg", "readme.txt", "-1_c1.txt")])
    assert known(source) == [{"person": "0002", "camera": 1}]
    assert source.left_out == {"no picture by its name": 2}


# Lists


def test_csv_list(tmp_path: Path) -> None:
    source = listed(
        tmp_path,
        "\ufeffattr.hat,file,person,camera,start,attr.hat.confidence,zone,weight\r\n"
        "01,in/a.jpg,0002,3,2024-05-06T07:08:09+02:00,0.5,north,1.5\r\n"
        ',"b, c.jpg",,,2024-05-06 07:08:09.5,,,\r\n',
    )
    assert (source.root, source.count) == (tmp_path, 2)
    assert sources(source) == ["in/a.jpg", "b, c.jpg"]
    assert next(source.pictures()).path == tmp_path / "in/a.jpg"
    assert known(source) == [
        {
            "person": "0002",
            "camera": 3,
            "start": datetime(2024, 5, 6, 5, 8, 9, tzinfo=UTC),
            "attr.hat": "01",
            "attr.hat.confidence": 0.5,
            "zone": "north",
            "weight": 1.5,
        },
        {"start": datetime(2024, 5, 6, 7, 8, 9, 500_000, tzinfo=UTC)},
    ]
    assert source.columns == {
        "attr.hat": pa.dictionary(pa.int32(), pa.string()),
        "attr.hat.confidence": pa.float32(),
        "zone": pa.string(),
        "weight": pa.float64(),
    }


def test_rows_of_one_picture_are_its_people(tmp_path: Path) -> None:
    source = listed(tmp_path, "file,x,y,w,h\na.jpg,1,2,3,4\na.jpg,5,6.5,7,8\nb.jpg,0,0,1,1\n")
    assert source.count == 3
    assert [[person.box for person in picture.people] for picture in source.pictures()] == [
        [(1, 2, 3, 4), (5, 6.5, 7, 8)],
        [(0, 0, 1, 1)],
    ]
    assert source.columns == {}


def test_column_source_names_the_picture_too(tmp_path: Path) -> None:
    assert sources(listed(tmp_path, "source\na.jpg\n")) == ["a.jpg"]
    assert sources(listed(tmp_path, "source,file\na.jpg,b.jpg\n")) == ["b.jpg"]


def test_parquet_list(tmp_path: Path) -> None:
    path = tmp_path / "list.parquet"
    box = pa.array([[1, 2, 3, 4], None], pa.list_(pa.float64(), 4))
    pq.write_table(pa.table({"file": ["a.jpg", "b.jpg"], "box": box, "camera": ["1", "2"]}), path)
    source = find_pictures([path])
    assert [p.people[0].box for p in source.pictures()] == [(1, 2, 3, 4), None]
    assert known(source) == [{"camera": 1}, {"camera": 2}]
    pq.write_table(pa.table({"file": ["a.jpg"], "box": [[1, None, 3, 4]]}), path)
    with pytest.raises(
        BadItems, match=f"^{path}: items: column 'box' holds .* four finite numbers"
    ):
        find_pictures([path])


def test_pictures_of_a_list_may_lie_anywhere(tmp_path: Path) -> None:
    """The root is the folder that holds them and the list, so every source is below it."""
    (tmp_path / "lists/today").mkdir(parents=True)
    rows = f"file\n{tmp_path}/crops/a.jpg\n../../crops/./b.jpg\nnear/c.jpg\n"
    source = listed(tmp_path / "lists/today", rows)
    assert source.root == tmp_path
    assert [(picture.source, picture.path) for picture in source.pictures()] == [
        (name, tmp_path / name) for name in ("crops/a.jpg", "crops/b.jpg", "lists/today/near/c.jpg")
    ]
    inside = listed(tmp_path / "lists", f"file\n{tmp_path}/lists/today/a.jpg\n")
    assert (inside.root, sources(inside)) == (tmp_path / "lists", ["today/a.jpg"])


def test_an_empty_name_is_none(tmp_path: Path) -> None:
    path = tmp_path / "list.parquet"
    pq.write_table(pa.table({"file": ["a.jpg", "", None]}), path)
    with pytest.raises(BadSource, match=r"in a column `file`; 2 of 3 do not$"):
        find_pictures([path])


def test_list_of_nothing(tmp_path: Path) -> None:
    assert listed(tmp_path, "file,x,y,w,h\n").count == 0


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("", BadSource, "cannot be read as a table: Empty CSV file"),
        ("person\n1\n2\n", BadSource, "every row names its picture, .* column `file`; 2 of 2 do"),
        ("file\na.jpg\nhttps://x/b.jpg\n", BadSource, "'https://x/b.jpg' is a URI; name a file"),
        ("file,camera\na.jpg,1\n,2\n", BadSource, "every row names its picture.*; 1 of 2 do not"),
        ("file,camera\na.jpg\n", BadSource, "cannot be read as a table: .* Expected 2 columns, go"),
        ("file,camera\na.jpg,1,2\n", BadSource, "cannot be read as a table: .* Expected 2 columns"),
        (b"file,zone\na.jpg,caf\xe9\n", BadSource, "cannot be read as a table: 'utf-8' codec"),
        (b"file,z\n" + b"a,b\n" * 9999 + b"a,\xe9\n", BadItems, "items: column 'z' holds binary"),
        ("file,camera\na.jpg,x\n", BadSource, "cannot be read as a table: .* int32: .*'x'"),
        ("file,start\na.jpg,today\n", BadItems, "items: column 'start' holds string, .*'today'"),
        ("file,zone,zone\na.jpg,1,2\n", BadItems, "items: two columns have the same name"),
        ("file,x,y,w,h\na.jpg,a,1,1,1\n", BadSource, "cannot be read as a table: .* double: .*'a'"),
        ("file,x,y,w,h\na.jpg,,1,1,1\n", BadSource, "a box has an empty x, y, w or h"),
    ],
)
def test_lists_that_cannot_be_used(
    text: str | bytes, kind: type[ReidIndexError], message: str, tmp_path: Path
) -> None:
    with pytest.raises(kind, match=f"^{tmp_path}/list.csv: {message}") as told:
        listed(tmp_path, text)
    assert "\n" not in str(told.value)


def test_parquet_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(BadSource, match=r"list\.parquet: cannot be read as a table"):
        listed(tmp_path, "no Parquet", name="list.parquet")


def test_list_is_taken_alone(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "list.csv")
    with pytest.raises(BadSource, match=r"list\.csv: a list is taken alone"):
        find_pictures([tmp_path, tmp_path / "list.csv"])


def test_read_items_has_the_columns_types(tmp_path: Path) -> None:
    path = tmp_path / "items.csv"
    path.write_text("person,camera,zone\n0002,3,\n,,7\n")
    table = read(path)
    assert table.column_names == [*STANDARD, "zone"]
    assert [table.schema.field(name).type for name in STANDARD] == list(STANDARD.values())
    assert table["person"].to_pylist() == ["0002", None]
    assert table["zone"].to_pylist() == [None, 7]


# Boxes


COCO = json.dumps(
    {
        "images": [{"id": 1, "file_name": "f/000001.jpg"}, {"id": 2, "file_name": "f/000002.jpg"}],
        "annotations": [
            {"image_id": 2, "bbox": [1, 2, 3, 4], "track_id": 7},
            {"image_id": 1, "bbox": [5, 6, 7, 8]},
            {"image_id": 2, "bbox": [0, 0, 1, 1]},
        ],
    }
)
CSV = "file,x,y,w,h,person,camera\nf/000002.jpg,1,2,3,4,0002,5\nf/000001.jpg,5,6,7,8,,\n"
MOT = "1,7,2,3,3,4,1\n2,-1,6,7,7,8,1\n"


@pytest.mark.parametrize(
    ("name", "text", "folder", "people", "columns"),
    [
        (
            "boxes.json",
            COCO,
            ".",
            [
                ("f/000002.jpg", [(1, 2, 3, 4), (0, 0, 1, 1)]),
                ("f/000001.jpg", [(5, 6, 7, 8)]),
            ],
            [{"track": "7"}, {}, {}],
        ),
        (
            "boxes.csv",
            CSV,
            ".",
            [("f/000002.jpg", [(1, 2, 3, 4)]), ("f/000001.jpg", [(5, 6, 7, 8)])],
            [{"person": "0002", "camera": 5}, {}],
        ),
        (
            "boxes.txt",
            MOT,
            "f",
            [("000001.jpg", [(1, 2, 3, 4)]), ("000002.jpg", [(5, 6, 7, 8)])],
            [
                {"track": "7", "frame_first": 1, "frame_last": 1},
                {"frame_first": 2, "frame_last": 2},
            ],
        ),
    ],
)
def test_boxes(
    name: str,
    text: str,
    folder: str,
    people: Sequence[tuple[str, list[tuple[float, ...]]]],
    columns: list[dict[str, Any]],
    tmp_path: Path,
) -> None:
    touch(tmp_path, "f/000001.jpg", "f/000002.jpg", "f/000003.jpg")
    boxes = tmp_path / name
    boxes.write_text(text)
    source = find_pictures([tmp_path / folder], boxes=boxes)
    found = [(picture.source, [one.box for one in picture.people]) for picture in source.pictures()]
    assert found == people
    assert (known(source), source.count) == (columns, len(columns))
    assert [picture.path for picture in source.pictures()] == [
        tmp_path / folder / name for name, _ in people
    ]


def test_boxes_belong_to_one_folder(tmp_path: Path) -> None:
    touch(tmp_path, "a/a.jpg", "b/b.jpg")
    for paths in ([tmp_path / "a", tmp_path / "b"], [tmp_path / "a/a.jpg"]):
        with pytest.raises(BadSource, match="boxes belong to the pictures of one folder"):
            find_pictures(paths, boxes=tmp_path / "boxes.csv")
