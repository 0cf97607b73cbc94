"""Files that claim what they do not hold: nothing is made room for on their word alone."""

import io
import json
import os
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from scipy.io import savemat

from extractors.boxes import read_boxes
from extractors.checkpoint import load_state_dict
from extractors.embeddings import read_vectors
from extractors.images import read_image
from extractors.matlab import read_mat
from extractors.pictures import read_items
from extractors.preprocess import read_card
from reid_index import Fingerprint, Metric
from reid_index.errors import (
    BadShard,
    BadSource,
    BadWeights,
    CorruptGallery,
    UnreadableImage,
)
from reid_index.evaluation.calibration import Calibration
from reid_index.footer import read_claims
from reid_index.reading import ParquetTable, number, parse_json, read_json, text, whole
from reid_index.reranking.graph import make_graph, read_graph, write_graph
from reid_index.reranking.rerank import Reranking
from reid_index.search.index import IndexFacts
from reid_index.store.shard import open_shard, write_shard
from reid_index.store.vectors import ArrayStream


def drawn(path: Path, colour: str = "red") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 16), colour).save(path)
    return path


def parquet(path: Path, table: pa.Table, **options: Any) -> Path:
    pq.write_table(table, path, compression="zstd", **options)
    assert path.stat().st_size < 10**6
    return path


def repeated(size: int, times: int) -> pa.Array:
    """One long text again and again, which take little as long as they are not made plain."""
    places = pa.array(np.zeros(times, np.int32))
    return pa.DictionaryArray.from_arrays(places, ["x" * size])


BOMBS = {
    "one text a thousand times": lambda: pa.table({"file": repeated(10**6, 1100)}),
    "a thousand texts in a list": lambda: pa.table(
        {"file": ["a.png"], "tags": pa.ListArray.from_arrays([0, 1100], repeated(10**6, 1100))}
    ),
    "thirty million rows": lambda: pa.table({"file": pa.nulls(3 * 10**7)}),
}


@pytest.mark.parametrize("make", BOMBS.values(), ids=BOMBS)
def test_parquet_that_becomes_gigabytes_is_refused(make, tmp_path):
    path = parquet(tmp_path / "l.parquet", make(), store_schema=False)
    with pytest.raises(BadSource, match="than its size can mean"):
        read_items(path)


def test_parquet_of_lists_without_end_is_refused(monkeypatch, tmp_path):
    lists = pa.ListArray.from_arrays([0, 10**6, 10**6], pa.array(np.zeros(10**6)))
    path = parquet(tmp_path / "l.parquet", pa.table({"file": ["a.png"] * 2, "x": lists}))
    ParquetTable(path)
    monkeypatch.setattr("reid_index.reading.ALWAYS", 2**20)
    with pytest.raises(ValueError, match="it claims 2 rows, of more bytes than its size can mean"):
        ParquetTable(path)


@pytest.mark.parametrize("options", [{}, {"row_group_size": 7, "data_page_version": "2.0"}])
def test_a_footer_is_read_as_arrow_reads_it(options, tmp_path):
    numbers = pa.array([None, *range(99)])
    table = pa.table(
        {"n": numbers, "t": numbers.cast(pa.string()), "l": [[1.5, 2], [], None] * 33 + [[]]}
    )
    path = parquet(tmp_path / "t.parquet", table, **options)
    facts = pq.read_metadata(path)
    columns = [
        facts.row_group(group).column(column)
        for group in range(facts.num_row_groups)
        for column in range(facts.num_columns)
    ]
    with path.open("rb") as file:
        found = read_claims(file)
    assert found.values == sum(column.num_values for column in columns) > 300
    assert found.size == sum(column.total_uncompressed_size for column in columns)
    content = path.read_bytes()
    for damaged in (
        content[:-1],
        content[:40] + content[-8:],
        b"",
        b"PAR1",
        content[:-9] + bytes(9),
    ):
        with pytest.raises(ValueError, match=r"footer|no Parquet"):
            read_claims(io.BytesIO(damaged))


