"""2,000 damaged files: each is noticed by opening or by verify, and none crashes the interpreter.

The damage is done in processes of their own, so that a crash is seen as one.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import FINGERPRINT, contents, ids
from test_verify import recommit

from reid_index import Gallery, Reranking, verify_gallery
from reid_index.errors import CorruptGallery, ReidIndexError
from reid_index.evaluation.calibration import calibrate, read_calibration, write_calibration
from reid_index.files import json_bytes
from reid_index.search import index_tuning
from reid_index.store.commit import listed_files
from reid_index.upkeep.verify import repair_gallery, unlisted_files

TESTS = Path(__file__).parent
CASES, BATCHES = 2000, 2
DIM = 4
QUERY = np.ones(DIM, np.float32)
RERANKING = Reranking(k1=3, k2=2)

SEARCHES: list[Callable[[Gallery], object]] = [
    lambda gallery: gallery.search(QUERY, k=5, where="camera = 1"),
    lambda gallery: gallery.search(QUERY, k=5, recall=0.9),
    lambda gallery: gallery.search(QUERY, k=5, rerank=RERANKING),
    lambda gallery: gallery.search(QUERY, k=20),
]


def items(count: int) -> list[dict[str, object]]:
    return [
        {"source": f"{row:05}.png", "camera": row % 3, "person": f"p{row % 50}", "attr.hat": "yes"}
        for row in range(count)
    ]


@pytest.fixture(scope="module")
def little_tuning() -> Iterator[None]:
    """Indexes are tuned for few cases: that takes most of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_tuning, "SHARES", (1.0,))
        patch.setattr(index_tuning, "MATCHES", (10,))
        patch.setattr(index_tuning, "RECALLS", (0.9,))
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, little_tuning: None) -> Path:
    """Three shards, two of them with deleted rows, and two overlays; graph, calibration and an hnsw
    index; and what a reader of former generations held: an ivf index, bitmaps."""
    path = tmp_path_factory.mktemp("damage") / "gallery"
    rng = np.random.default_rng(5)

    def vectors(count: int) -> np.ndarray:
        return rng.normal(size=(count, DIM)).astype(np.float32)

    with Gallery.create(path, dim=DIM, fingerprint=FINGERPRINT) as gallery:
        gallery.add(vectors(1000), items(1000))
        gallery.build_index("ivf", recall=0.9)
        gallery.delete(items=[3, 5])
        with Gallery.open(path):
            gallery.add(vectors(60), items(60))
            colors = [{"item": item, "attr.upper_color": ["red"]} for item in ids(gallery)]
            gallery.set_attributes(colors, origin="model m 1 0123456789ab")
            gallery.delete(items=[4, 1010])
            made = calibrate(gallery, false_match_rate=0.5, max_rows=50)
            write_calibration(gallery, made)
            gallery.add(vectors(30))
            gallery.set_attributes([{"item": 9, "attr.hat": "no"}], origin="person")
            gallery.build_index("hnsw", recall=0.9)
            gallery.delete(items=[7])
            gallery.build_graph(RERANKING)
    return path


def findings(path: Path, search: Callable[[Gallery], object]) -> list[str]:
    """What opening, a search and verify say; nothing when all is well."""
    said: list[str] = []
    try:
        with Gallery.open(path) as gallery:
            try:
                search(gallery)
            except ReidIndexError as error:
                said.append(str(error))
            said += verify_gallery(gallery)
            if not said:
                said += [note for note in unlisted_files(gallery) if "does not need it" in note]
    except ReidIndexError as error:
        said.append(str(error))
    return said


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """One byte changed, or, one time in four, some bytes missing at the end."""
    place = int(rng.integers(len(content)))
    if rng.random() < 0.25:
        return content[:place]
    return (
        content[:place] + bytes([content[place] ^ int(rng.integers(1, 256))]) + content[place + 1 :]
    )


