"""Shards: what is written can be read back, mapped in place, and bad ones are refused."""

import json
import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import FINGERPRINT
from numpy.typing import NDArray

from reid_index import ArrayStream, Metric, Shard, open_shard, write_shard
from reid_index.errors import BadItems, BadShard, FormatTooNew, NotFiniteError, UsageError
from reid_index.fingerprint import Fingerprint
from reid_index.store.shard import merge_shards
from reid_index.store.vectors import map_vectors


def write(path: Path, vectors: NDArray[Any], items: Any = None, **options: Any) -> Shard:
    arrays = {"global": ArrayStream.of(vectors), **options.pop("more", {})}
    tables = [pa.table({"camera": range(len(vectors))})] if items is None else items
    options = {"fingerprint": FINGERPRINT, "metric": Metric.EUCLIDEAN, **options}
    write_shard(path, arrays=arrays, items=tables, **options)
    return open_shard(path)


def test_everything_comes_back(tmp_path: Path) -> None:
    fingerprint = Fingerprint(
        name="onnx", version="2", weights_sha256="ab", height=256, scale=1 / 255, mean=(0.5, 0.25)
    )
    parts = np.arange(12, dtype=np.float32).reshape(2, 3, 2) / 8
    visible = np.array([[1, 0, 1], [0, 0, 1]], np.uint8)
    shard = write(
        tmp_path / "s",
        np.array([[3, 4], [0.5, 0]]),
        more={"visible": ArrayStream.of(visible), "parts": ArrayStream.of(parts)},
        fingerprint=fingerprint,
        root="/crops",
    )
    assert shard.header.fingerprint == fingerprint
    assert (shard.header.rows, shard.header.dim, shard.header.root) == (2, 2, "/crops")
    assert (shard.header.max_norm, shard.header.normalised) == (5.0, False)
    assert shard.header.metric is Metric.EUCLIDEAN
    assert shard.vectors.tolist() == [[3, 4], [0.5, 0]]
    assert shard.arrays["parts"].tolist() == parts.tolist()
    assert shard.arrays["visible"].tolist() == visible.tolist()
    assert shard.items["camera"].to_pylist() == [0, 1]
    assert np.concatenate(list(shard.pieces("global"))).tolist() == [[3, 4], [0.5, 0]]


@pytest.mark.parametrize(("rows", "is_mapped"), [(2, False), (2**17, False), (2**17 + 1, True)])
def test_large_arrays_are_mapped_in_place_and_all_are_read_only(
    tmp_path: Path, rows: int, is_mapped: bool
) -> None:
    """Up to a mebibyte they are read: a mapping takes a descriptor, and shards may be many."""
    written = np.arange(2 * rows, dtype=np.float32).reshape(rows, 2)
    shard = write(tmp_path / "s", written, metric=Metric.EUCLIDEAN)
    vectors = shard.vectors
    assert isinstance(vectors, np.memmap) == is_mapped
    assert (vectors.dtype, np.array_equal(vectors, written)) == (np.float32, True)
    with pytest.raises(ValueError, match="read-only"):
        vectors[0, 0] = 2


def test_many_small_shards_take_no_descriptors(tmp_path: Path) -> None:
    shards = [write(tmp_path / f"{number}", np.ones((2, 3))) for number in range(20)]
    before = len(os.listdir("/proc/self/fd"))
    kept = [shard.arrays for shard in shards]
    assert len(os.listdir("/proc/self/fd")) == before
    maps = Path("/proc/self/maps").read_text()
    assert str(tmp_path) not in maps
    assert len(kept) == 20


def test_cosine_rows_get_length_1(tmp_path: Path) -> None:
    shard = write(tmp_path / "s", np.array([[3, 4], [0, -2]]), metric=Metric.COSINE)
    assert shard.vectors.tolist() == np.array([[0.6, 0.8], [0, -1]], np.float32).tolist()
    assert shard.header.normalised


def test_half_precision_keeps_the_norm_of_what_is_stored(tmp_path: Path) -> None:
    shard = write(tmp_path / "s", np.array([[2049.0, 0]]), dtype="float16")
    assert shard.vectors.dtype == np.float16
    assert shard.vectors.tolist() == [[2048, 0]]
    assert shard.header.max_norm == 2048


