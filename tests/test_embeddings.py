"""Vectors that somebody else made: every layout gives the same numbers, the rest one line."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from extractors.embeddings import holds_vectors, read_vectors
from reid_index.errors import BadSource

ROWS = [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]


def refusal(path: Path) -> str:
    with pytest.raises(BadSource) as caught:
        read_vectors(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


def saved(folder: Path, array: Any) -> Path:
    path = folder / "v.npy"
    np.save(path, array)
    return path


@pytest.mark.parametrize(
    ("array", "kind"),
    [
        (np.array(ROWS, np.float32), np.float32),
        (np.asfortranarray(np.array(ROWS, np.float32)), np.float32),
        (np.array(ROWS, ">f4"), np.float32),
        (np.array(ROWS, np.float16), np.float32),
        (np.array(ROWS, ">f8"), np.float64),
        (np.array(ROWS, np.int64), np.float64),
        (np.array(ROWS, np.uint8), np.float64),
    ],
    ids=["C", "Fortran", "big-endian", "float16", "big-endian 64", "int64", "uint8"],
)
def test_npy_of_any_layout(array: NDArray[Any], kind: type, tmp_path: Path) -> None:
    vectors, items = read_vectors(saved(tmp_path, array))
    assert (vectors.dtype, vectors.tolist(), items) == (kind, ROWS, None)
    assert vectors.flags.c_contiguous


def test_npy_of_one_vector(tmp_path: Path) -> None:
    assert read_vectors(saved(tmp_path, np.array(ROWS[1])))[0].tolist() == [ROWS[1]]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 3, 4)), r"vectors are (N, D), this holds (2, 3, 4)"),
        (np.float64(1), "vectors are (N, D), this holds ()"),
        (np.zeros((2, 0)), "vectors are (N, D), this holds (2, 0)"),
        (np.zeros((2, 2), bool), "vectors are numbers, this holds bool"),
        (np.zeros((2, 2), complex), "vectors are numbers, this holds complex128"),
        (np.array([["1", "2"]]), "vectors are numbers, this holds <U1"),
        (
            np.array([[{}]]),
            "cannot be read as vectors: Array can't be memory-mapped: Python objects",
        ),
    ],
)
def test_arrays_that_are_no_vectors(array: Any, message: str, tmp_path: Path) -> None:
    assert refusal(saved(tmp_path, array)).startswith(message)


def test_npy_files_that_are_broken(tmp_path: Path) -> None:
    path = saved(tmp_path, np.array(ROWS))
    whole = path.read_bytes()
    for content in (b"", b"text", whole[:8], whole[:70], whole[:-1]):
        path.write_bytes(content)
        assert refusal(path).startswith("cannot be read as vectors: ")
    path.write_bytes(whole.replace(b"(2, 3)", b"(2,3**"))
    assert refusal(path).startswith("cannot be read as vectors: ")
    path.unlink()
    assert refusal(path).startswith("cannot be read as vectors: [Errno 2]")


def test_npy_that_is_a_pickle_or_an_archive(tmp_path: Path) -> None:
    """Neither is opened: a pickle can run code."""
    path = tmp_path / "v.npy"
    ran = tmp_path / "ran"
    # cos\nmkdir\n…: protocol 0 for os.mkdir(ran)
    path.write_bytes(b"cos\nmkdir\n(V" + str(ran).encode() + b"\ntR.")
    assert refusal(path).startswith("cannot be read as vectors: the magic string")
    assert not ran.exists()
    with path.open("wb") as file:
        np.savez(file, vectors=np.array(ROWS))
    assert refusal(path).startswith("cannot be read as vectors: the magic string")


def test_hdf5(tmp_path: Path) -> None:
    path = tmp_path / "v.h5"
    with h5py.File(path, "w") as file:
        file["features"] = np.array(ROWS, ">f4")
        file["labels"] = np.arange(2)
        file.create_group("more")["other"] = np.zeros((9, 9))
    vectors, items = read_vectors(path)
    assert (vectors.dtype, vectors.tolist(), items) == (np.float32, ROWS, None)
    with h5py.File(path, "a") as file:
        file["global"] = np.array(ROWS[::-1])
    assert read_vectors(path)[0].tolist() == ROWS[::-1]


def test_hdf5_without_a_clear_choice(tmp_path: Path) -> None:
    path = tmp_path / "v.hdf5"
    with h5py.File(path, "w") as file:
        file["a"] = np.array(ROWS)
        file["b"] = np.array(ROWS)
    assert refusal(path) == "holds the data sets a, b; call the one with the vectors `global`"
    h5py.File(path, "w").close()
    assert refusal(path).startswith("holds the data sets none")
    with h5py.File(path, "w") as file:
        file["global"] = h5py.SoftLink("/gone")
    assert refusal(path).startswith("holds the data sets none")
    with h5py.File(path, "w") as file:
        file["global"] = np.zeros((2, 3, 4))
    assert refusal(path) == "vectors are (N, D), this holds (2, 3, 4)"


def test_hdf5_files_that_are_broken(tmp_path: Path) -> None:
    path = tmp_path / "v.h5"
    with h5py.File(path, "w") as file:
        file["global"] = np.zeros((500, 3))
    whole = path.read_bytes()
    for content in (b"", b"text", whole[:100], whole[: len(whole) // 2]):
        path.write_bytes(content)
        assert refusal(path).startswith("cannot be read as vectors: ")


LISTS = [
    pa.list_(pa.float32()),
    pa.large_list(pa.float32()),
    pa.list_(pa.float32(), 3),
    pa.list_(pa.float64()),
    pa.list_(pa.int16()),
]


@pytest.mark.parametrize("kind", LISTS, ids=map(str, LISTS))
def test_parquet_with_items(kind: pa.DataType, tmp_path: Path) -> None:
    """In several pieces, so that a piece that begins inside a column is read too."""
    path = tmp_path / "v.parquet"
    vectors = pa.array([[9, 9, 9], *ROWS], kind)[1:]
    table = pa.table({"person": ["0002", None], "embedding": vectors})
    pq.write_table(table, path, row_group_size=1)
    found, items = read_vectors(path)
    assert found.tolist() == ROWS
    assert found.dtype == (np.float32 if kind.value_type == pa.float32() else np.float64)
    assert items is not None
    assert items.to_pydict() == {"person": ["0002", None]}


def test_parquet_of_vectors_alone(tmp_path: Path) -> None:
    path = tmp_path / "v.parquet"
    pq.write_table(pa.table({"global": ROWS, "vector": ROWS[::-1]}), path)
    vectors, items = read_vectors(path)
    assert vectors.tolist() == ROWS
    assert items is not None
    assert items.column_names == ["vector"]


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.array([[1.0], None]), "the vectors in column 'vector' differ in length or are missing"),
        (pa.array([[1.0], None], pa.list_(pa.float32(), 1)), "the vectors in column 'vector' diff"),
        (
            pa.array([None, None], pa.list_(pa.float32())),
            "the vectors in column 'vector' differ in",
        ),
        (pa.array([[1.0], [1.0, 2.0]]), "the vectors in column 'vector' differ in length"),
        (pa.array([[1.0, 2.0], [1.0, None]]), "a vector in column 'vector' has an empty value"),
        (pa.array([[], []], pa.list_(pa.float32())), "vectors are (N, D), this holds (2, 0)"),
        (pa.array([], pa.list_(pa.float32())), "it holds no vectors"),
        (pa.array([["1", "2"]]), "vectors are numbers, this holds object"),
        (pa.array([[{"a": 1}]]), "vectors are numbers, this holds object"),
        (pa.array([1.0]), "no column of lists named global, vector, embedding"),
    ],
)
def test_parquet_columns_that_are_no_vectors(
    column: pa.Array, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "v.parquet"
    pq.write_table(pa.table({"vector": column}), path)
    assert refusal(path).startswith(message)


def test_parquet_files_that_are_broken(tmp_path: Path) -> None:
    path = tmp_path / "v.parquet"
    pq.write_table(pa.table({"vector": ROWS}), path)
    whole = path.read_bytes()
    for content in (b"", b"PAR1", whole[:-9]):
        path.write_bytes(content)
        assert refusal(path).startswith("cannot be read as vectors: ")
        with pytest.raises(BadSource, match=f"^{path}: not a readable Parquet file: "):
            holds_vectors(path)


def test_which_files_hold_vectors(tmp_path: Path) -> None:
    assert all(holds_vectors(Path(name)) for name in ("a.npy", "b.H5", "c.hdf5"))
    assert not any(holds_vectors(Path(name)) for name in ("a.csv", "b.jpg", "c"))
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"vector": ROWS}), path)
    assert holds_vectors(path)
    pq.write_table(pa.table({"vector": ["a.jpg"], "box": ROWS[:1]}), path)
    assert not holds_vectors(path)