def test_a_footer_that_claims_less_than_nothing_is_refused(tmp_path):
    path = parquet(tmp_path / "t.parquet", pa.table({"n": range(100)}))
    content = path.read_bytes()
    # 100 and −100 as Thrift writes them, 200 and 199 in seven bits a byte.
    below = content[:-500] + content[-500:].replace(b"\xc8\x01", b"\xc7\x01")
    assert below != content
    with pytest.raises(ValueError, match="it claims less than nothing"):
        read_claims(io.BytesIO(below))


def test_a_table_of_millions_of_equal_rows_is_none(tmp_path):
    table = pa.table({"camera": pa.nulls(10**6, pa.int32()), "video": ["hall.mp4"] * 10**6})
    path = parquet(tmp_path / "t.parquet", table)
    assert ParquetTable(path, rows=10**6).read().equals(table)


def test_parquet_is_read_as_it_was_written(tmp_path):
    table = pa.table(
        {
            "text": ["a", None, "é"],
            "coded": pa.array(["x", "y", None]).dictionary_encode(),
            "tags": [["p", None], [], None],
            "box": pa.array([[1.0, 2, 3, 4], None, [5.0, 6, 7, 8]], pa.list_(pa.float32())),
            "item": [1, 2, 3],
        }
    )
    read = ParquetTable(parquet(tmp_path / "t.parquet", table, row_group_size=2))
    whole_table = read.read()
    assert whole_table.schema.types == table.schema.types
    assert whole_table.to_pydict() == table.to_pydict()
    assert pa.concat_tables(read.batches(2)).to_pydict() == table.to_pydict()
    assert read.read(["item"]).column_names == ["item"]


@pytest.mark.parametrize("rows", [1, 3, 4, 10])
def test_lists_of_text_are_read_over_groups_of_rows(tmp_path, rows):
    table = pa.table({"tags": [["p", "q"], None, ["p"], ["r"], [], ["q"], ["p", "r"]]})
    read = ParquetTable(parquet(tmp_path / "t.parquet", table, row_group_size=3))
    assert read.read().to_pydict() == table.to_pydict()
    batches = list(read.batches(rows))
    assert pa.concat_tables(batches).to_pydict() == table.to_pydict()
    assert max(batch.num_rows for batch in batches) <= rows


def test_parquet_whose_text_is_not_utf8_is_refused(tmp_path):
    path = parquet(tmp_path / "t.parquet", pa.table({"file": ["mmmmmmmm.png"]}), version="1.0")
    path.write_bytes(path.read_bytes().replace(b"mmmmmmmm", b"mmmm\xff\xffmm"))
    with pytest.raises(BadSource, match=r"cannot be read as a table: .*UTF8"):
        read_items(path)


def npy_claiming(path: Path, shape: str) -> Path:
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    path.write_bytes(b"\x93NUMPY\x01\x00v\x00" + header.encode() + bytes(64))
    return path


@pytest.mark.parametrize(
    "shape", ["(10**12, 8)", "(1000000000000, 8)", "(4294967296, 4294967296)", f"({10**30}, 8)"]
)
def test_npy_that_claims_more_than_the_file_has(shape, tmp_path):
    with pytest.raises(BadSource, match="cannot be read as vectors"):
        read_vectors(npy_claiming(tmp_path / "v.npy", shape))
    assert read_vectors(npy_claiming(tmp_path / "v.npy", "(2, 8)"))[0].shape == (2, 8)


def test_hdf5_that_claims_more_than_the_file_has(tmp_path):
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file.create_dataset("global", shape=(10**6, 10**6), dtype="f4", chunks=(1000, 1000))
    with pytest.raises(BadSource, match=r"claims \(1000000, 1000000\) vectors"):
        read_vectors(tmp_path / "v.h5")


