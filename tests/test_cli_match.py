"""`reid match`: who is compared, what is decided and printed, the matrix, and what is refused."""

import csv
import io
import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from cli_world import assert_refused, run, stripes_of, succeed
from PIL import Image
from training_world import HEIGHT, WIDTH, crop

from extractors import open_extractor

PEOPLE = [(4, 7), (7, 9, 4), (2, 9)]
"""Who is in the pictures a, b, c, from the left; nobody is twice in one."""


def picture(people, *, seed):
    """People side by side, WIDTH pixels each."""
    return np.concatenate([crop(person, seed=seed) for person in people], axis=1)


def save(path, pixels):
    Image.fromarray(pixels).save(path)
    return path


def write_boxes(path, rows):
    lines = ["file,x,y,w,h", *(",".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Folder `scenes` of a.png, b.png, c.png, and `boxes.csv`, not in the order of their names."""
    folder = tmp_path_factory.mktemp("match")
    (folder / "scenes").mkdir()
    rows = []
    for number, people in enumerate(PEOPLE):
        name = "abc"[number] + ".png"
        save(folder / "scenes" / name, picture(people, seed=number))
        rows += [(name, place * WIDTH, 0, WIDTH, HEIGHT) for place in range(len(people))]
    write_boxes(folder / "boxes.csv", sorted(rows, key=lambda row: row[0], reverse=True))
    return folder


def addresses():
    """((picture, position), person) of everybody."""
    return [
        ((number, place), person)
        for number, people in enumerate(PEOPLE, start=1)
        for place, person in enumerate(people, start=1)
    ]


@pytest.fixture(scope="module")
def matrix():
    """Cosine distances of everybody, by the extractor alone; NaN within a picture."""
    unit = stripes_of(*(crop(who, seed=at[0] - 1) for at, who in addresses())).astype(float)
    distances = 1 - unit @ unit.T
    pictures = np.array([at[0] for at, _ in addresses()])
    distances[pictures[:, None] == pictures] = np.nan
    return distances


def asked(world, *options):
    return ("match", world / "scenes", "--boxes", world / "boxes.csv", *STRIPES, *options)


STRIPES = ("--extractor", "stripes")


def rows_of(*arguments):
    result = succeed(*arguments, "--format", "jsonl")
    return [json.loads(line) for line in result.stdout.splitlines()]


def answer_of(*arguments):
    return json.loads(succeed(*arguments, "--format", "json").stdout)


def place(row, other=""):
    return row[f"{other}picture"], row[f"{other}position"]


def both(row):
    return place(row), place(row, "other_")


# Who is compared, and what is decided


def test_everybody_is_compared_with_all_of_other_pictures(world, matrix):
    rows = rows_of(*asked(world))
    places = [at for at, _ in addresses()]
    wanted = [(a, b) for a in range(7) for b in range(a + 1, 7) if places[a][0] != places[b][0]]
    assert [both(row) for row in rows] == [(places[a], places[b]) for a, b in wanted]
    assert [row["distance"] for row in rows] == pytest.approx(
        [matrix[pair] for pair in wanted], abs=1e-6
    )
    assert list(rows[0].items())[:6] == [
        *(("picture", 1), ("position", 1), ("source", "a.png")),
        *(("other_picture", 2), ("other_position", 1), ("other_source", "b.png")),
    ]


def test_the_same_are_those_within_the_threshold(world, matrix):
    values = np.sort(matrix[np.triu(~np.isnan(matrix))])
    threshold = (values[2] + values[3]) / 2
    result = succeed(*asked(world, "--threshold", threshold, "--format", "jsonl"))
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["same"] for row in rows] == [row["distance"] <= threshold for row in rows]
    assert sum(row["same"] for row in rows) == 3
    assert "7 people in 3 pictures: 16 pairs, 3 of them of one person" in result.stderr
    alike = rows_of(*asked(world, "--similarity", 1 - threshold, "--only-same"))
    assert alike == [row for row in rows if row["same"]]


def test_made_up_people_are_found_again(world):
    who = dict(addresses())
    rows = rows_of(*asked(world, "--threshold", 0.1, "--only-same"))
    found = {both(row) for row in rows}
    assert found == {(a, b) for a in who for b in who if a < b and who[a] == who[b]}
    assert len(found) == 3


def test_the_default_is_a_similarity_of_80_percent(world):
    answer = answer_of(*asked(world))
    assert answer["threshold"] == 0.2
    assert answer == answer_of(*asked(world, "--threshold", 0.2))


def test_the_nearest_are_each_ones_own_nearest_first(world, matrix):
    rows = rows_of(*asked(world, "--nearest", 2, "--only-same"))
    places = [at for at, _ in addresses()]
    wanted = [(places[a], places[b]) for a in range(7) for b in np.argsort(matrix[a])[:2]]
    assert [both(row) for row in rows] == wanted
    whole = rows_of(*asked(world, "--nearest", 2))
    assert len(whole) == 2 * 16
    assert [row for row in whole if row["same"]] == rows
    assert [both(row) for row in whole[:5]] == [
        (places[0], places[b]) for b in np.argsort(matrix[0])[:5]
    ]


def test_euclidean_distances_are_of_the_vectors_as_they_are(world):
    crops = [crop(who, seed=at[0] - 1) for at, who in addresses()]
    vectors = open_extractor("stripes").extract(crops).global_.astype(float)
    (row,) = rows_of(
        *asked(world, "--distance", "euclidean", "--threshold", 9, "--pair", "1:2", "3:1")
    )
    assert row["distance"] == pytest.approx(np.linalg.norm(vectors[1] - vectors[5]), rel=1e-5)
    assert row["same"] == (row["distance"] <= 9)


def test_without_boxes_a_picture_is_one_person_by_the_default_model(tmp_path):
    crops = [crop(person, seed=seed) for person, seed in ((1, 0), (1, 1), (8, 2))]
    named = zip("zyx", crops, strict=True)
    paths = [save(tmp_path / f"{name}.png", pixels) for name, pixels in named]
    answer = answer_of("match", *paths)
    vectors = open_extractor("trained").extract(crops).global_.astype(float)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert answer["extractor"] == "trained"
    assert [one["source"] for one in answer["people"]] == ["z.png", "y.png", "x.png"]
    assert {place(one): one["box"] for one in answer["people"]} == {
        (1, 1): None, (2, 1): None, (3, 1): None
    }  # fmt: skip
    assert [row["distance"] for row in answer["pairs"]] == pytest.approx(
        [1 - unit[a] @ unit[b] for a, b in ((0, 1), (0, 2), (1, 2))], abs=1e-5
    )


def test_boxes_are_found_by_the_end_of_a_pictures_path(world, tmp_path):
    for name in "abc":
        (tmp_path / name).mkdir()
        shutil.copy(world / "scenes" / f"{name}.png", tmp_path / name / "shot.png")
    rows = [(f"{name}/shot.png", 0, 0, WIDTH, HEIGHT) for name in "ab"]
    boxes = write_boxes(tmp_path / "boxes.csv", [*rows, ("c/shot.png", WIDTH, 0, WIDTH, HEIGHT)])
    shots = [tmp_path / name / "shot.png" for name in "cba"]
    whole = rows_of("match", *shots, "--boxes", boxes, *STRIPES)
    alone = rows_of("match", *shots[:2], "--boxes", boxes, *STRIPES)
    assert [row["source"] for row in whole] == ["c/shot.png", "c/shot.png", "b/shot.png"]
    assert alone == whole[:1]


def test_a_box_may_be_meant_by_its_longest_path_alone(tmp_path):
    (tmp_path / "day").mkdir()
    for place in (tmp_path / "s.png", tmp_path / "day" / "s.png", tmp_path / "t.png"):
        save(place, picture((1, 2), seed=0))
    rows = [("s.png", 0, 0, WIDTH, HEIGHT), ("t.png", 0, 0, WIDTH, HEIGHT)]
    boxes = write_boxes(tmp_path / "boxes.csv", rows)
    result = succeed("match", tmp_path, "--boxes", boxes, *STRIPES, "--format", "jsonl")
    (row,) = map(json.loads, result.stdout.splitlines())
    assert (row["source"], row["other_source"]) == ("s.png", "t.png")
    assert f"no person: {tmp_path}/day/s.png" in result.stderr


def test_boxes_that_may_be_of_two_pictures_are_refused(tmp_path):
    paths = []
    for name in "ab":
        (tmp_path / name).mkdir()
        paths.append(save(tmp_path / name / "s.png", picture((1,), seed=0)))
    boxes = write_boxes(tmp_path / "boxes.csv", [("s.png", 0, 0, WIDTH, HEIGHT)])
    result = run("match", *paths, "--boxes", boxes, *STRIPES)
    assert_refused(result, code=1, text="'s.png' may be")


def test_boxes_in_other_pictures_are_counted(world, tmp_path):
    shutil.copy(world / "scenes" / "a.png", tmp_path)
    shutil.copy(world / "scenes" / "c.png", tmp_path)
    result = succeed("match", tmp_path, "--boxes", world / "boxes.csv", *STRIPES)
    assert "left out 3: in pictures that are not given" in result.stderr


# Pairs by name


def test_a_pair_is_asked_for_by_picture_and_position(world):
    whole = {both(row): row for row in rows_of(*asked(world, "--threshold", 0.1))}
    named = ("--pair", "3:2", "2:2", "--pair", "1:1", "3:1")
    rows = rows_of(*asked(world, "--threshold", 0.1, *named))
    assert [both(row) for row in rows] == [((3, 2), (2, 2)), ((1, 1), (3, 1))]
    told = [(row["distance"], row["same"]) for row in rows]
    again = [whole[(2, 2), (3, 2)], whole[(1, 1), (3, 1)]]
    assert told == [(row["distance"], row["same"]) for row in again]
    assert [row["same"] for row in rows] == [True, False]


def test_of_a_pair_the_second_is_among_the_nearest_of_the_first_or_not(world, matrix):
    places = [at for at, _ in addresses()]
    nearest = [int(np.nanargmin(row)) for row in matrix]
    a, b = next((a, b) for a, b in enumerate(nearest) if nearest[b] != a)
    names = ["{}:{}".format(*places[one]) for one in (a, b)]
    rows = rows_of(*asked(world, "--nearest", 1, "--pair", *names, "--pair", *names[::-1]))
    assert [row["same"] for row in rows] == [True, False]


@pytest.mark.parametrize(
    ("pair", "text"),
    [
        (("1:3", "2:1"), "--pair 1:3: people in picture 1: 2"),
        (("2:1", "9:1"), "--pair 9:1: there are 3 pictures"),
        (("2:1", "2:2"), "people of one picture are different"),
        (("0:1", "2:1"), "'0:1': PICTURE:POSITION"),
        (("1", "2"), "'1': PICTURE:POSITION"),
    ],
)
def test_pairs_that_do_not_exist_are_refused(world, pair, text):
    assert_refused(run(*asked(world, "--pair", *pair)), code=2, text=text)


# Forms


def test_csv_and_json_have_what_jsonl_has(world):
    rows = rows_of(*asked(world, "--threshold", 0.1))
    text = succeed(*asked(world, "--threshold", 0.1, "--format", "csv")).stdout
    cells = list(csv.DictReader(io.StringIO(text)))
    assert cells == [
        {name: str(int(value) if name == "same" else value) for name, value in row.items()}
        for row in rows
    ]
    answer = answer_of(*asked(world, "--threshold", 0.1))
    assert answer["pairs"] == rows
    assert [place(one) for one in answer["people"]] == [at for at, _ in addresses()]
    assert answer["people"][1]["box"] == [WIDTH, 0, WIDTH, HEIGHT]
    rest = {name: answer[name] for name in answer if name not in ("pairs", "people")}
    assert rest == {
        **{"extractor": "stripes", "distance": "cosine", "threshold": 0.1, "nearest": None},
        **{"root": str(world / "scenes"), "pictures": 3, "skipped": 0},
    }


def test_no_pair_is_a_whole_answer_too(world):
    options = ("--threshold", 0, "--only-same")
    assert answer_of(*asked(world, *options))["pairs"] == []
    assert succeed(*asked(world, *options, "--format", "jsonl")).stdout == ""
    assert len(succeed(*asked(world, *options)).stdout.splitlines()) == 1


def test_the_table_has_columns(world):
    lines = succeed(*asked(world, "--threshold", 0.1)).stdout.splitlines()
    rows = rows_of(*asked(world, "--threshold", 0.1))
    assert len(lines) == 17
    assert lines[0].startswith("picture  position  other picture  other position  distance  same")
    starts = [lines[0].index(head) for head in ("distance", "same", "file", "other file")]
    for line, row in zip(lines[1:], rows, strict=True):
        cells = [line[start:].split("  ")[0] for start in starts]
        verdict = "yes" if row["same"] else "no"
        assert cells[:2] == [f"{row['distance']:.4f}", verdict]
        at = (row["position"] - 1) * WIDTH
        assert cells[2] == f"{row['source']} @{at},0,{WIDTH},{HEIGHT}"
        assert cells[3].startswith(row["other_source"])


def test_control_characters_in_names_do_not_reach_the_terminal(tmp_path):
    for name in ("a\x1b[31m.png", "b.png"):
        save(tmp_path / name, crop(1, seed=0))
    result = succeed("match", tmp_path, *STRIPES)
    assert "\x1b" not in result.stdout
    assert "a�[31m.png" in result.stdout


# Groups


def test_groups_are_the_people(world):
    who = dict(addresses())
    rows = rows_of(*asked(world, "--threshold", 0.1, "--groups"))
    groups = {}
    for row in rows:
        groups.setdefault(row["group"], set()).add(who[place(row)])
    assert [len(people) for people in groups.values()] == [1, 1, 1, 1]
    assert list(groups) == [1, 2, 3, 4]
    assert [row["group"] for row in rows] == [1, 1, 2, 2, 3, 3, 4]
    text = succeed(*asked(world, "--threshold", 0.1, "--groups", "--format", "csv")).stdout
    boxes = [json.loads(cells["box"]) for cells in csv.DictReader(io.StringIO(text))]
    assert boxes == [row["box"] for row in rows]
    assert answer_of(*asked(world, "--threshold", 0.1, "--groups"))["people"] == rows
    table = succeed(*asked(world, "--threshold", 0.1, "--groups")).stdout.splitlines()
    assert table[0].split() == ["group", "picture", "position", "file"]
    assert [line.split()[:3] for line in table[1:]] == [
        [str(row["group"]), str(row["picture"]), str(row["position"])] for row in rows
    ]


def test_a_group_has_nobody_twice_from_one_picture_and_it_is_told(world):
    result = succeed(*asked(world, "--threshold", 2, "--groups", "--format", "jsonl"))
    places = [(row["group"], row["picture"]) for row in map(json.loads, result.stdout.splitlines())]
    assert len(set(places)) == len(places) == 7
    assert "pairs within the threshold were not joined" in result.stderr
    assert "3 groups" in result.stderr


# The matrix


@pytest.fixture
def square(world, matrix, tmp_path):
    """Writes the matrix to a file of that ending."""

    def write(ending):
        path = tmp_path / f"matrix{ending}"
        path.write_bytes(b"before")
        succeed(*asked(world, "--matrix", path))
        assert [one.name for one in tmp_path.iterdir()] == [path.name]
        return path

    return write


def assert_is_the_matrix(found, matrix):
    np.testing.assert_allclose(found, matrix, rtol=0, atol=1e-6)
    assert np.isnan(np.diag(found)).all()


def test_the_matrix_as_npy(square, matrix):
    found = np.load(square(".npy"), allow_pickle=False)
    assert found.dtype["distance"].base == np.float32
    at = zip(found["picture"].tolist(), found["position"].tolist(), strict=True)
    assert list(at) == [at for at, _ in addresses()]
    assert found["source"].tolist() == ["a.png"] * 2 + ["b.png"] * 3 + ["c.png"] * 2
    assert_is_the_matrix(found["distance"], matrix)


def test_the_matrix_as_csv(square, matrix):
    with square(".csv").open(newline="") as file:
        head, *rows = csv.reader(file)
    people = [f"{picture}:{position}" for (picture, position), _ in addresses()]
    assert head == ["picture", "position", "source", *people]
    assert [f"{row[0]}:{row[1]}" for row in rows] == people
    assert_is_the_matrix(np.array([[float(cell) for cell in row[3:]] for row in rows]), matrix)


@pytest.mark.parametrize("together", [None, 30])
def test_the_matrix_as_parquet(square, matrix, monkeypatch, together):
    """together: bytes of a group of rows, so that there are several."""
    if together is not None:
        monkeypatch.setattr("cli.matrix._BYTES", together)
    path = square(".parquet")
    assert pq.ParquetFile(path).num_row_groups == (1 if together is None else 7)
    found = pq.read_table(path)
    assert list(zip(found["picture"].to_pylist(), found["position"].to_pylist(), strict=True)) == [
        at for at, _ in addresses()
    ]
    assert found["source"].to_pylist()[2] == "b.png"
    assert_is_the_matrix(np.array(found["distance"].to_pylist()), matrix)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("m.txt", "a .npy, .csv or .parquet file"),
        ("no/m.npy", "there is no folder"),
        ("folder.npy", "that is a folder"),
    ],
)
def test_a_matrix_that_cannot_be_written_is_refused_at_once(world, tmp_path, name, text):
    (tmp_path / "folder.npy").mkdir()
    assert_refused(run(*asked(world, "--matrix", tmp_path / name)), code=2, text=text)


# What cannot be read, and what is refused


def test_a_box_outside_its_picture_is_skipped_and_positions_stay(world, tmp_path):
    rows = [
        ("a.png", 0, 0, WIDTH, HEIGHT),
        ("b.png", 5000, 0, 9, 9),
        ("b.png", 0, 0, WIDTH, HEIGHT),
        ("c.png", -9, 0, 9, HEIGHT),
    ]
    boxes = write_boxes(tmp_path / "boxes.csv", rows)
    options = ("match", world / "scenes", "--boxes", boxes, *STRIPES)
    result = succeed(*options, "--format", "json")
    answer = json.loads(result.stdout)
    assert [both(row) for row in answer["pairs"]] == [((1, 1), (2, 2))]
    assert [place(one) for one in answer["people"]] == [(1, 1), (2, 2)]
    assert answer["skipped"] == 2
    assert "skipped:" in result.stderr
    assert "covers no pixel" in result.stderr
    assert "2 of 4 were skipped" in result.stderr
    assert_refused_after(run(*options, "--strict"), text="covers no pixel")
    unread = run(*options, "--pair", "1:1", "2:1")
    assert_refused_after(unread, text="person 2:1 of --pair cannot be read")


def assert_refused_after(result, *, text):
    """Refused with code 1; what was told before stands above."""
    assert (result.exit_code, result.stdout) == (1, ""), result.stderr
    last = result.stderr.splitlines()[-1]
    assert last.startswith("reid: ")
    assert text in last


def test_a_picture_that_cannot_be_read_is_skipped_and_keeps_its_number(tmp_path):
    for name in "acd":
        save(tmp_path / f"{name}.png", crop(1, seed=0))
    (tmp_path / "b.png").write_bytes(b"no picture")
    result = succeed("match", tmp_path, *STRIPES, "--format", "jsonl")
    rows = list(map(json.loads, result.stdout.splitlines()))
    assert [both(row) for row in rows] == [((1, 1), (3, 1)), ((1, 1), (4, 1)), ((3, 1), (4, 1))]
    assert "1 of 4 were skipped" in result.stderr
    assert "3 people in 3 pictures" in result.stderr
    assert_refused_after(run("match", tmp_path, *STRIPES, "--strict"), text="b.png")


@pytest.mark.parametrize("readable", [0, 1])
def test_fewer_than_two_readable_pictures_are_a_failed_job(tmp_path, readable):
    for number in range(3):
        path = tmp_path / f"{number}.png"
        path.write_bytes(b"no picture")
        if number < readable:
            save(path, crop(1, seed=0))
    result = run("match", tmp_path, *STRIPES)
    told = "in one picture alone" if readable else "in no picture"
    assert_refused_after(result, text=f"people can be read {told}, of 3 pictures")


def test_pictures_without_people_are_told_and_with_strict_refused(world, tmp_path):
    rows = [("a.png", 0, 0, WIDTH, HEIGHT), ("c.png", 0, 0, WIDTH, HEIGHT)]
    boxes = write_boxes(tmp_path / "boxes.csv", rows)
    options = ("match", world / "scenes", "--boxes", boxes, *STRIPES)
    result = succeed(*options, "--format", "jsonl")
    assert [both(json.loads(line)) for line in result.stdout.splitlines()] == [((1, 1), (3, 1))]
    assert f"no person: {world}/scenes/b.png: {boxes} has nobody in it" in result.stderr
    assert_refused(run(*options, "--strict"), code=1, text="has nobody in it")
    assert_refused_usage(run(*options, "--pair", "1:1", "2:1"), text="people in picture 2: 0")


def assert_refused_usage(result, *, text):
    assert (result.exit_code, result.stdout) == (2, "")
    assert text in result.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ([("z.png", 0, 0, 9, 9)], "no box in any of 3 pictures"),
        (
            [("a.png", 0, 0, 9, 9), ("a.png", 9, 0, 9, 9)],
            "it has people in one alone",
        ),
    ],
)
def test_boxes_that_leave_nobody_to_compare_are_refused(world, tmp_path, rows, text):
    boxes = write_boxes(tmp_path / "boxes.csv", rows)
    assert_refused_after(run("match", world / "scenes", "--boxes", boxes, *STRIPES), text=text)


def test_one_picture_is_refused(world, tmp_path):
    one = world / "scenes" / "a.png"
    assert_refused(run("match", one, one, *STRIPES), code=2, text="name at least two")
    assert_refused(run("match", tmp_path, *STRIPES), code=1, text="there are no pictures in it")
    assert_refused(run("match", tmp_path / "no", *STRIPES), code=1, text="no such file")
    listed = run("match", world / "boxes.csv", *STRIPES)
    assert_refused(listed, code=2, text="is a list: name pictures")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--threshold", "nan"), "from 0, not nan"),
        (("--threshold", "-0.1"), "from 0, not -0.1"),
        (("--similarity", "nan"), "from -1 to 1, not nan"),
        (("--similarity", "80"), "from -1 to 1, not 80"),
        (("--nearest", "0"), "1 or more, not 0"),
        (("--threshold", "0.1", "--nearest", "5"), "--threshold and --nearest decide"),
        (("--threshold", "0.1", "--similarity", "0.9"), "--threshold and --similarity decide"),
        (("--distance", "euclidean"), "no threshold fits"),
        (("--distance", "euclidean", "--similarity", "0.8"), "--similarity belongs to cosine"),
        (("--groups", "--nearest", "5"), "--groups needs a --threshold"),
        (("--groups", "--only-same"), "--groups has people, not pairs"),
        (("--groups", "--pair", "1:1", "2:1"), "--groups has people, not pairs"),
        (("--weights", "x.onnx"), "stripes takes no weights"),
    ],
)
def test_options_that_make_no_sense_are_refused(world, options, text):
    assert_refused(run(*asked(world, *options)), code=2, text=text)
