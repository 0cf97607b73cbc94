"""Labels of persons: the files of Market-1501 and DukeMTMC-reID, and what items they are of."""

import io
import random
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from cli_world import ENVIRONMENT, real
from label_files import DUKE, MARKET, market_labels, part, write_labels
from scipy.io import savemat

from extractors.attribute_labels import join_labels, read_labels
from extractors.attribute_vocabulary import DUKE_GROUPS, MARKET_GROUPS, VOCABULARY
from extractors.labels import Labels
from extractors.matlab import read_mat, read_structure
from reid_index.errors import BadSource, UsageError


def rows(labels):
    """Key → the attributes of each row, without their prefix."""
    return {
        row.pop(labels.key): {name.removeprefix("attr."): value for name, value in row.items()}
        for row in labels.table.to_pylist()
    }


ONES = {
    **{"gender": "male", "hair": "short", "sleeve": "long", "lower_length": "long"},
    **{"lower_type": "dress", "hat": "no", "backpack": "no", "bag": "no", "handbag": "no"},
    **{"age": "young", "upper_color": None, "lower_color": None},
}
"""What a Market person is whose codes are all 1."""


def test_fields_are_read_by_name_whatever_their_order(tmp_path):
    labels = read_labels(
        market_labels(tmp_path / "market.mat", up=[2, 1], age=[4, 2], downpink=[1, 2])
    )
    assert (labels.key, labels.notes) == ("person", ())
    assert rows(labels) == {
        "0003": ONES | {"bag": "yes", "upper_color": ["blue", "red"]},
        "0002": ONES | {"sleeve": "short", "age": "old"},
        "0007": ONES | {"age": "teenager", "lower_color": ["pink"]},
    }


def test_every_code_of_market(tmp_path):
    second = {name: [2] for name in MARKET}
    path = write_labels(
        tmp_path / "m.mat", "market_attribute", {"test": part(MARKET, ["0001"], **second)}
    )
    (found,) = rows(read_labels(path)).values()
    assert found == {
        **{"gender": "female", "hair": "long", "sleeve": "short", "lower_length": "short"},
        **{"lower_type": "pants", "hat": "yes", "backpack": "yes", "bag": "yes", "handbag": "yes"},
        "age": "teenager",
        "upper_color": ["black", "blue", "gray", "green", "purple", "red", "white", "yellow"],
        "lower_color": [
            *("black", "blue", "brown", "gray", "green", "pink", "purple", "white", "yellow"),
        ],
    }
    assert found.keys() == MARKET_GROUPS.keys()


def test_every_code_of_duke(tmp_path):
    first = {name: [1, 2] for name in DUKE}
    path = write_labels(
        tmp_path / "d.mat", "duke_attribute", {"train": part(DUKE, ["0008", "7140"], **first)}
    )
    found = rows(read_labels(path))
    nothing = dict.fromkeys(("boots", "hat", "backpack", "bag", "handbag"), "no")
    assert found["0008"] == {
        **{"gender": "male", "sleeve": "short", **nothing, "shoes": "dark"},
        **{"upper_color": None, "lower_color": None},
    }
    everything = dict.fromkeys(nothing, "yes")
    colors = ["black", "blue", "brown", "gray", "green", "red", "white"]
    assert found["7140"] == {
        **{"gender": "female", "sleeve": "long", **everything, "shoes": "light"},
        **{"upper_color": sorted([*colors, "purple"]), "lower_color": colors},
    }
    assert found["7140"].keys() == DUKE_GROUPS.keys()


def test_words_are_those_of_the_vocabulary(tmp_path):
    table = read_labels(market_labels(tmp_path / "market.mat", up=[2, 1])).table
    for name in MARKET_GROUPS:
        column, meant = table[f"attr.{name}"], VOCABULARY[name]
        assert pa.types.is_list(column.type) == meant.is_set
        kind = pa.list_(pa.string()) if meant.is_set else pa.dictionary(pa.int32(), pa.string())
        assert column.type == kind
        values = column.drop_null().to_pylist()
        words = {word for value in values for word in (value if meant.is_set else [value])}
        assert words <= set(meant.words)