def test_hdf5_that_leads_to_other_files(tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["global"] = np.ones((2, 3))
    path = tmp_path / "v.h5"
    with h5py.File(path, "w") as file:
        file["global"] = h5py.ExternalLink("other.h5", "/global")
    with pytest.raises(BadSource, match="holds the data sets none"):
        read_vectors(path)
    (tmp_path / "raw").write_bytes(bytes(24))
    with h5py.File(path, "w") as file:
        file.create_dataset("global", (2, 3), "f4", external=[(str(tmp_path / "raw"), 0, 24)])
    with pytest.raises(BadSource, match="in another file"):
        read_vectors(path)
    layout = h5py.VirtualLayout((2, 3), "f8")
    layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "global", (2, 3))
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("global", layout)
    with pytest.raises(BadSource, match="in another file"):
        read_vectors(path)


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    write_shard(
        tmp_path / "shard",
        arrays={"global": ArrayStream.of(np.eye(4, dtype=np.float32))},
        items=[pa.table({"source": ["mmmmmmmm.png"] * 4})],
        fingerprint=Fingerprint(name="a", version="1"),
        metric=Metric.COSINE,
    )
    return tmp_path / "shard"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": 10**12}, "1000000000000 rows of 4 dimensions are more than vectors.h5 holds"),
        ({"dim": 2**40}, "4 rows of 1099511627776 dimensions are more than vectors.h5 holds"),
        ({"rows": -1}, "rows is -1, not a whole number from 0"),
        ({"rows": "4"}, "rows is '4', not a whole number"),
        ({"dim": 0}, "dim is 0, not a whole number from 1"),
        ({"dtype": "float64"}, "dtype is 'float64', not float32 or float16"),
        ({"max_norm": 10**400}, "max_norm is 1000.*, not a finite number"),
        ({"root": 5}, "root is 5, not a text"),
        ({"requires": 5}, "what it requires is 5, not a list"),
        ({"fingerprint": {"name": 5, "version": "1"}}, "the fingerprint's name is 5, not a text"),
    ],
)
def test_what_a_shard_claims_is_what_it_holds(change, message, shard):
    assert len(open_shard(shard).vectors) == 4
    path = shard / "shard.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(BadShard, match=message):
        open_shard(shard)


def test_vectors_of_a_shard_are_in_its_own_file(shard, tmp_path):
    (shard / "vectors.h5").rename(tmp_path / "other.h5")
    with h5py.File(shard / "vectors.h5", "w") as file:
        file["global"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/global")
        file["room"] = np.zeros(64)
    with pytest.raises(BadShard, match="holds no global array"):
        _ = open_shard(shard).vectors


def test_items_of_a_shard_are_looked_at_like_any_table(shard):
    path = shard / "items.parquet"
    content = path.read_bytes()
    file = pq.read_table(path)
    pq.write_table(file, path, compression="none", use_dictionary=False)
    path.write_bytes(path.read_bytes().replace(b"mmmmmmmm", b"mmmm\xff\xffmm"))
    with pytest.raises(BadShard, match=r"not a readable Parquet file \(.*UTF8"):
        _ = open_shard(shard).items
    path.write_bytes(content[:-20])
    for read in (lambda: open_shard(shard).columns, lambda: open_shard(shard).items):
        with pytest.raises(BadShard, match="not a readable Parquet file"):
            read()


def test_a_picture_file_of_gigabytes_is_not_read(tmp_path):
    path = drawn(tmp_path / "a.png")
    os.truncate(path, 2**30 + 1)  # a hole, which takes no place on the disk
    with pytest.raises(UnreadableImage, match="over 1,073,741,824 bytes"):
        read_image(path)


def test_lists_of_gigabytes_and_devices_are_not_read(tmp_path):
    path = tmp_path / "boxes.json"
    path.write_text("{}")
    os.truncate(path, 2**30 + 1)
    os.mkfifo(tmp_path / "pipe.csv")
    tracemalloc.start()
    with pytest.raises(BadSource, match="more than 1,073,741,824 bytes"):
        read_boxes(path, pictures=tmp_path)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()
    with pytest.raises(BadSource, match="it is not a file"):
        read_boxes(tmp_path / "pipe.csv", pictures=tmp_path)


def test_matlab_files_that_claim_more_than_they_have(tmp_path):
    path = tmp_path / "m.mat"
    savemat(path, {"table": np.zeros((4, 4))})
    head = np.array([4, 4], "<i4").tobytes()
    content = path.read_bytes()
    assert content.count(head) == 1
    path.write_bytes(content.replace(head, np.array([2**20, 2**20], "<i4").tobytes()))
    with pytest.raises(BadSource, match="claims more than its size can mean"):
        read_mat(path, "table", layout="a table")


def test_checkpoints_that_unpack_to_more_than_their_size_can_mean(tmp_path):
    path = tmp_path / "w.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/version", "3")
        archive.writestr("archive/data/0", bytes(1))
    content = path.read_bytes()
    # Its list of contents says 4 GiB − 2 for the one byte.
    at = content.rindex(b"PK\x01\x02") + 24
    path.write_bytes(content[:at] + b"\xfe\xff\xff\xff" + content[at + 4 :])
    with pytest.raises(BadWeights, match=r"cannot be read as a checkpoint .*ValueError"):
        load_state_dict(path)