def test_pieces_that_cross_the_borders_of_the_stream(tmp_path: Path) -> None:
    vectors = np.arange(9000, dtype=np.float32)[:, None]
    pieces = iter([vectors[:5000], vectors[5000:5001], vectors[5001:]])
    write_shard(
        tmp_path / "s",
        arrays={"global": ArrayStream((9000, 1), np.float32, pieces)},
        items=[pa.table({"camera": range(4000)}), pa.table({"camera": range(4000, 9000)})],
        fingerprint=FINGERPRINT,
        metric=Metric.INNER_PRODUCT,
    )
    shard = open_shard(tmp_path / "s")
    assert np.array_equal(shard.vectors, vectors)
    assert np.array_equal(np.concatenate(list(shard.pieces("global"))), vectors)
    assert shard.items["camera"].to_pylist() == list(range(9000))


@pytest.mark.parametrize(
    ("vectors", "options", "words"),
    [
        ([[1, 2], [np.nan, 0]], {}, "vector 1 .*NaN"),
        ([[1, 2], [0, -np.inf]], {}, "vector 1 .*Inf"),
        ([[1, 2], [0, 0]], {"metric": Metric.COSINE}, "vector 1 .*length 0"),
        ([[1, 2], [0, 65520]], {"dtype": "float16"}, "vector 1 .*too large for float16"),
        ([[1, 2], [0, 1e39]], {}, "vector 1 .*too large for float32"),
        ([[1, 2], [0, 1e300]], {"metric": Metric.COSINE}, "vector 1 .*too large"),
    ],
)
def test_bad_vectors_leave_nothing(
    tmp_path: Path, vectors: list[list[float]], options: dict[str, Any], words: str
) -> None:
    with pytest.raises(NotFiniteError, match=words):
        write(tmp_path / "s", np.array(vectors), **options)
    assert list(tmp_path.iterdir()) == []


def test_row_of_a_bad_vector_is_counted_over_all_pieces(tmp_path: Path) -> None:
    vectors = np.ones((9000, 1), np.float32)
    vectors[8500] = np.nan
    with pytest.raises(NotFiniteError, match="vector 8500 "):
        write(tmp_path / "s", vectors)


def test_wrong_arguments_leave_nothing(tmp_path: Path) -> None:
    ones = np.ones((2, 3))
    with pytest.raises(BadItems, match="2 vectors but 1 items"):
        write(tmp_path / "s", ones, [pa.table({"camera": [1]})])
    with pytest.raises(BadItems, match="even an empty one"):
        write(tmp_path / "s", ones, [])
    with pytest.raises(BadItems, match="different columns"):
        write(tmp_path / "s", ones, [pa.table({"a": [1]}), pa.table({"b": [1]})])
    with pytest.raises(BadShard, match=r"\(2, 3, 1\)"):
        write(tmp_path / "s", ones[:, :, None])
    with pytest.raises(BadShard, match="visible has 3 rows beside 2 vectors"):
        write(tmp_path / "s", ones, more={"visible": ArrayStream((3, 1), np.uint8, [ones[:, :1]])})
    with pytest.raises(BadShard, match="promised 2 rows, got 1"):
        write(tmp_path / "s", ones, more={"visible": ArrayStream((2, 1), np.uint8, [ones[:1, :1]])})
    with pytest.raises(BadShard, match="else than 0 and 1"):
        write(tmp_path / "s", ones, more={"visible": ArrayStream.of(2 * ones)})
    for bad in (np.nan, np.inf, 1e39):
        parts = np.full((2, 1, 3), bad)
        with pytest.raises(NotFiniteError, match="parts holds NaN, Inf, or"):
            write(tmp_path / "s", ones, more={"parts": ArrayStream.of(parts)})
    with pytest.raises(BadShard, match="heads"):
        write(tmp_path / "s", ones, more={"heads": ArrayStream.of(ones)})
    with pytest.raises(UsageError, match="float64"):
        write(tmp_path / "s", ones, dtype="float64")
    assert list(tmp_path.iterdir()) == []