def test_codes_outside_their_range_are_unknown_and_told(tmp_path):
    parts = {"train": part(DUKE, ["0001", "0002", "0003"], top=[0, 2, 9], upred=[2, 2, 1])}
    parts["train"]["upblue"] = np.array([[2.0, np.nan, 1.5]])
    path = write_labels(tmp_path / "d.mat", "duke_attribute", parts)
    labels = read_labels(path)
    found = rows(labels)
    assert [found[person]["sleeve"] for person in found] == [None, "long", None]
    assert [found[person]["upper_color"] for person in found] == [["blue", "red"], None, None]
    assert labels.notes == (
        f"{path}, train: the field 'top' has codes from 1 to 2, and 0, 9 for 2 persons: unknown",
        f"{path}, train: the field 'upblue' has codes from 1 to 2, and 1.5, nan for 2 persons: "
        "unknown",
    )
    with pytest.raises(BadSource, match=r"the field 'top' has codes from 1 to 2, and 0, 9"):
        read_labels(path, strict=True)


def spoil(parts, name, value):
    """Another value of a field of train; None: without it."""
    if value is None:
        del parts["train"][name]
    else:
        parts["train"][name] = value


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("hat", None, "train: there is no field 'hat'; get"),
        ("image_index", None, "there is no field 'image_index'"),
        ("cap", np.ones((1, 2), np.uint8), "train: nobody knows the field 'cap'; get"),
        ("hat", np.ones((1, 3), np.uint8), "the field 'hat' has 3 codes for 2 persons"),
        ("hat", np.ones((1, 0), np.uint8), "the field 'hat' has 0 codes for 2 persons"),
        ("hat", "no", "the field 'hat' has no numbers"),
        ("hat", {"a": 1}, "the field 'hat' has no numbers"),
        ("image_index", {"a": 1}, "image_index is no list of persons"),
        ("image_index", np.array([1.5, 2]), "image_index is no list of persons"),
        ("image_index", np.array(["0002", "abcd"]), "image_index has 'abcd' for person 2; a num"),
        ("image_index", np.array(["0002", "0003", "0004"]), "2 codes for 3 persons"),
    ],
)
def test_fields_that_are_missing_unknown_or_of_another_kind(name, value, message, tmp_path):
    parts = {"train": part(MARKET, ["0002", "0007"])}
    spoil(parts, name, value)
    path = write_labels(tmp_path / "m.mat", "market_attribute", parts)
    with pytest.raises(BadSource, match=message) as refused:
        read_labels(path)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"market_attribute": {"val": {"a": 1}}}, "has train and test, not 'val'"),
        ({"market_attribute": {"train": 1.0}}, "train: it is not a structure of fields"),
        ({"market_attribute": np.ones(3)}, "market_attribute is not one structure of fields"),
        ({"others": {"train": {"a": 1}}}, "no variable 'market_attribute or duke_attribute'.*oth"),
    ],
)
def test_files_of_something_else(content, message, tmp_path):
    savemat(tmp_path / "m.mat", content)
    with pytest.raises(BadSource, match=message):
        read_labels(tmp_path / "m.mat")


def test_files_that_hold_no_labels_at_all(tmp_path):
    with pytest.raises(BadSource, match=r"nothing\.mat: there is no such"):
        read_labels(tmp_path / "nothing.mat")
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(BadSource, match=r"labels are in a \.mat, \.csv or \.parquet file"):
        read_labels(tmp_path / "a.txt")
    with pytest.raises(UsageError, match="its rows are of persons, not by item"):
        read_labels(market_labels(tmp_path / "m.mat"), by="item")


def test_persons_are_numbers_as_file_names_have_them(tmp_path):
    for persons in (np.array([2, 7], np.uint16), np.array(["2", "07"]), np.array(["0002", "0007"])):
        parts = {"train": part(MARKET, ["", ""])}
        parts["train"]["image_index"] = persons
        path = write_labels(tmp_path / "m.mat", "market_attribute", parts)
        assert list(rows(read_labels(path))) == ["0002", "0007"]