CARD = {
    **{"height": 32, "width": 16, "color_order": "RGB", "interpolation": "bilinear"},
    **{"scale": 1, "mean": [0, 0, 0], "std": [1, 1, 1]},
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"height": 4096, "width": 2048}, "an input of 4096 × 2048 pixels is over the limit of"),
        ({"height": 10**30}, "over the limit"),
        ({"mean": [0] * 10**5}, "give a list of three numbers"),
        ({"scale": 10**400}, "give a number"),
        ({"std": [1e-300, 1, 1]}, "too large for single precision"),
    ],
)
def test_cards_beyond_all_measure(change, message, tmp_path):
    path = tmp_path / "m.json"
    path.write_text(json.dumps(CARD))
    assert read_card(path).height == 32
    path.write_text(json.dumps(CARD | change))
    with pytest.raises(BadWeights, match=message) as refused:
        read_card(path)
    assert len(str(refused.value)) < 300
    path.write_text(json.dumps(CARD) + " " * 2**20)
    with pytest.raises(BadWeights, match="more than 1,048,576 bytes"):
        read_card(path)


def test_a_model_for_a_million_crops_at_once_is_refused(tmp_path):
    onnx = pytest.importorskip("onnx")
    from extractors.onnx import OnnxExtractor
    from extractors.preprocess import preprocess_from

    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["x"], ["y"])],
        "flat",
        [helper.make_tensor_value_info("x", kind, [10**6, 3, 32, 16])],
        [helper.make_tensor_value_info("y", kind, [10**6, 1536])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(BadWeights, match="it wants 1000000 crops at once, and can have 1 to 1024"):
        OnnxExtractor(tmp_path / "m.onnx", preprocess=preprocess_from(CARD, where="card"))


# JSON


def test_json_is_read_within_limits(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"a": 1}')
    assert read_json(path) == {"a": 1}
    with pytest.raises(ValueError, match="more than 7 bytes"):
        read_json(path, most=7)
    with pytest.raises(ValueError, match="brackets within brackets"):
        parse_json("[" * 100_000)
    for word in ("NaN", "Infinity", "-Infinity"):
        with pytest.raises(ValueError, match=f"{word} is no number of JSON"):
            parse_json(f"[{word}]")


def test_fields_are_of_their_type_and_within_bounds():
    assert whole(2**62, name="n") == 2**62
    assert number(3, name="x", most=3) == 3.0
    assert text("é", name="t") == "é"
    for value in (True, 1.0, "1", None, -1, 2**63, [1]):
        with pytest.raises(ValueError, match=r"n is .*, not a whole number from 0 to"):
            whole(value, name="n")
    for value in (True, "1", None, float("inf"), float("nan"), 10**400, -0.5, 1.5):
        with pytest.raises(ValueError, match=r"x is .*, not a finite number from 0 to 1"):
            number(value, name="x", least=0, most=1)
    for value in (1, None, "\ud800", ["a"]):
        with pytest.raises(ValueError, match=r"t is .*, not a text|surrogates not allowed"):
            text(value, name="t")


@pytest.mark.parametrize(
    "change",
    [
        {"name": 5},
        {"height": 0},
        {"height": 1.5},
        {"flip": 1},
        {"scale": "1"},
        {"mean": [0.5, [1]]},
        {"std": [1.0] * 65},
        {"pooling": {}},
    ],
)
def test_a_fingerprint_has_fields_of_their_types(change):
    sound = Fingerprint(name="a", version="1", height=4, mean=(0.5, 1.0), flip=True).to_json()
    assert Fingerprint.from_json(sound).mean == (0.5, 1.0)
    with pytest.raises(BadShard, match=f"the fingerprint's {next(iter(change))} is"):
        Fingerprint.from_json(sound | change)


CALIBRATION = {
    **{"metric": "cosine", "span": 1.0, "origin": "labels", "same_camera": False, "rows": 4},
    **{"generation": 1, "items": 4, "usable": 4, "false_match_rate": 0.1},
    "bins": [[0, 0, 5], [65535, 3, 0]],
}


@pytest.mark.parametrize(
    "change",
    [
        {"bins": [[-1, 3, 5]]},
        {"bins": [[65536, 3, 5]]},
        {"bins": [[0, 2**63 - 1, 5], [1, 2**63 - 1, 5]]},
        {"bins": [[0, 3, 0]]},
        {"span": 0},
        {"rows": 1e400},
    ],
)
def test_calibrations_count_in_bins_that_there_are(change):
    assert Calibration.from_json(CALIBRATION).negatives == 5
    with pytest.raises(ValueError, match=r"not a |it counts no pairs|its span is"):
        Calibration.from_json(CALIBRATION | change)


EFFORT = {
    **{"value": 8, "probe": 4, "fetch": 2, "agreement": 0.5, "rows_single": 1.0},
    **{"rows_batch": 1.0, "recall": 0.9, "accepted": 0.9},
}
FACTS = {
    **{"kind": "ivf", "rows": 100, "dim": 4, "metric": "cosine", "parameters": {"cells": 4}},
    **{"batch_scan": 1.0, "build_seconds": 1, "tune_seconds": 1, "versions": {"faiss": "1"}},
    "tuned": [{"share": 0.5, "k": 10, "wanted": 0.9, "effort": EFFORT}],
}


@pytest.mark.parametrize(
    "change",
    [{"value": 2**40}, {"fetch": 2**20}, {"probe": 0}, {"agreement": 2}, {"rows_single": 1e400}],
)
def test_an_index_asks_for_no_effort_beyond_all_measure(change):
    assert IndexFacts.from_json(FACTS).tuned[0].effort.value == 8
    tuned = [FACTS["tuned"][0] | {"effort": EFFORT | change}]
    with pytest.raises(ValueError, match="not a "):
        IndexFacts.from_json(FACTS | {"tuned": tuned})


def test_offsets_of_a_graph_ascend_even_where_differences_overflow(tmp_path):
    vectors = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    graph = make_graph(vectors, items=np.arange(30), reranking=Reranking(k1=5, k2=2))
    write_graph(tmp_path, graph)
    read_graph(tmp_path, rows=30)
    with h5py.File(tmp_path / "graph.h5", "r+") as file:
        last = file["set_offsets"][-1]
        # The steps 2⁶² − 0, −2⁶² − 2⁶², … all come out positive in 64 bits, or small.
        file["set_offsets"][1:4] = [2**62, -(2**63), -1]
        file["set_offsets"][-1] = last
    with pytest.raises(CorruptGallery, match="its offsets do not ascend"):
        read_graph(tmp_path, rows=30)


def test_distances_of_a_graph_are_numbers(tmp_path):
    vectors = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    graph = make_graph(vectors, items=np.arange(30), reranking=Reranking(k1=5, k2=2))
    write_graph(tmp_path, graph)
    with h5py.File(tmp_path / "graph.h5", "r+") as file:
        file["farthest"][7] = np.nan
    with pytest.raises(CorruptGallery, match="it has distances that are none"):
        read_graph(tmp_path, rows=30)