def test_a_taken_folder_is_kept(tmp_path: Path) -> None:
    write(tmp_path / "s", np.ones((1, 1)))
    with pytest.raises(FileExistsError):
        write(tmp_path / "s", np.zeros((1, 1)))
    assert open_shard(tmp_path / "s").vectors.tolist() == [[1]]
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_what_a_killed_writer_left_is_written_over(tmp_path: Path) -> None:
    (tmp_path / ".s.tmp").mkdir()
    (tmp_path / ".s.tmp" / "vectors.h5").write_bytes(b"half")
    assert write(tmp_path / "s", np.ones((1, 1))).vectors.tolist() == [[1]]
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"chunks": (1, 2)}, "contiguous"),
        ({"compression": "gzip"}, "contiguous"),
        ({"dtype": ">f4"}, "expected float32 or float16"),
        ({"dtype": "f8"}, "expected float32 or float16"),
    ],
)
def test_arrays_that_cannot_be_mapped_are_refused(
    tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file.create_dataset("global", **{"data": np.ones((2, 2)), "dtype": "f4", **options})
    with pytest.raises(BadShard, match=words):
        map_vectors(tmp_path / "v.h5")


def test_other_files_are_not_shards(tmp_path: Path) -> None:
    with pytest.raises(BadShard, match=r"no shard\.json"):
        open_shard(tmp_path)
    (tmp_path / "shard.json").write_text("{")
    with pytest.raises(BadShard, match="not JSON"):
        open_shard(tmp_path)
    (tmp_path / "v.h5").write_bytes(b"nothing")
    with pytest.raises(BadShard, match="not a readable HDF5 file"):
        map_vectors(tmp_path / "v.h5")
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file["heads"] = np.ones((2, 2), np.float32)
        file.create_group("parts")
    with pytest.raises(BadShard, match="parts is a group"):
        map_vectors(tmp_path / "w.h5")


def test_arrays_and_fields_of_a_newer_minor_format_are_left(tmp_path: Path) -> None:
    shard = write(tmp_path / "s", np.ones((2, 2)))
    with h5py.File(shard.folder / "vectors.h5", "a") as file:
        file["of_the_future"] = np.ones((5, 3), np.float32)
    edit_header(shard, format=[1, 9], invented=True)
    assert list(open_shard(shard.folder).arrays) == ["global"]
    edit_header(shard, requires=["deletions"])
    with pytest.raises(FormatTooNew, match=r"know of \['deletions'\]"):
        open_shard(shard.folder)


def test_a_damaged_vector_file_is_a_bad_shard(tmp_path: Path) -> None:
    shard = write(tmp_path / "s", np.ones((2, 2)))
    path = shard.folder / "vectors.h5"
    whole = path.read_bytes()
    refused = 0
    for offset in range(len(whole)):
        path.write_bytes(whole[:offset] + bytes([whole[offset] ^ 0x10]) + whole[offset + 1 :])
        for look in (lambda: open_shard(shard.folder).arrays, lambda: list(shard.pieces("global"))):
            try:
                look()
            except BadShard:
                refused += 1
    assert refused > 100


def test_merging_keeps_every_array(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = [
        {"parts": rng.random((n, 2, 4)).astype(np.float32), "visible": rng.integers(0, 2, (n, 2))}
        for n in (3, 2)
    ]
    rows = [rng.random((n, 5)).astype(np.float32) for n in (3, 2)]
    shards = [
        write(
            tmp_path / f"s{n}", rows[n], more={k: ArrayStream.of(a) for k, a in arrays[n].items()}
        )
        for n in (0, 1)
    ]
    metric = Metric.EUCLIDEAN
    merge_shards(tmp_path / "m", shards=shards, first_item=0, metric=metric, dtype="float32")
    merged = open_shard(tmp_path / "m")
    assert merged.vectors.tolist() == np.concatenate(rows).tolist()
    for name in ("parts", "visible"):
        wanted = np.concatenate([one[name] for one in arrays])
        assert merged.arrays[name].tolist() == wanted.tolist()


def test_merging_takes_ids_in_any_order_and_columns_of_either(tmp_path: Path) -> None:
    tables = [
        pa.table({"item": [10, 11], "age": [1, 2]}),
        pa.table({"item": [0, 1], "hat": ["a", "b"]}),
    ]
    shards = [write(tmp_path / f"s{n}", np.ones((2, 2)), [tables[n]]) for n in (0, 1)]
    options = {"metric": Metric.EUCLIDEAN, "dtype": "float32"}
    merge_shards(tmp_path / "m", shards=shards, first_item=0, **options)
    items = open_shard(tmp_path / "m").items
    assert items["item"].to_pylist() == [10, 11, 0, 1]
    assert items["age"].to_pylist() == [1, 2, None, None]
    assert items["hat"].to_pylist() == [None, None, "a", "b"]
    again = [shards[0], write(tmp_path / "s2", np.ones((1, 2)), [pa.table({"item": [11]})])]
    with pytest.raises(BadItems, match="not unique"):
        merge_shards(tmp_path / "n", shards=again, first_item=0, **options)
    with pytest.raises(BadItems, match="not unique, below 1"):
        merge_shards(tmp_path / "n", shards=shards, first_item=1, **options)
    huge = [write(tmp_path / "s3", np.ones((1, 2)), [pa.table({"item": [2**62]})])]
    with pytest.raises(BadItems, match=f"beyond {2**62 - 1}"):
        merge_shards(tmp_path / "n", shards=huge, first_item=1, **options)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"format": [2, 0]}, FormatTooNew, "format 2 is newer than the 1"),
        ({"format": []}, BadShard, "no format version"),
        ({"format": None}, BadShard, "no format version"),
        ({"metric": "manhattan"}, BadShard, "manhattan"),
        ({"rows": "many"}, BadShard, "many"),
        ({"fingerprint": {"name": "x"}}, BadShard, "fingerprint"),
        (
            {"fingerprint": {"name": "x", "version": "1", "shoes": 1}},
            FormatTooNew,
            r"know \(shoes\)",
        ),
    ],
)
def test_headers_that_are_refused(
    tmp_path: Path, change: dict[str, Any], error: type[Exception], words: str
) -> None:
    edit_header(write(tmp_path / "s", np.ones((2, 2))), **change)
    with pytest.raises(error, match=words):
        open_shard(tmp_path / "s")


