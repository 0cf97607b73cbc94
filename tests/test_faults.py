"""Each call by which a gallery changes the disk is made to fail, or to be the last: afterwards the
gallery is what it was or what it was to become, whole, and can be written to."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from conftest import FINGERPRINT, ROWS
from faults import (
    Broken,
    Child,
    Disk,
    Refusing,
    Stopping,
)

from reid_index import (
    ArrayStream,
    Fingerprint,
    Gallery,
    Reranking,
    files,
    open_shard,
    verify_gallery,
    write_shard,
)
from reid_index.errors import GalleryNotFound
from reid_index.metric import Metric
from reid_index.reranking import graph
from reid_index.search.index import IndexFacts, new_index, write_index
from reid_index.store.items import item_table

pytestmark = pytest.mark.usefixtures("quick_disk")

LABELS = ("ann", "bob", "ann", "cyd", "bob", "ann")
State = Any


def state(path: Path) -> State:
    """What a gallery holds, by value; None where there is none."""
    try:
        gallery = Gallery.open(path)
    except GalleryNotFound:
        return None
    with gallery:
        return holds(gallery)


def holds(gallery: Gallery) -> State:
    """Items and their vectors, and the bytes of what is attached to them."""
    attached = {
        entry.kind: {
            name: (gallery.path / entry.folder / name).read_bytes() for name in entry.files
        }
        for entry in gallery.manifest.attached
    }
    return gallery.items.to_pylist(), gallery.vectors(range(len(gallery))).tolist(), attached


def refuse_leftovers(path: Path) -> None:
    """Nothing but what the gallery needs is in its folder, by its JSON files; bitmaps of earlier
    generations may be."""
    name = json.loads((path / "CURRENT").read_bytes())["manifest"]
    needed, former = {"CURRENT", "lock", name}, set()
    present = json.loads((path / name).read_bytes())
    for listed in (*present["shards"], *present["attached"]):
        needed |= {f"{listed['folder']}/{file}" for file in listed["files"]} | {listed["folder"]}
    needed |= bitmaps(present)
    needed |= {overlay["file"] for overlay in present["overlays"]}
    while present["previous"] is not None:
        needed.add(present["previous"]["file"])
        present = json.loads((path / present["previous"]["file"]).read_bytes())
        former |= bitmaps(present)
    stored = {str(entry.relative_to(path)) for entry in path.rglob("*")}
    stored -= {"shards", "attached", "deleted", "overlays"}  # these stay, once they are there
    assert needed <= stored <= needed | former


def bitmaps(manifest: Any) -> set[str]:
    return {shard["deleted"]["file"] for shard in manifest["shards"] if shard["deleted"]}


def attach_small_index(gallery: Gallery, *, links: int) -> None:
    """An index of so few rows that it is not made again."""
    vectors = np.concatenate(
        [
            open_shard(gallery.path / folder).vectors.astype(np.float32)
            for folder in gallery.manifest.folders
        ]
    )
    index = new_index("hnsw", dim=3, metric=Metric.COSINE, parameters={"links": links, "queue": 4})
    index.add(vectors)
    facts = IndexFacts(
        kind="hnsw",
        rows=len(vectors),
        dim=3,
        metric=Metric.COSINE,
        parameters={},
        tuned=(),
        batch_scan=1.0,
        build_seconds=0.0,
        tune_seconds=0.0,
        versions={},
    )
    gallery.attach(
        "index",
        lambda folder: write_index(folder, index, facts),
        generation=gallery.manifest.generation,
    )


def prepare(path: Path) -> None:
    """A gallery of two shards with an item deleted, of which something was said, an index, and a
    graph of what is left."""
    with make(path) as gallery:
        for first in (0, 3):
            items = [{"label": label, "camera": 1} for label in LABELS[first : first + 3]]
            gallery.add(ROWS + 0.1 * first, items)
        attach_small_index(gallery, links=2)
        gallery.set_attributes([{"item": 1, "attr.hat": "yes"}, {"item": 2, "attr.hat": "no"}])
        gallery.delete(items=[1])
        gallery.build_graph(Reranking(k1=2, k2=1))


def make(path: Path) -> Gallery:
    return Gallery.create(path, dim=3, fingerprint=FINGERPRINT)


@dataclass(frozen=True)
class Operation:
    """Something that changes a gallery. before: a folder, if there is one. states: what it may be
    afterwards, from what it was to what it becomes when nothing goes wrong. calls: by which it
    changes the disk."""

    run: Callable[[Path], object]
    before: Path
    states: list[State]
    calls: list[str]
    known: dict[str, int] = field(default_factory=dict)

    def number(self, gallery: Gallery) -> int:
        """Of the state that a gallery is in. It is found out once for each set of files: that they
        are what the manifest lists is for others to check."""
        manifest = gallery.manifest
        listed = repr((manifest.shards, manifest.overlays, manifest.attached))
        if listed not in self.known:
            held = holds(gallery)
            numbers = [number for number, one in enumerate(self.states) if one == held]
            assert numbers, held
            self.known[listed] = numbers[-1]
        return self.known[listed]


class Watched(Disk):
    """Notes what a gallery is whenever a generation is committed."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.states = [state(path)]
        self._path = path

    def _call(self, name: str, real: Callable[..., Any], *given: Any) -> Any:
        done = super()._call(name, real, *given)
        if name == "replace" and given[1].name == "CURRENT":
            self.states.append(state(self._path))
        return done


