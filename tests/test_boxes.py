"""Boxes from COCO, MOTChallenge and CSV files, and the crops they cut, against values by hand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from extractors.boxes import Box, boxes_by_source, crop_box, read_boxes
from reid_index.errors import BadSource, UnreadableImage

IMAGES = [{"id": 1, "file_name": "hall/a.jpg"}, {"id": "b", "file_name": ".\\hall\\b.jpg"}]


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def coco(folder: Path, annotations: list[Any], *, name: str = "boxes.json", **more: Any) -> Path:
    return write(
        folder, name, json.dumps({"images": IMAGES, "annotations": annotations} | more, indent=1)
    )


def frames(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()


def test_coco_takes_persons_that_are_no_crowd(tmp_path: Path) -> None:
    path = coco(
        tmp_path,
        [
            {"image_id": "b", "bbox": [1, 2.5, 3, 4], "category_id": 4, "track_id": 12},
            {"image_id": 1, "bbox": [0, 0, 9, 9], "category_id": 3},
            {"image_id": 1, "bbox": [0, 0, 9, 9], "category_id": 4, "iscrowd": 1},
            {
                "image_id": 1,
                "bbox": [-1, 0, 2, 2],
                "category_id": 4,
                "iscrowd": 0,
                "attributes": {"track_id": "t5"},
            },
        ],
        categories=[{"id": 3, "name": "car"}, {"id": 4, "name": "Person"}],
    )
    assert read_boxes(path, pictures=tmp_path) == [
        Box(source="hall/b.jpg", x=1.0, y=2.5, width=3.0, height=4.0, track="12"),
        Box(source="hall/a.jpg", x=-1.0, y=0.0, width=2.0, height=2.0, track="t5"),
    ]


def test_coco_without_person_category_takes_all(tmp_path: Path) -> None:
    annotations = [
        {"image_id": 1, "bbox": [0, 0, 1, 1], "category_id": 1},
        {"image_id": 1, "bbox": [5, 0, 1, 1]},
    ]
    path = coco(tmp_path, annotations, name="boxes.txt", categories=[{"id": 1, "name": "face"}])
    assert [box.x for box in read_boxes(path, pictures=tmp_path)] == [0.0, 5.0]


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        ({"image_id": 8, "bbox": [0, 0, 1, 1]}, "image_id 8 is not in images"),
        ({"image_id": True, "bbox": [0, 0, 1, 1]}, "image_id True is not in images"),
        ({"image_id": 1}, "bbox is not 4 numbers"),
        ({"image_id": 1, "bbox": [0, 0, 1]}, "bbox is not 4 numbers"),
        ({"image_id": 1, "bbox": [0, 0, 1, "1"]}, "bbox is not 4 numbers"),
        ({"image_id": 1, "bbox": [0, 0, 1, True]}, "bbox is not 4 numbers"),
        ({"image_id": 1, "bbox": [0, float("nan"), 1, 1]}, "y is nan"),
        ({"image_id": 1, "bbox": [0, 0, float("inf"), 1]}, "width is inf"),
        ({"image_id": 1, "bbox": [10**400, 0, 1, 1]}, "bbox has a number too large"),
        ({"image_id": 1, "bbox": [0, 0, 0, 1]}, "the box is 0.0×1.0 pixels"),
        ({"image_id": 1, "bbox": [0, 0, 1, -2]}, "the box is 1.0×-2.0 pixels"),
        ({"image_id": 1, "bbox": [0, 0, 1, 1], "track_id": [1]}, "track_id is [1]"),
    ],
)
def test_coco_names_the_bad_annotation(
    tmp_path: Path, annotation: dict[str, Any], message: str
) -> None:
    path = coco(tmp_path, [{"image_id": 1, "bbox": [0, 0, 1, 1]}, annotation])
    assert_refused(path, f"{path}, annotations[1]: {message}", pictures=tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"images": [],\n "annotations": }', ", line 2: not JSON"),
        ("file,x,y,w,h", ", line 1: not JSON"),
        ("[1, 2]", ": a JSON list"),
        ('{"images": []}', ": 'annotations' is missing"),
        ('{"images": {}, "annotations": []}', ": 'images' is missing or no list"),
        ('{"images": [3], "annotations": []}', ", images[0]: not an object"),
        ('{"images": [{"id": 1}], "annotations": []}', ", images[0]: no id or no file_name"),
        ("[" * 200_000, ": not a COCO file"),
        ('{"images": ' + "1" * 5000 + "}", ": not a COCO file"),
    ],
)
def test_json_of_another_shape(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, "boxes.json", text)
    assert_refused(path, f"{path}{message}", pictures=tmp_path)


def test_coco_picture_listed_twice(tmp_path: Path) -> None:
    path = coco(tmp_path, [], images=[IMAGES[0], IMAGES[0]])
    assert_refused(path, f"{path}, images[1]: id 1 appears twice", pictures=tmp_path)


def test_mot_ground_truth_shifts_and_leaves_out(tmp_path: Path) -> None:
    frames(tmp_path, "1.PNG", "img1/000002.jpg", "1.txt", "cover.jpg", "②.jpg")
    path = write(
        tmp_path,
        "gt.txt",
        "1,3,1,11.5,20,40,1,1,0.9\r\n"
        "1,4,5,5,5,5,0,1,1\r\n"  # flagged as ignored
        "1,5,5,5,5,5,1,7,1\r\n"  # a static person, class 7
        "\r\n"
        "2, 3, 0, 1, 20, 40, 1, -1, -1\r\n",  # class unknown
    )
    assert read_boxes(path, pictures=tmp_path) == [
        Box(source="1.PNG", x=0.0, y=10.5, width=20.0, height=40.0, track="3", frame=1),
        Box(source="img1/000002.jpg", x=-1.0, y=0.0, width=20.0, height=40.0, track="3", frame=2),
    ]


def test_mot_detections_have_no_track_and_no_class(tmp_path: Path) -> None:
    frames(tmp_path, "000001.jpg")
    # Column 8 of 10 is a world coordinate; DPM's confidences may be negative.
    path = write(tmp_path, "det.txt", "1,-1,3,4,5,6,-0.5,7.5,2,1\n")
    assert read_boxes(path, pictures=tmp_path) == [
        Box(source="000001.jpg", x=2.0, y=3.0, width=5.0, height=6.0, frame=1)
    ]


def test_mot_of_six_columns(tmp_path: Path) -> None:
    frames(tmp_path, "0001.jpg")
    path = write(tmp_path, "det.csv", "1,2.0,3,4,5,6\n")
    assert read_boxes(path, pictures=tmp_path) == [
        Box(source="0001.jpg", x=2.0, y=3.0, width=5.0, height=6.0, track="2", frame=1)
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("2,1,1,1,5,5,1", "frame 2 has no picture"),
        ("3,1,1,1,5,5,1", "frame 3 has 3.jpg and img1/003.jpg"),
        ("0,1,1,1,5,5,1", "frame is 0"),
        ("1.5,1,1,1,5,5,1", "frame is 1.5"),
        ("1,-2,1,1,5,5,1", "id is -2"),
        ("1,1,1,1,5,5", "6 columns, not 7"),
        ("1,1,1,one,5,5,1", "column 4 is 'one'"),
        ("1,1,nan,1,5,5,1", "column 3 is 'nan'"),
        ("1,1,1,1,5,5,inf", "column 7 is 'inf'"),
        ("1,1,1,1,0,5,1", "the box is 0.0×5.0 pixels"),
    ],
)
def test_mot_names_the_bad_line(tmp_path: Path, line: str, message: str) -> None:
    frames(tmp_path, "1.jpg", "3.jpg", "img1/003.jpg")
    path = write(tmp_path, "gt.txt", f"1,1,1,1,5,5,1\n{line}\n")
    assert_refused(path, f"{path}, line 2: {message}", pictures=tmp_path)


def test_mot_of_too_few_columns(tmp_path: Path) -> None:
    path = write(tmp_path, "gt.txt", "1,1,1,1,5\n")
    assert_refused(path, f"{path}, line 1: 5 columns", pictures=tmp_path)


def test_csv_with_all_columns(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "boxes.csv",
        "\ufeffTrack, file,x,y,w,h,frame,person,camera,score\n"
        '7,"hall, left/a.jpg",1.5,2,3,4,0,0002,6.0,n/a\n'
        ",b.jpg,-1,2e1,3,4,,,,\n",
    )
    assert read_boxes(path, pictures=tmp_path) == [
        Box(
            source="hall, left/a.jpg",
            x=1.5,
            y=2.0,
            width=3.0,
            height=4.0,
            track="7",
            frame=0,
            person="0002",
            camera=6,
        ),
        Box(source="b.jpg", x=-1.0, y=20.0, width=3.0, height=4.0),
    ]


@pytest.mark.parametrize("header", ["source,x1,y1,x2,y2", "source,x,y,width,height"])
def test_csv_size_and_corner_columns(tmp_path: Path, header: str) -> None:
    path = write(tmp_path, "boxes.csv", f"{header}\na.jpg,1,2,4,8\n")
    width, height = (3.0, 6.0) if "x2" in header else (4.0, 8.0)
    assert read_boxes(path, pictures=tmp_path) == [
        Box(source="a.jpg", x=1.0, y=2.0, width=width, height=height)
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a.jpg,1,1,5,5", "5 cells, not 6"),
        ("a.jpg,1,,5,5,1", "y is ''"),
        ("a.jpg,1,1,5,5px,1", "h is '5px'"),
        ("a.jpg,1,1,-inf,5,1", "w is '-inf'"),
        ("a.jpg,1,1,5,-5,1", "the box is 5.0×-5.0 pixels"),
        ("a.jpg,1,1,5,5,left", "camera is 'left'"),
        ("a.jpg,1,1,5,5,-1", "camera is -1"),
        ("a.jpg,1,1,5,5,4e9", "camera is 4e9"),
        (",1,1,5,5,1", "'' is no path inside"),
        ("/etc/a.jpg,1,1,5,5,1", "'/etc/a.jpg' is no path inside"),
        ("b/../../a.jpg,1,1,5,5,1", "'b/../../a.jpg' is no path inside"),
        ("..\\a.jpg,1,1,5,5,1", "'..\\\\a.jpg' is no path inside"),
        ("C:a.jpg,1,1,5,5,1", "'C:a.jpg' is no path inside"),
        ("a\0.jpg,1,1,5,5,1", "'a\\x00.jpg' is no path inside"),
        ('"a.jpg,1,1,5,5,1', "not CSV"),
    ],
)
def test_csv_names_the_bad_line(tmp_path: Path, line: str, message: str) -> None:
    path = write(tmp_path, "boxes.csv", f"file,x,y,w,h,camera\n\n{line}")
    assert_refused(path, f"{path}, line 3: {message}", pictures=tmp_path)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("name,x,y,w,h", "'name, x, y, w, h' is no header of boxes"),
        ("file,x,y,w", "'file, x, y, w' is no header of boxes"),
        ("file,x,y,w,h,X", "the header has a column twice"),
    ],
)
def test_csv_header_that_does_not_do(tmp_path: Path, header: str, message: str) -> None:
    path = write(tmp_path, "boxes.csv", f"\n{header}\n")
    assert_refused(path, f"{path}, line 2: {message}", pictures=tmp_path)


def test_coordinates_whose_difference_overflows(tmp_path: Path) -> None:
    path = write(tmp_path, "boxes.csv", "file,x1,y1,x2,y2\na.jpg,-1.7e308,0,1.7e308,1\n")
    assert_refused(path, f"{path}, line 2: width is inf", pictures=tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", ": the file is empty"),
        (b"\xef\xbb\xbf \n\n", ": the file is empty"),
        (b'""', ", line 1: '' is no header of boxes"),
        (b"file,x,y,w,h\na.jpg,1,1,1,1\n\xe9.jpg,1,1,1,1\n", ", line 3: not UTF-8"),
    ],
)
def test_content_that_is_no_text(tmp_path: Path, content: bytes, message: str) -> None:
    path = write(tmp_path, "boxes.csv", content)
    assert_refused(path, f"{path}{message}", pictures=tmp_path)


def test_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "none.csv"
    assert_refused(path, f"{path}: cannot be read (No such file", pictures=tmp_path)


def test_header_alone_is_no_box(tmp_path: Path) -> None:
    path = write(tmp_path, "boxes.csv", "file,x,y,w,h\n")
    assert read_boxes(path, pictures=tmp_path) == []


def test_groups_keep_file_order() -> None:
    b1, a, b2 = (
        Box(source=source, x=x, y=0.0, width=1.0, height=1.0)
        for source, x in [("b.jpg", 2.0), ("a.jpg", 0.0), ("b.jpg", 1.0)]
    )
    assert list(boxes_by_source([b1, a, b2]).items()) == [("b.jpg", [b1, b2]), ("a.jpg", [a])]


@pytest.mark.parametrize(
    ("box", "rows", "columns"),
    [
        ((1, 2, 3, 2), (2, 4), (1, 4)),
        ((1.7, 2.9, 2.0, 0.2), (2, 4), (1, 4)),
        ((-3.5, -2, 4.0, 2.5), (0, 1), (0, 1)),
        ((4.5, 3, 1e308, 9), (3, 5), (4, 6)),
        ((-1e308, 0, 1.7e308, 5), (0, 5), (0, 6)),
        ((0, 0, 6, 5), (0, 5), (0, 6)),
    ],
)
def test_crop_is_a_clipped_copy(
    box: tuple[float, float, float, float], rows: tuple[int, int], columns: tuple[int, int]
) -> None:
    image = np.arange(5 * 6 * 3, dtype=np.uint8).reshape(5, 6, 3)
    image.flags.writeable = False
    crop = crop_box(image, box)
    np.testing.assert_array_equal(crop, image[slice(*rows), slice(*columns)], strict=True)
    assert crop.flags.c_contiguous
    assert not np.shares_memory(crop, image)


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ((6, 0, 1, 1), r"covers no pixel of the 6×5 picture"),
        ((0, 5, 1, 1), r"covers no pixel of the 6×5 picture"),
        ((-2, 0, 2, 1), r"covers no pixel of the 6×5 picture"),
        ((0, -2.5, 1, 2.5), r"covers no pixel of the 6×5 picture"),
        ((1.5, 1, -0.2, 1), "no area or is not finite"),
        ((1, 1, 1, 0), "no area or is not finite"),
        ((float("nan"), 1, 1, 1), "no area or is not finite"),
        ((1, 1, 1, float("inf")), "no area or is not finite"),
    ],
)
def test_crop_of_nothing(box: tuple[float, float, float, float], message: str) -> None:
    with pytest.raises(UnreadableImage, match=message):
        crop_box(np.zeros((5, 6, 3), dtype=np.uint8), box)


def assert_refused(path: Path, message: str, *, pictures: Path) -> None:
    """The file is refused with one line that starts with message and says what to do."""
    with pytest.raises(BadSource) as caught:
        read_boxes(path, pictures=pictures)
    text = str(caught.value)
    assert text.startswith(message)
    assert "\n" not in text
    assert ";" in text