def test_newer_minor_format_may_bring_fields(tmp_path: Path) -> None:
    edit_header(write(tmp_path / "s", np.ones((2, 2))), format=[1, 9], colour="new")
    assert open_shard(tmp_path / "s").vectors.tolist() == [[1, 1], [1, 1]]


def test_counts_that_differ_are_found(tmp_path: Path) -> None:
    edit_header(write(tmp_path / "s", np.ones((2, 2))), rows=3)
    shard = open_shard(tmp_path / "s")
    with pytest.raises(BadShard, match=r"\(3, 2\)"):
        _ = shard.vectors
    with pytest.raises(BadShard, match="2 rows, but 3 vectors"):
        _ = shard.items
    edit_header(shard, rows=2)
    pq.write_table(pa.table({"camera": [1]}), tmp_path / "s" / "items.parquet")
    with pytest.raises(BadShard, match="1 rows, but 2 vectors"):
        _ = open_shard(tmp_path / "s").items


def test_merged_rows_lie_in_order_with_ids(tmp_path: Path) -> None:
    shards = [
        write(tmp_path / "a", np.array([[1, 1], [2, 2]])),
        write(tmp_path / "b", np.array([[3, 3]]), [pa.table({"camera": [7], "item": [30]})]),
        write(tmp_path / "c", np.array([[4, 4]])),
    ]
    merge(tmp_path / "m", shards)
    merged = open_shard(tmp_path / "m")
    assert merged.vectors.tolist() == [[1, 1], [2, 2], [3, 3], [4, 4]]
    assert merged.items["item"].to_pylist() == [10, 11, 30, 31]
    assert merged.items["camera"].to_pylist() == [0, 1, 7, 0]


def test_shards_that_do_not_fit_each_other(tmp_path: Path) -> None:
    one, ones = np.ones((1, 2)), ArrayStream.of(np.ones((1, 2, 2)))
    plain = write(tmp_path / "plain", one)
    parts = write(tmp_path / "parts", one, more={"parts": ones})
    wide = write(tmp_path / "wide", one, more={"parts": ArrayStream.of(np.ones((1, 2, 3)))})
    away = write(tmp_path / "away", one, root="/elsewhere")
    for others, words in (([parts], "parts"), ([away], "roots")):
        with pytest.raises(BadShard, match=words):
            merge(tmp_path / "m", [plain, *others])
    with pytest.raises(BadShard, match="widths"):
        merge(tmp_path / "m", [parts, wide])
    assert not (tmp_path / "m").exists()


def merge(path: Path, shards: list[Shard]) -> None:
    merge_shards(path, shards=shards, first_item=10, metric=Metric.EUCLIDEAN, dtype="float32")


def edit_header(shard: Shard, **change: Any) -> None:
    path = shard.folder / "shard.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **change}))
