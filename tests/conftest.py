"""What several test files share: a seeded generator, small galleries, a look at their files."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faults import Disk

from reid_index import Fingerprint, Gallery, files
from reid_index.search.index import import_faiss

pytest_plugins = ["evaluation_world"]

FINGERPRINT = Fingerprint(name="external:test", version="1")
ROWS = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32)


def contents(folder: Path) -> dict[str, bytes]:
    """Path → bytes of every file below folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def ids(gallery: Gallery) -> list[int]:
    return gallery.items["item"].to_pylist()


@contextmanager
def no_privileges() -> Iterator[None]:
    """As an ordinary user, to whom permissions apply: root may read and write anything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def public_path() -> Iterator[Path]:
    """An empty folder that others can reach; the folders above tmp_path are closed to them."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture(autouse=True, scope="session")
def caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of its own for what is kept with the user's caches, for child processes too."""
    folder = tmp_path_factory.mktemp("caches")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Faiss starts threads for loops of microseconds, which takes far longer."""
    faiss = import_faiss()
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(before)


@pytest.fixture
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test outlives the kernel, so nothing needs to be synced in earnest."""
    monkeypatch.setattr(files, "os", Disk())


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20240501)


@pytest.fixture
def make_gallery(tmp_path: Path) -> Callable[..., Gallery]:
    """An empty gallery in tmp_path / name; dim 3, cosine, unless told otherwise."""

    def make(name: str = "gallery", **properties: Any) -> Gallery:
        return Gallery.create(
            tmp_path / name, **{"dim": 3, "fingerprint": FINGERPRINT, **properties}
        )

    return make