def test_a_person_in_both_parts(tmp_path):
    parts = {"train": part(MARKET, ["0002"], hat=[2]), "test": part(MARKET, ["0001", "0002"])}
    path = write_labels(tmp_path / "m.mat", "market_attribute", parts)
    with pytest.raises(BadSource, match=r"person '0002' is there twice, and hat is (yes|no) and"):
        read_labels(path)
    parts["test"] = part(MARKET, ["0001", "0002"], hat=[1, 2])
    write_labels(path, "market_attribute", parts)
    assert sorted(rows(read_labels(path))) == ["0001", "0002"]


# Whom they are of


def test_labels_beside_items():
    table = pa.table({"person": ["0003", "0002", "0009"], "attr.hat": ["yes", "no", "no"]})
    items = pa.table(
        {
            "item": [10, 11, 12, 13, 14],
            "person": ["0002", None, "0003", "0005", "0002"],
        }
    )
    joined = join_labels(Labels(table=table, key="person"), items)
    assert joined.table.to_pylist() == [
        {"item": 10, "attr.hat": "no"},
        {"item": 12, "attr.hat": "yes"},
        {"item": 14, "attr.hat": "no"},
    ]
    assert (joined.without, joined.items_without) == (["0005"], 1)
    assert (joined.strangers, joined.unnamed) == (1, 1)


def test_labels_of_nobody_here():
    table = pa.table({"item": [7], "attr.hat": ["yes"]})
    joined = join_labels(Labels(table=table, key="item"), pa.table({"item": [1, 2]}))
    assert (joined.table.num_rows, joined.strangers) == (0, 1)
    assert joined.without == ["1", "2"]


# The files themselves


def saved(content, *, compress=False):
    file = io.BytesIO()
    savemat(file, content, do_compression=compress)
    return file.getvalue()


def test_a_structure_and_what_is_in_it(tmp_path):
    path = tmp_path / "s.mat"
    content = {"a": {"b": {"c": np.arange(3)}, "d": "text"}, "e": np.ones(2)}
    for compress in (False, True):
        path.write_bytes(saved(content, compress=compress))
        name, found = read_structure(path, "z", "a", layout="a structure")
        assert (name, list(found)) == ("a", ["b", "d"])
        assert found["b"]["c"].ravel().tolist() == [0, 1, 2]
        assert found["d"].tolist() == ["text"]
        with pytest.raises(BadSource, match=r"a structure, where tables and lists are expected"):
            read_mat(path, "e", layout="a table")
    with pytest.raises(BadSource, match="there is no variable 'y', it holds a, e"):
        read_structure(path, "y", layout="a structure")
    savemat(path, {"a": np.array([(1, 2), (3, 4)], [("x", "O"), ("y", "O")])})
    with pytest.raises(BadSource, match="a is not one structure of fields"):
        read_structure(path, "a", layout="a structure")


LENGTH = struct.pack("<HHI", 5, 4, 3)
NAMES = b"bb\0cc\0"
ONE = struct.pack("<ii", 1, 1)
"""In the structure below: how long names of fields are, these names, and its size."""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (LENGTH, struct.pack("<HHI", 5, 4, 0), "a structure without names of fields"),
        (LENGTH, struct.pack("<HHi", 5, 4, -3), "a structure without names of fields"),
        (LENGTH, struct.pack("<HHI", 5, 4, 4), "a structure without names of fields"),
        (LENGTH, struct.pack("<HHI", 6, 4, 3), "a structure without names of fields"),
        (LENGTH, struct.pack("<HHI", 5, 4, 6), "of no proper name"),
        (struct.pack("<II", 1, 6), struct.pack("<II", 2, 6), "a structure without names of fields"),
        (NAMES, b"bbbccc", "of no proper name"),
        (NAMES, b"bb\0c/\0", "of no proper name"),
        (NAMES, b"bb\0bb\0", "two fields of one name"),
        (ONE, struct.pack("<ii", 1, 2), r"\(1, 2\) with 2 elements"),
        (ONE, struct.pack("<ii", 0, 1), r"\(0, 1\) with 2 elements"),
    ],
    ids=range(11),
)
def test_damaged_structures_are_told(old, new, message, tmp_path):
    path = tmp_path / "s.mat"
    content = saved({"a": {"bb": "xyz", "cc": "xyz"}})
    assert old in content
    path.write_bytes(content.replace(old, new, 1))
    with pytest.raises(BadSource, match=message):
        read_structure(path, "a", layout="a structure")