def damage_many(path: Path, first: int, stop: int) -> None:
    """Damage one file after another of a gallery; say on standard output which, and where nothing
    was noticed."""
    whole = {name: content for name, content in contents(path).items() if content}
    names = sorted(whole)
    for case in range(first, stop):
        rng = np.random.default_rng(case)
        name = names[case % len(names)]
        print(case, name, flush=True)
        (path / name).write_bytes(damaged(whole[name], rng))
        if not findings(path, SEARCHES[case % len(SEARCHES)]):
            print("not noticed:", case, name, flush=True)
        (path / name).write_bytes(whole[name])


def test_every_damage_is_noticed_and_none_crashes(folder: Path, tmp_path: Path) -> None:
    assert all(findings(folder, search) == [] for search in SEARCHES)
    running = []
    for batch in range(BATCHES):
        copy = shutil.copytree(folder, tmp_path / str(batch))
        first, stop = CASES * batch // BATCHES, CASES * (batch + 1) // BATCHES
        code = "from pathlib import Path; from test_damage import damage_many\n"
        code += f"damage_many(Path({str(copy)!r}), {first}, {stop})"
        running.append(
            subprocess.Popen(
                [sys.executable, "-W", "error", "-c", code],
                env=os.environ | {"PYTHONPATH": f"{TESTS}{os.pathsep}{TESTS.parent}"},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    for process in running:
        out, err = process.communicate()
        last = out.splitlines()[-1:]
        assert process.returncode == 0, f"after {last}: exit {process.returncode}\n{err}"
        assert "not noticed" not in out


@pytest.mark.parametrize(
    "pattern", ["CURRENT", "manifest-*", "shards/*/*.json", "shards/*/*.parquet", "deleted/*"]
)
def test_what_decides_who_is_found_is_checked_before_it_is_used(
    folder: Path, tmp_path: Path, pattern: str
) -> None:
    """Without verify: opening or the search itself refuses to answer."""
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    with Gallery.open(copy) as gallery:
        listed = {path for path, _ in listed_files(copy, gallery.manifest)}
        listed |= {copy / "CURRENT", copy / gallery.manifest.file_name}
    rng = np.random.default_rng(0)
    paths = [path for path in sorted(copy.glob(pattern)) if path in listed]
    assert paths
    for path in paths:
        whole = path.read_bytes()
        for _ in range(10):
            path.write_bytes(damaged(whole, rng))
            with pytest.raises(ReidIndexError), Gallery.open(copy) as gallery:
                gallery.search(QUERY, k=5)
        path.write_bytes(whole)


@pytest.mark.parametrize("kind", ["graph", "index", "calibration"])
def test_what_is_attached_is_checked_before_it_is_used(
    folder: Path, tmp_path: Path, kind: str
) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    use = {"graph": SEARCHES[2], "index": SEARCHES[1], "calibration": read_calibration}[kind]
    with Gallery.open(copy) as gallery:
        use(gallery)
        attached = gallery.attached(kind)
    assert attached is not None
    rng = np.random.default_rng(0)
    for path in sorted(attached.iterdir()):
        whole = path.read_bytes()
        for _ in range(10):
            path.write_bytes(damaged(whole, rng))
            with Gallery.open(copy) as gallery, pytest.raises(CorruptGallery):
                use(gallery)
        path.write_bytes(whole)


def test_an_index_of_other_rows_is_found_and_made_again(
    folder: Path, tmp_path: Path, little_tuning: None
) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    path = copy / "attached/000010-index/index.json"
    path.write_bytes(json_bytes({**json.loads(path.read_bytes()), "rows": 1000}))
    recommit(copy)
    with Gallery.open(copy) as gallery:
        (line,) = verify_gallery(gallery)
        assert "it is one of 1000 rows, its shards have 1090" in line
        assert line.endswith("; `reid index` makes it again")
        repaired = repair_gallery(gallery)
        assert ("index" in repaired.made, repaired.whole) == (True, True)
        assert verify_gallery(gallery) == []
        assert gallery.index is not None
        assert (gallery.index.kind, gallery.index.rows) == ("hnsw", 1090)
