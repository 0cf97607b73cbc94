"""A result as table, JSONL and CSV, letter by letter, from vectors made by hand."""

import csv
import json

import numpy as np
import pytest
from cli_world import Sheet, assert_refused, run, succeed

from cli.formats import aligned, as_record, csv_text
from reid_index import Gallery, Match

ITEMS = """\
source,camera,person,track,start,end,start_s,role,rank
"a,b.jpg",1,0001,t1,2024-05-01T12:00:00,2024-05-01T14:00:04+02:00,,probe,9
ü\x1b[31m.jpg,2,0002,,,,3.25,,9
c.jpg,,,,,,,,9
d.jpg,2,0001,,,,,,9
"""

TABLE = """\
rank  item  similarity  camera  person  time                  source
1     0     1.0000      1       0001    2024-05-01T12:00:00Z  a,b.jpg
2     1     0.5000      2       0002    3.2 s                 ü�[31m.jpg
3     2     0.0000      -       -       -                     c.jpg
4     3     -1.0000     2       0001    -                     d.jpg
"""

CSV = """\
rank,item,source,camera,person,track,video,start,end,start_s,end_s,box,similarity,distance,matched_distance,reranked_distance,frame_first,frame_last,role
1,0,"a,b.jpg",1,0001,t1,,2024-05-01T12:00:00Z,2024-05-01T12:00:04Z,,,,1.0,,,,,,probe
2,1,ü\x1b[31m.jpg,2,0002,,,,,3.25,,,0.5,,,,,,
3,2,c.jpg,,,,,,,,,,0.0,,,,,,
4,3,d.jpg,2,0001,,,,,,,,-1.0,,,,,,
"""

HEADER = CSV.splitlines()[0]
COLUMNS = HEADER.split(",")[:-3]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two galleries of four vectors in the plane, and the query (1, 0)."""
    folder = tmp_path_factory.mktemp("plane")
    vectors = np.array([[1, 0], [0.5, 0.5], [0, 1], [-1, 0]], np.float32)
    np.save(folder / "v.npy", vectors)
    np.save(folder / "q.npy", vectors[0])
    (folder / "i.csv").write_text(ITEMS, encoding="utf-8")
    for metric in ("inner_product", "euclidean"):
        succeed(
            *("build", folder / "v.npy", "--items", folder / "i.csv", "--out", folder / metric),
            *("--extractor", "external:plane", "--metric", metric),
        )
    return folder


def ask(place, *arguments, metric="inner_product"):
    return succeed("query", place / metric, place / "q.npy", "--top", "4", *arguments)


def test_the_table_is_aligned_and_prints_no_control_character(place):
    result = ask(place)
    assert (result.stdout, result.stderr) == (TABLE, "")


def test_csv_quotes_commas_and_leaves_unknown_cells_empty(place):
    result = ask(place, "--format", "csv")
    assert (result.stdout, result.stderr) == (CSV, "")


def test_jsonl_has_a_flat_object_for_each_match_with_the_columns_in_order(place):
    first, second, *_ = map(json.loads, ask(place, "--format", "jsonl").stdout.splitlines())
    assert list(first) == [*COLUMNS, "role"]
    assert first == dict.fromkeys(COLUMNS) | {
        "rank": 1,
        "item": 0,
        "source": "a,b.jpg",
        "camera": 1,
        "person": "0001",
        "track": "t1",
        "start": "2024-05-01T12:00:00Z",
        "end": "2024-05-01T12:00:04Z",
        "similarity": 1.0,
        "role": "probe",
    }
    assert list(second) == COLUMNS
    assert (second["start_s"], second["source"]) == (3.25, "ü\x1b[31m.jpg")


def test_a_euclidean_gallery_answers_with_distances_and_no_similarity(place):
    result = ask(place, "--format", "jsonl", metric="euclidean")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["similarity"] for row in rows] == [None] * 4
    assert [row["distance"] for row in rows] == pytest.approx([0, 0.5**0.5, 2**0.5, 2], abs=1e-6)
    assert ask(place, metric="euclidean").stdout.split()[:3] == ["rank", "item", "distance"]


def test_html_has_a_card_for_each_match_in_order(place):
    page = Sheet(ask(place, "--format", "html", "--person", "0001").stdout)
    assert page.cards == [
        ["1", "0", "0001", "same", False],
        ["2", "1", "0002", "other", False],
        ["3", "2", None, "unknown", False],
        ["4", "3", "0001", "same", False],
    ]


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("table", "rank  item  similarity  camera  person  time  source\n"),
        ("csv", HEADER + "\n"),
        ("jsonl", ""),
    ],
)
def test_an_empty_answer_still_has_its_header_and_says_why(place, form, expected):
    result = ask(place, "--where", "camera = 9", "--format", form)
    assert result.stdout == expected
    assert result.stderr == "only 0 match: 0 of 4 items are allowed\n"


def test_out_writes_the_file_whole_and_nothing_to_standard_output(place, tmp_path):
    (tmp_path / "answer.csv").write_text("old")
    result = ask(place, "--format", "csv", "--out", tmp_path / "answer.csv")
    assert (result.stdout, result.stderr) == ("", "")
    assert (tmp_path / "answer.csv").read_bytes() == CSV.encode()
    assert [path.name for path in tmp_path.iterdir()] == ["answer.csv"]


def test_a_query_that_fails_leaves_the_file_as_it_was(place, tmp_path):
    (tmp_path / "answer.csv").write_text("old")
    out = ["--out", tmp_path / "answer.csv"]
    result = run("query", place / "euclidean", place / "q.npy", "--where", "camera =", *out)
    assert result.exit_code == 2
    assert (tmp_path / "answer.csv").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["answer.csv"]


def test_out_refuses_a_folder(place, tmp_path):
    result = run("query", place / "euclidean", place / "q.npy", "--out", tmp_path)
    assert_refused(result, code=2, text="is a folder; --out names the file to write")


def full_match(**extra):
    return Match(
        **dict.fromkeys(("track", "video", "start", "end", "start_s", "end_s", "distance")),
        **{"rank": 1, "item": 7, "source": "a.jpg", "root": "/r", "camera": 1, "person": None},
        **{"box": (1.0, 2.0, 3.5, 4.0), "similarity": 0.25, "extra": extra},
    )


def test_a_column_of_the_users_never_replaces_rank_or_similarity():
    record = as_record(full_match(rank=9, similarity=0.99, role="probe"))
    assert (record["rank"], record["similarity"], record["role"]) == (1, 0.25, "probe")


def test_numbers_that_json_lacks_become_null():
    assert as_record(full_match(score=float("nan"), speed=float("inf"), age=3.5)) == (
        as_record(full_match()) | {"score": None, "speed": None, "age": 3.5}
    )


def test_csv_has_boxes_and_sets_as_json_in_one_cell(place):
    match = full_match(tags=["hat", "bag"])
    answer = Gallery.open(place / "inner_product").search([1, 0], k=1)
    text = csv_text(
        type(answer)(**(vars(answer) | {"matches": (match,)})), columns=["camera", "tags", "age"]
    )
    row = next(csv.DictReader(text.splitlines()))
    assert list(row)[-3:] == ["reranked_distance", "tags", "age"]
    assert json.loads(row["box"]) == [1, 2, 3.5, 4]
    assert json.loads(row["tags"]) == ["hat", "bag"]


def test_columns_are_as_wide_as_their_widest_cell():
    assert aligned([["a", "bb"], ["ccc", "d\n\t\x00"]]) == "a    bb\nccc  d���\n"