def test_a_text_that_claims_more_than_it_has(tmp_path):
    path = tmp_path / "s.mat"
    content = saved({"a": {"bb": "xyz"}})
    head = struct.pack("<ii", 1, 3)
    assert content.count(head) == 1
    path.write_bytes(content.replace(head, struct.pack("<ii", 2**15, 2**15)))
    with pytest.raises(BadSource, match=r"a text of \(32768, 32768\) in 3 bytes"):
        read_structure(path, "a", layout="a structure")


def test_files_of_version_4_by_their_first_bytes(tmp_path):
    path = tmp_path / "s.mat"
    content = saved({"a": {"bb": "xyz"}})
    path.write_bytes(b"\0\0\0\0" + content[4:])
    with pytest.raises(BadSource, match="it has no header"):
        read_structure(path, "a", layout="a structure")


MUTATE = """
import sys
from pathlib import Path
from test_attribute_labels import mutated_files
from extractors.attribute_labels import read_labels
from reid_index.errors import BadSource
path, refused = Path(sys.argv[1]), 0
for content in mutated_files(500):
    path.write_bytes(content)
    try:
        read_labels(path)
    except BadSource as error:
        assert "\\n" not in str(error), error
        refused += 1
print(refused)
"""


def mutated_files(count):
    """Files of labels with some bytes spoiled, copied or lost: sizes and types above all."""
    whole = saved({"market_attribute": {"train": part(MARKET, ["0002", "0007"])}})
    for seed in range(count):
        draw = random.Random(seed)
        content = bytearray(whole)
        for _ in range(draw.choice([1, 1, 2, 4])):
            at = draw.randrange(128, len(content))
            how = draw.randrange(5)
            if how < 2:
                number = draw.choice([0, 1, 2, 4, 5, 6, 8, 14, 64, 2**16, 2**31 - 1, 2**32 - 1])
                content[at - at % 4 : at - at % 4 + 4] = struct.pack("<I", number)
            elif how == 2:
                content[at] ^= 1 << draw.randrange(8)
            elif how == 3:
                del content[at : at + draw.choice([1, 4, 8, 64])]
            else:
                begin = draw.randrange(len(content))
                content[at:at] = content[begin : begin + draw.choice([8, 16, 56])]
        yield bytes(content)


def test_no_damage_ends_the_interpreter(tmp_path):
    """In a process of its own: what ends SciPy ends the interpreter with it."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", MUTATE, str(tmp_path / "m.mat")],
        env=ENVIRONMENT | {"PYTHONPATH": f"{ENVIRONMENT['PYTHONPATH']}:{Path(__file__).parent}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert 250 <= int(done.stdout) < 500


# The real ones


def test_the_labels_of_market_1501():
    labels = read_labels(real("market1501", "market_attribute.mat"))
    assert labels.notes == ()
    assert labels.table.num_rows == 1501
    unknown = {name: labels.table[f"attr.{name}"].null_count for name in labels.names}
    assert unknown == dict.fromkeys(MARKET_GROUPS, 0) | {"upper_color": 147, "lower_color": 74}
    found = rows(labels)
    assert sum(row["sleeve"] == "short" for row in found.values()) == 705 + 712
    assert sum(row["hat"] == "yes" for row in found.values()) == 43
    assert sum(row["lower_type"] == "dress" for row in found.values()) == 85 + 110
    assert [row["age"] for row in found.values()].count("young") == 2 + 14


def test_the_labels_of_dukemtmc_reid():
    path = real("duke_attribute.mat")
    labels = read_labels(path)
    assert labels.notes == (
        f"{path}, train: the field 'top' has codes from 1 to 2, and 0 for 2 persons: unknown",
    )
    assert labels.table.num_rows == 1812
    unknown = {name: labels.table[f"attr.{name}"].null_count for name in labels.names}
    assert unknown["sleeve"] == 2
    found = [row["lower_color"] or () for row in rows(labels).values()]
    assert sum(len(colors) > 1 for colors in found) >= 23
    assert sum(row["sleeve"] == "long" for row in rows(labels).values()) == 107 + 115
