"""Commits: there is one writer, and what it writes through libraries, too, is written as it should
be. What crashes leave is in test_faults.py."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import FINGERPRINT, ROWS, contents, no_privileges
from numpy.typing import NDArray

from reid_index import ArrayStream, Gallery, Shard, files, open_shard, write_shard
from reid_index.errors import GalleryLocked, NotFiniteError
from reid_index.metric import Metric
from reid_index.store.commit import writer_lock
from reid_index.store.items import item_table
from reid_index.store.vectors import write_vectors

MakeGallery = Callable[..., Gallery]
REPOSITORY = Path(__file__).parents[1]

HOLDER = """
import sys, time
from pathlib import Path
from reid_index.store.commit import writer_lock
with writer_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_second_writer_is_refused_and_the_lock_dies_with_its_process(
    make_gallery: MakeGallery,
) -> None:
    gallery = make_gallery()
    gallery.add(ROWS)
    before = contents(gallery.path)
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(gallery.path)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            with pytest.raises(GalleryLocked, match="another process"):
                gallery.add(ROWS)
            assert contents(gallery.path) == before
            assert len(Gallery.open(gallery.path)) == 3
        finally:
            holder.send_signal(signal.SIGKILL)
    gallery.add(ROWS)
    assert len(gallery) == 6


def test_two_handles_in_one_process_are_two_writers(make_gallery: MakeGallery) -> None:
    gallery = make_gallery()
    with writer_lock(gallery.path), pytest.raises(GalleryLocked):
        gallery.add(ROWS)


def test_a_folder_without_write_permission(make_gallery: MakeGallery, tmp_path: Path) -> None:
    gallery = make_gallery()
    gallery.add(ROWS)
    gallery.search(ROWS[0])  # so that nothing needs to be imported without privileges
    before = contents(gallery.path)
    folders = [gallery.path, gallery.path / "shards"]
    for parent in [tmp_path, *tmp_path.parents[:2]]:
        if os.geteuid() == 0:
            parent.chmod(0o755)
    for folder in folders:
        folder.chmod(0o555)
    try:
        with no_privileges():
            if not os.access(gallery.path, os.R_OK | os.X_OK, effective_ids=True):
                pytest.skip("the temporary folder cannot be read without privileges")
            assert len(Gallery.open(gallery.path).search(ROWS[0]).matches) == 3
            with pytest.raises(PermissionError):
                gallery.add(ROWS)
    finally:
        for folder in folders:
            folder.chmod(0o755)
    assert contents(gallery.path) == before


FULL_DISK = """
import resource, sys
import numpy as np
from cli.main import main
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
main(["build", sys.argv[1], "--extractor", "external:x", "--out", sys.argv[2]])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the file size limit is set as Linux has it")
def test_a_disk_that_takes_no_more_is_one_line(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.ones((1000, 64), np.float32))
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path / "v.npy"), str(tmp_path / "g")],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("reid: ")
    assert done.stderr.endswith("vectors.h5: File too large\n")
    assert done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["v.npy"]


FAILING = """
import errno, os, sys
import numpy as np
from pathlib import Path
from reid_index import ArrayStream, Fingerprint, files, write_shard
from reid_index.store.items import item_table
from reid_index.metric import Metric

class Failing:
    def __init__(self, at):
        self.left = at
    def __getattr__(self, name):
        return self.call if name in ("write", "truncate") else getattr(os, name)
    def call(self, descriptor, what):
        self.left -= 1
        if self.left == -1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real = os.write if isinstance(what, memoryview) else os.truncate
        return real(descriptor, what)

kept = []
for at in range(100):
    files.os = Failing(at)
    try:
        write_shard(
            Path(sys.argv[1]) / "shard",
            arrays={
                "global": ArrayStream.of(np.ones((5, 3))),
                "parts": ArrayStream.of(np.ones((5, 2, 3))),
            },
            items=[item_table(None, rows=5)],
            fingerprint=Fingerprint(name="external:test", version="1"),
            metric=Metric.COSINE,
        )
        break
    except OSError as error:
        kept.append(error)
        print(error.errno == errno.ENOSPC, Path(error.filename).name, os.listdir(sys.argv[1]))
