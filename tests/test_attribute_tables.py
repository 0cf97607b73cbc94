"""Attributes from CSV and Parquet."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from extractors.attribute_labels import read_labels
from extractors.attribute_vocabulary import VOCABULARY
from reid_index.errors import BadSource, UsageError


def csv_file(path, text):
    path.write_text(text)
    return path


def columns(labels):
    return labels.table.to_pydict()


def test_words_sets_confidences_and_origins(tmp_path):
    path = csv_file(
        tmp_path / "a.csv",
        "person,hat,hat.confidence,hat.origin,upper_color,attr.umbrella\n"
        "0002,yes,0.75,model m 1 abc,red|black,open\n"
        "0007, NO ,,person,green,\n"
        "0009,,0.5,label,,closed\n",
    )
    labels = read_labels(path)
    assert (labels.key, labels.notes) == ("person", ())
    assert labels.names == ["hat", "upper_color", "umbrella"]
    assert columns(labels) == {
        "person": ["0002", "0007", "0009"],
        "attr.hat": ["yes", "no", None],
        "attr.hat.confidence": [0.75, None, None],
        "attr.hat.origin": ["model m 1 abc", "person", None],
        "attr.upper_color": [["black", "red"], ["green"], None],
        "attr.umbrella": ["open", None, "closed"],
    }
    assert labels.table["attr.hat"].type == pa.dictionary(pa.int32(), pa.string())
    assert labels.table["attr.hat.confidence"].type == pa.float32()


def test_which_key(tmp_path):
    path = csv_file(tmp_path / "a.csv", "person,source,item,bag\n0002,a/b.jpg,4,yes\n")
    labels = read_labels(path)
    assert (labels.key, columns(labels)["item"]) == ("item", [4])
    assert labels.table["item"].type == pa.int64()
    assert labels.notes == (f"{path}: its rows are told by item",)
    for key, value in (("source", "a/b.jpg"), ("person", "0002")):
        labels = read_labels(path, by=key)
        assert (labels.key, columns(labels)[key]) == (key, [value])
    csv_file(path, "person,source,bag\n0002,a/b.jpg,yes\n")
    assert read_labels(path).key == "source"
    with pytest.raises(UsageError, match="it has no column 'item'"):
        read_labels(path, by="item")
    csv_file(path, "file,bag\na.jpg,yes\n")
    with pytest.raises(BadSource, match="a column item, source or person; it has 'file', 'bag'"):
        read_labels(path)


def test_sets_in_csv(tmp_path):
    path = csv_file(
        tmp_path / "a.csv",
        "item,lower_color,attr.carries,attr.wears,attr.shape\n"
        '1,"[""red"", ""blue""]",bag|dog,coat,round\n'
        "2,red|red | blue,bag,,\n",
    )
    found = columns(read_labels(path, sets={"wears": True}))
    assert found == {
        "item": [1, 2],
        "attr.lower_color": [["blue", "red"], ["blue", "red"]],
        "attr.carries": [["bag", "dog"], ["bag"]],
        "attr.wears": [["coat"], None],
        "attr.shape": ["round", None],
    }


def test_sets_are_sorted(tmp_path):
    colors = VOCABULARY["upper_color"].words
    path = csv_file(tmp_path / "a.csv", f"item,upper_color\n1,{'|'.join(colors)}\n")
    assert columns(read_labels(path))["attr.upper_color"] == [sorted(colors)]


def test_what_the_gallery_has_as_single_words(tmp_path):
    path = csv_file(tmp_path / "a.csv", "item,upper_color\n1,Red\n")
    assert columns(read_labels(path))["attr.upper_color"] == [["red"]]
    assert columns(read_labels(path, sets={"upper_color": False}))["attr.upper_color"] == ["red"]
    csv_file(path, "item,upper_color\n1,red|blue\n")
    with pytest.raises(BadSource, match="upper_color has sets of words, where a single one"):
        read_labels(path, sets={"upper_color": False})
    csv_file(path, "item,gender\n1,male|female\n")
    with pytest.raises(BadSource, match="gender has sets of words, where a single one"):
        read_labels(path)


def test_words_that_nobody_knows(tmp_path):
    path = csv_file(tmp_path / "a.csv", "item,gender,upper_color\n1,mlae,red|oragne\n2,male,\n")
    labels = read_labels(path)
    assert columns(labels)["attr.gender"] == ["mlae", "male"]
    assert columns(labels)["attr.upper_color"] == [["oragne", "red"], None]
    assert labels.notes == (
        f"{path}, column gender: words not known here: 'mlae'",
        f"{path}, column upper_color: words not known here: 'oragne'",
    )
    with pytest.raises(BadSource, match="column gender: words not known here: 'mlae'"):
        read_labels(path, strict=True)


def test_columns_that_are_not_read_are_told(tmp_path):
    path = csv_file(tmp_path / "a.csv", "item,hat,umbrella,rank\n1,yes,no,3\n")
    labels = read_labels(path)
    assert labels.names == ["hat"]
    assert labels.notes == (
        f"{path}: not read: umbrella, rank; attributes of your own are called attr.NAME",
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("item,hat\n1,yes\n2,ja\n", "row 2, column hat: 'ja' is neither yes nor no"),
        ("item,hat\n1,true\n", "row 1, column hat: 'true' is neither yes nor no"),
        ("item,hat,hat.confidence\n1,yes,1\n2,no,1.5\n", "row 2, column hat.confidence: '1.5' is"),
        ("item,hat,hat.confidence\n1,yes,-0.1\n", "row 1, column hat.confidence: '-0.1' is no con"),
        ("item,hat,hat.confidence\n1,yes,nan\n", "column hat.confidence: 'nan' is no confidence"),
        ("item,hat,hat.confidence\n1,yes,sure\n", "'sure' is no confidence, a number from 0 to 1"),
        ("item,hat,hat.confidence\n1,,2\n", "row 1, column hat.confidence: '2' is no confidence"),
        ("item,hat,hat.origin\n1,yes,me\n", "row 1, column hat.origin: 'me' is no origin"),
        ("item,hat,hat.origin\n1,yes,model\n", "'model' is no origin"),
        ("item,hat.confidence\n1,1\n", "there is no attribute in it"),
        ("item,hat,bag.origin\n1,yes,label\n", "a column 'bag.origin' without the attribute's own"),
        ("item,camera\n1,2\n", "no attribute in it, as a column such as attr.hat; .*'camera'"),
        ("item,hat,attr.hat\n1,yes,yes\n", "hat and attr.hat are the same; leave one"),
        ("item,hat,hat\n1,yes,yes\n", "two columns have the same name"),
        ("item,attr.My Hat\n1,yes\n", "an attribute cannot be called 'My Hat'"),
        ("item,attr.\n1,yes\n", "an attribute cannot be called ''"),
        ("item,hat\n1,yes\n1,no\n", "item 1 is there twice, and hat is yes and no; leave one"),
        ("item,upper_color\n1,red\n1,\n", "item 1 is there twice, .* is red and unknown"),
        ("item,hat\n1,yes\n,no\n", "row 2: there is no item"),
        ("item,hat\n1,yes\n2.5,no\n", "row 2: item is '2.5'; a number, please"),
        ("item,hat\n99999999999999999999,no\n", "row 1: item is '99999999999999999999'"),
        (
            "person,upper_color\n0002,red||blue\n",
            "row 1, column upper_color: 'red||blue' has an em",
        ),
        ('person,upper_color\n2,"[1]"\n', r"row 1, column upper_color: '\[1\]' has an empty word"),
        ("item,hat\n1,yes,no\n", "cannot be read as a table: .*2 columns, got 3"),
        ("", "there is no attribute|cannot be read as a table"),
    ],
)
def test_what_is_refused(text, message, tmp_path):
    path = csv_file(tmp_path / "a.csv", text)
    with pytest.raises(BadSource, match=message) as refused:
        read_labels(path)
    assert str(refused.value).startswith(str(path))
    assert "\n" not in str(refused.value)


def test_files_that_are_no_tables(tmp_path):
    for name in ("a.csv", "a.parquet"):
        with pytest.raises(BadSource, match="No such file"):
            read_labels(tmp_path / name)
        (tmp_path / name).write_bytes(b"\xff\xfe\x00item" * 9)
        with pytest.raises(BadSource, match="cannot be read as a table"):
            read_labels(tmp_path / name)


def test_repeated_rows_that_agree(tmp_path):
    path = csv_file(
        tmp_path / "a.csv", "person,hat,upper_color\n2,yes,a|b\n3,no,\n2,yes,b|a\n3,no,\n"
    )
    assert columns(read_labels(path)) == {
        "person": ["2", "3"],
        "attr.hat": ["yes", "no"],
        "attr.upper_color": [["a", "b"], None],
    }


def test_no_rows(tmp_path):
    labels = read_labels(csv_file(tmp_path / "a.csv", "item,hat,upper_color,hat.confidence\n"))
    assert labels.table.num_rows == 0
    assert labels.names == ["hat", "upper_color"]


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())]
)
def test_parquet(kind, tmp_path):
    table = pa.table(
        {
            "item": pa.array([1, 2, 3], pa.int32()),
            "hat": pa.array(["yes", None, "no"], pa.string()).cast(kind),
            "hat.confidence": pa.array([0.5, 0.25, None], pa.float64()),
            "coat": [True, False, None],
            "upper_color": [["red", "blue"], [], None],
            "lower_color": pa.array(["red|blue", "red", None], pa.string()).cast(kind),
            "boots": pa.nulls(3),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    assert columns(read_labels(tmp_path / "a.parquet")) == {
        "item": [1, 2, 3],
        "attr.hat": ["yes", None, "no"],
        "attr.coat": ["yes", "no", None],
        "attr.upper_color": [["blue", "red"], None, None],
        "attr.lower_color": [["blue", "red"], ["red"], None],
        "attr.boots": [None, None, None],
        "attr.hat.confidence": [0.5, None, None],
    }


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"hat": [1, 2]}, "the column hat holds int64, not words"),
        ({"hat": ["yes", "no"], "hat.confidence": [0.5, float("nan")]}, "row 2.*: nan is no conf"),
        ({"hat": ["yes", "no"], "hat.confidence": [0.5, np.inf]}, "row 2.*: inf is no conf"),
        ({"hat": ["yes", "no"], "hat.confidence": [True, False]}, "True is no confidence"),
        ({"hat": ["yes", "no"], "hat.confidence": [[0.5], [1.0]]}, "hat.confidence holds li"),
        ({"hat": [["yes"], ["no"]]}, "hat has sets of words, where a single one"),
        ({"upper_color": [["red", None], None]}, r"row 1, column upper_color: .*an empty word"),
        ({"upper_color": [[1], None]}, "an empty word"),
        ({"hat": ["yes", "no"], "item": [0.5, 1.0]}, "the column item holds double"),
        ({"hat": ["yes", "no"], "item": [[1], [2]]}, "the column item holds list"),
    ],
)
def test_parquet_that_is_refused(more, message, tmp_path):
    pq.write_table(pa.table({"item": [1, 2], **more}), tmp_path / "a.parquet")
    with pytest.raises(BadSource, match=message):
        read_labels(tmp_path / "a.parquet")


def test_a_million_rows(tmp_path):
    rows = 10**6
    table = pa.table(
        {
            "item": np.arange(rows),
            "hat": pa.array(np.where(np.arange(rows) % 2, "yes", "no")),
            "upper_color": pa.array(["red", "blue", "red|blue", None]).take(
                pa.array(np.arange(rows) % 4)
            ),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    found = read_labels(tmp_path / "a.parquet").table
    assert found["attr.upper_color"].slice(rows - 2).to_pylist() == [["blue", "red"], None]