def tried(run: Callable[[Path], object], before: Path, folder: Path) -> Operation:
    """The operation, done once on a disk that does not fail."""
    path = copied(before, folder)
    disk = Watched(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "os", disk)
        run(path)
    operation = Operation(run=run, before=before, states=disk.states, calls=disk.calls)
    assert check(path, operation) == len(disk.states) - 1
    return operation


def copied(before: Path, folder: Path) -> Path:
    """A copy of a prepared gallery, if there is one, in a new folder."""
    folder.mkdir(parents=True)
    if before.exists():
        shutil.copytree(before, folder / "gallery")
    return folder / "gallery"


def check(path: Path, operation: Operation) -> int:
    """The number of the state that a gallery is in, whole; and it goes on from there."""
    if not (path / "CURRENT").exists():
        assert operation.states[0] is None
        operation.run(path)
        assert state(path) == operation.states[-1]
        return 0
    with Gallery.open(path) as gallery:
        assert verify_gallery(gallery) == []
        number = operation.number(gallery)
        items = len(gallery)
        if items:
            gallery.delete(items=[gallery.items["item"][0].as_py()])
            assert len(gallery) == items - 1
        else:
            gallery.add(ROWS)
            assert len(gallery) == 3
    refuse_leftovers(path)
    return number


@dataclass(frozen=True)
class Case:
    """An operation in a child process, several times, and one of its calls spoiled each time.

    call: the name of that one; "after" for none of them, but what comes next. found: a folder with
    folders of galleries as they may then be found, by how it was spoiled.
    """

    call: str
    child: Child
    found: Path


def cases(operation: Operation, folder: Path) -> Iterator[Case]:
    """One for each call of the operation; begun when it is given."""
    for at, name in enumerate([*operation.calls, "after"]):
        found, watched, aside = (folder / f"{at}" / name for name in ("found", "watched", "aside"))
        found.mkdir(parents=True)
        aside.mkdir()
        stopping = Stopping(at, folder=watched, left=found, aside=aside)
        disks = {found / "refused": Refusing(at), found / "broken": Broken(at), watched: stopping}
        attempts = [
            (partial(operation.run, copied(operation.before, one)), disk)
            for one, disk in disks.items()
        ]
        yield Case(name, Child.start(attempts), found)


def one_ahead(started: Iterator[Case]) -> Iterator[Case]:
    """The same, each when the next one has begun."""
    last = next(started)
    for following in started:
        yield last
        last = following
    yield last