"""


def test_a_write_that_fails_inside_a_library_is_told_as_it_was(tmp_path: Path) -> None:
    """In a process of its own: HDF5 must not come back to the file when the interpreter is gone."""
    done = subprocess.run(
        [sys.executable, "-c", FAILING, str(tmp_path)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    told = done.stdout.splitlines()
    assert set(told) == {
        f"True {name} []" for name in ("vectors.h5", "items.parquet", "shard.json")
    }
    assert told.count("True vectors.h5 []") > 5
    assert [path.name for path in tmp_path.iterdir()] == ["shard"]


def write(folder: Path, rows: NDArray[Any], *, metric: Metric, normalise: bool = True) -> Shard:
    arrays: dict[str, NDArray[Any]] = {
        "global": rows,
        "parts": (np.arange(len(rows) * 6) % 999).astype(np.float16).reshape(-1, 2, 3),
        "visible": np.ones((len(rows), 2), np.uint8),
    }
    write_shard(
        folder,
        arrays={name: ArrayStream.of(array) for name, array in arrays.items()},
        items=[item_table(None, rows=len(rows))],
        fingerprint=FINGERPRINT,
        metric=metric,
        dtype="float16",
        normalise=normalise,
    )
    return open_shard(folder)


@pytest.mark.parametrize("rows", [0, 1, 300, 5001])
def test_vectors_lie_as_in_a_file_that_hdf5_opens_itself(
    tmp_path: Path, rng: np.random.Generator, rows: int
) -> None:
    vectors = rng.standard_normal((rows, 7)).astype(np.float16)
    shard = write(tmp_path / "shard", vectors, metric=Metric.EUCLIDEAN)
    assert np.array_equal(shard.vectors, vectors)
    with h5py.File(tmp_path / "plain.h5", "w", libver="earliest") as file:
        for name in ("global", "parts", "visible"):
            array = shard.arrays[name]
            file.create_dataset(name, shape=array.shape, dtype=array.dtype)[...] = array
    written = (tmp_path / "shard" / "vectors.h5").read_bytes()
    assert written == (tmp_path / "plain.h5").read_bytes()


def test_rows_that_are_normalised_already_can_stay_as_they_are(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    vectors = rng.standard_normal((500, 7))
    once = write(tmp_path / "once", vectors, metric=Metric.COSINE)
    same = write(tmp_path / "same", once.vectors, metric=Metric.COSINE, normalise=False)
    again = write(tmp_path / "again", once.vectors, metric=Metric.COSINE)
    assert np.array_equal(same.vectors, once.vectors)
    assert not np.array_equal(again.vectors, once.vectors)
    assert same.header == once.header
    with pytest.raises(NotFiniteError, match=r"vector 2 \(from 0\) holds NaN or Inf"):
        write(
            tmp_path / "bad",
            np.where(np.arange(4)[:, None] == 2, np.inf, 1),
            metric=Metric.COSINE,
            normalise=False,
        )


def test_items_are_compressed_some_tens_of_thousands_at_a_time(tmp_path: Path) -> None:
    rows = 2**16 + 1
    write(tmp_path / "shard", np.ones((rows, 1)), metric=Metric.EUCLIDEAN)
    groups = pq.ParquetFile(tmp_path / "shard" / "items.parquet").metadata
    counts = [groups.row_group(number).num_rows for number in range(groups.num_row_groups)]
    assert counts == [2**16, 1]


class Full:
    """A disk that takes no more once so many bytes are written."""

    def __init__(self, left: int) -> None:
        self._left = left

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def write(self, descriptor: int, content: Any) -> int:
        self._left -= len(content)
        if self._left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return os.write(descriptor, content)


def test_a_full_disk_ends_what_is_being_written_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def pieces() -> Iterator[NDArray[np.generic]]:
        for number in range(50):
            asked.append(number)
            yield np.ones((2**16, 8), np.float32)

    monkeypatch.setattr(files, "os", Full(10 * 2**21))
    with pytest.raises(OSError, match=r"No space left on device: '.*vectors\.h5'"):
        write_vectors(
            tmp_path / "vectors.h5", {"global": ArrayStream((50 * 2**16, 8), "float32", pieces())}
        )
    assert len(asked) == 10
    assert list(tmp_path.iterdir()) == []