@pytest.fixture(scope="module")
def quick_root() -> Iterator[Path]:
    """A folder in memory, where there is one."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as root:
        yield Path(root)


@pytest.fixture
def quick_path(quick_root: Path) -> Iterator[Path]:
    """An empty folder in it."""
    path = quick_root / "test"
    path.mkdir()
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def prepared(quick_root: Path) -> Iterator[Path]:
    """A gallery that has seen something, beside it a shard with other vectors of its items; and
    neighbour graphs are made once only."""
    made: dict[tuple[bytes, Reranking], graph.Graph] = {}
    real = graph.make_graph

    def make_graph(vectors: Any, *, reranking: Reranking, **given: Any) -> graph.Graph:
        known = vectors.tobytes(), reranking
        if known not in made:
            made[known] = real(vectors, reranking=reranking, **given)
        return made[known]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "os", Disk())
        prepare(quick_root / "gallery")
        write_shard(
            quick_root / "shard",
            arrays={"global": ArrayStream.of(np.eye(6, 2, dtype=np.float32) + 1)},
            items=[item_table(pa.table({"item": np.arange(6)}), rows=6)],
            fingerprint=Fingerprint(name="external:other", version="1"),
            metric=Metric.COSINE,
        )
        patch.setattr(graph, "make_graph", make_graph)
        yield quick_root / "gallery"


WAYS = {"refused", "broken", "killed", "half-way", "bytes-lost", "names-lost"}


def sum_of(path: Path) -> bytes:
    """A checksum of all that is in a folder, with the names."""
    digest = hashlib.sha256()
    for entry in sorted(path.rglob("*")):
        content = entry.read_bytes() if entry.is_file() else b"/"
        digest.update(f"{entry.relative_to(path)} {len(content)} ".encode() + content)
    return digest.digest()


def add(gallery: Gallery, _shard: Path) -> None:
    gallery.add(ROWS[:2], [{"label": "eve"}, {"label": "fay"}])


def delete(gallery: Gallery, _shard: Path) -> None:
    gallery.delete(where="label = 'ann'")


def compact(gallery: Gallery, _shard: Path) -> None:
    gallery.compact()


def rebuild(gallery: Gallery, shard: Path) -> None:
    gallery.rebuild([shard], recipe={"extractor": "other"}, remake=False)


def set_attributes(gallery: Gallery, _shard: Path) -> None:
    gallery.set_attributes([{"item": 2, "attr.hat": "yes", "attr.upper_color": ["red"]}])


def clear_attributes(gallery: Gallery, _shard: Path) -> None:
    gallery.clear_attributes()


def attach_graph(gallery: Gallery, _shard: Path) -> None:
    gallery.build_graph(Reranking(k1=1, k2=1))


def attach_index(gallery: Gallery, _shard: Path) -> None:
    attach_small_index(gallery, links=3)


@pytest.mark.parametrize(
    "change",
    [
        *(make, add, delete, set_attributes, clear_attributes, compact, rebuild),
        *(attach_graph, attach_index),
    ],
)
def test_every_call_spoiled(
    change: Callable[..., object], prepared: Path, quick_path: Path
) -> None:
    def run(path: Path) -> None:
        if change is make:
            make(path).close()
            return
        with Gallery.open(path) as gallery:
            change(gallery, prepared.parent / "shard")

    before = quick_path / "none" if change is make else prepared
    operation = tried(run, before, quick_path / "tried")
    last = len(operation.states) - 1
    seen: dict[str, list[int]] = {way: [] for way in WAYS}
    known: dict[bytes, int] = {}
    for case in one_ahead(cases(operation, quick_path)):
        said, was_killed = case.child.end()
        assert was_killed
        for path in case.found.iterdir():
            digest = sum_of(path)
            if case.call == "after":
                refuse_leftovers(path / "gallery")  # what is removed stays so, whatever comes next
            if digest not in known:
                known[digest] = check(path / "gallery", operation)
            seen[path.name].append(known[digest])
            assert seen[path.name][-1] == last or case.call != "after"
        may_say = [["done"] * 3] if case.call == "after" else [["failed"] * 2]
        if change is compact and seen["refused"][-1] > 0:
            # Erased; what was attached was not made again, which is told, and still owed.
            may_say.append(["done", "failed"])
        assert said in may_say, case.call
        shutil.rmtree(case.found.parent)
    for how, states in seen.items():
        assert states == sorted(states)
        assert states[0] == 0
        assert states[-1] == last or how == "half-way"


def test_what_earlier_versions_left_half_written_goes_with_the_next_write(tmp_path: Path) -> None:
    """They wrote folders under temporary names first."""
    with make(tmp_path / "gallery") as gallery:
        gallery.add(ROWS)
        for left in ("shards/.000002.tmp", "attached/.000002-graph.tmp"):
            (gallery.path / left).mkdir(parents=True)
            (gallery.path / left / "vectors.h5").write_bytes(b"half")
        gallery.delete(items=[0])
    refuse_leftovers(tmp_path / "gallery")
