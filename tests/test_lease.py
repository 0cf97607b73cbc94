"""Readers: what one holds stays, is named to whoever wants to remove it, and goes when it ends."""

import errno
import fcntl
import gc
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import FINGERPRINT, ROWS, ids, no_privileges

from reid_index import Gallery, verify_gallery
from reid_index.errors import CorruptGallery
from reid_index.store import commit
from reid_index.store.lease import Held, Lease, holders, is_held
from reid_index.upkeep.compact import bytes_in

pytestmark = pytest.mark.usefixtures("quick_disk")

MakeGallery = Callable[..., Gallery]
REPOSITORY = Path(__file__).parents[1]


READER = """
import sys
from reid_index import Gallery
gallery = Gallery.open(sys.argv[1])
print("open", flush=True)
for line in sys.stdin:
    matches = gallery.search([1, 2, 3], k=9).matches
    told = [(match.item, match.person, match.similarity) for match in matches]
    print((gallery.manifest.generation, told), flush=True)
"""


@contextmanager
def reader(path: Path) -> Iterator["subprocess.Popen[str]"]:
    """Another process that holds the present generation, and has looked at nothing in it yet."""
    with subprocess.Popen(
        [sys.executable, "-c", READER, str(path)],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "open\n"
            yield process
        finally:
            process.kill()


def asked(process: "subprocess.Popen[str]") -> str:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return process.stdout.readline()


@pytest.fixture
def gallery(make_gallery: MakeGallery) -> Gallery:
    """Three people twice, at generation 2."""
    gallery = make_gallery()
    for _ in range(2):
        gallery.add(ROWS, [{"person": name} for name in ("ann", "bob", "cyd")])
    return gallery


def shards_there(gallery: Gallery) -> list[str]:
    return sorted(path.name for path in (gallery.path / "shards").iterdir())


def test_a_reader_keeps_what_others_delete_until_it_ends(gallery: Gallery) -> None:
    expected = gallery.search([1, 2, 3], k=9)
    told = [(match.item, match.person, match.similarity) for match in expected.matches]
    with reader(gallery.path) as process:
        gallery.delete(where="person = 'bob'")
        done = gallery.compact()
        assert done.pending == (Held(2, (process.pid,)),)
        assert (done.removed, done.shards_after) == (2, 1)
        assert shards_there(gallery) == ["000001", "000002", "000004-0"]
        assert asked(process) == f"{(2, told)}\n"
        assert ids(Gallery.open(gallery.path)) == [0, 2, 3, 5]
        gallery.add(ROWS[:1])
        assert gallery.compact().pending == (Held(2, (process.pid,)),)
        assert asked(process) == f"{(2, told)}\n"
        assert verify_gallery(gallery) == []
    assert b"bob" in b"".join(path.read_bytes() for path in gallery.path.rglob("*.parquet"))
    done = gallery.compact()
    assert done.pending == ()
    assert done.freed_bytes > 0
    assert shards_there(gallery) == [Path(folder).name for folder in gallery.manifest.folders]
    assert b"bob" not in b"".join(path.read_bytes() for path in gallery.path.rglob("*.parquet"))
    names = {path.name for path in gallery.path.glob("manifest-*")}
    assert "manifest-000002.json" not in names


def test_several_readers_are_all_named(gallery: Gallery) -> None:
    with reader(gallery.path) as one, reader(gallery.path) as two:
        gallery.delete(items=[0])
        with reader(gallery.path) as three:
            done = gallery.compact()
            assert done.pending == (
                Held(2, tuple(sorted((one.pid, two.pid)))),
                Held(3, (three.pid,)),
            )
        assert gallery.compact().pending == (Held(2, tuple(sorted((one.pid, two.pid)))),)
    assert gallery.compact().pending == ()


def test_two_of_one_process(gallery: Gallery) -> None:
    other = Gallery.open(gallery.path)
    gallery.delete(items=[1, 4])
    assert gallery.compact().pending == (Held(2, (os.getpid(),)),)
    assert (ids(other), ids(gallery)) == ([0, 1, 2, 3, 4, 5], [0, 2, 3, 5])
    assert other.search(ROWS[1], k=2).matches[0].person == "bob"
    assert other.refresh()
    assert gallery.compact().pending == ()
    assert ids(other) == [0, 2, 3, 5]


def test_refresh(gallery: Gallery) -> None:
    other = Gallery.open(gallery.path)
    before = other._generation
    assert not other.refresh()
    assert other._generation is before
    assert is_held(gallery.path / "manifest-000002.json")
    gallery.delete(items=[0])
    gallery.close()
    assert (len(other), other.manifest.generation) == (6, 2)
    del before
    assert other.refresh()
    assert (len(other), other.manifest.generation) == (5, 3)
    assert not other.refresh()
    held = [is_held(gallery.path / f"manifest-00000{number}.json") for number in (2, 3)]
    assert held == [False, True]


def test_closing_lets_go(gallery: Gallery) -> None:
    path = gallery.path / "manifest-000002.json"
    with Gallery.open(gallery.path) as one:
        two = Gallery.open(gallery.path)
        gallery.close()
        assert holders(path) == (os.getpid(),)
        assert one.path == two.path
    assert is_held(path)
    two.close()
    two.close()
    assert not is_held(path)
    three = Gallery.open(gallery.path)
    assert is_held(path)
    del three  # at once, not when garbage is next collected
    assert not is_held(path)


def test_a_snapshot_and_its_origin_hold_for_themselves(gallery: Gallery) -> None:
    path = gallery.path / "manifest-000002.json"
    with gallery.snapshot() as one:
        assert ids(one) == [0, 1, 2, 3, 4, 5]
    assert is_held(path)
    two = gallery.snapshot()
    gallery.close()
    gallery.close()
    with Gallery.open(two.path) as other:
        other.delete(items=[1])
        assert other.compact().pending == (Held(2, (os.getpid(),)),)
        assert ids(two) == [0, 1, 2, 3, 4, 5]
        two.close()
        assert other.compact().pending == ()


def test_of_a_file_that_is_gone_nobody_holds_anything(tmp_path: Path) -> None:
    assert not is_held(tmp_path / "manifest-000001.json")


def test_bytes_are_counted_beside_a_writer(tmp_path: Path) -> None:
    (tmp_path / "stays").write_bytes(b"12345")
    stopped = threading.Event()

    def write() -> None:
        while not stopped.is_set():
            (tmp_path / "a/b").mkdir(parents=True)
            (tmp_path / "a/b/c").write_bytes(b"1")
            shutil.rmtree(tmp_path / "a")

    thread = threading.Thread(target=write)
    thread.start()
    try:
        assert {bytes_in(tmp_path) for _ in range(500)} <= {5, 6}
    finally:
        stopped.set()
        thread.join()


def test_a_used_one_lets_go_without_being_closed(gallery: Gallery) -> None:
    path = gallery.path / "manifest-000002.json"
    gallery.close()
    other = Gallery.open(gallery.path)
    other.search(ROWS[0])
    other.search(ROWS[:2], combine="best", where="person = 'ann'")
    assert other.root_of(0) == ""
    assert is_held(path)
    del other
    gc.collect()
    assert not is_held(path)


def test_what_is_removed_is_not_kept_open(gallery: Gallery) -> None:
    """A mapped file that is gone from its folder is still on the disk."""
    gallery.search(ROWS[0])
    assert ids(gallery) == [0, 1, 2, 3, 4, 5]
    gallery.delete(where="person = 'bob'")
    gallery.search(ROWS[0])
    gallery.compact()
    gc.collect()
    maps = Path("/proc/self/maps").read_text().splitlines()
    assert [line for line in maps if str(gallery.path) in line and "deleted" in line] == []
    assert ids(gallery) == [0, 2, 3, 5]


@contextmanager
def forked(run: Callable[[], object]) -> Iterator[int]:
    """A child process that has run `run` and then waits; killed at the end."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads, from Python 3.12 on
        child = os.fork()
    if child == 0:
        try:
            run()
            os.write(writing, b"done")
            time.sleep(60)
        finally:
            os._exit(1)
    try:
        os.close(writing)
        assert os.read(reading, 4) == b"done"
        yield child
    finally:
        os.close(reading)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_child_keeps_what_its_parent_lets_go(gallery: Gallery) -> None:
    path = gallery.path / "manifest-000002.json"
    with forked(lambda: ids(gallery)):
        gallery.close()
        with Gallery.open(gallery.path) as other:
            other.delete(items=[1])
            [held] = other.compact().pending
            assert held.generation == 2
            assert is_held(path)
    assert not is_held(path)
    with Gallery.open(gallery.path) as other:
        assert other.compact().pending == ()
    assert not path.exists()


def test_a_child_that_closes_or_ends_lets_nothing_of_its_parent_go(gallery: Gallery) -> None:
    with forked(gallery.close):
        assert is_held(gallery.path / "manifest-000002.json")
    assert is_held(gallery.path / "manifest-000002.json")


def test_without_the_right_to_write(public_path: Path) -> None:
    path = public_path / "gallery"
    with Gallery.create(path, dim=3, fingerprint=FINGERPRINT) as gallery:
        gallery.add(ROWS)
    for entry in (path, *path.rglob("*")):
        entry.chmod(0o555 if entry.is_dir() else 0o444)
    with no_privileges(), Gallery.open(path) as reader:
        assert is_held(path / "manifest-000001.json")
        assert len(reader.search(ROWS[0]).matches) == 3
        with pytest.raises(PermissionError):
            reader.add(ROWS)
        assert not reader.refresh()
    assert not is_held(path / "manifest-000001.json")


def test_file_systems_without_locks_are_read(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail_with(number: int) -> Callable[..., None]:
        def fail(*_: Any) -> None:
            raise OSError(number, os.strerror(number))

        return fail

    monkeypatch.setattr(fcntl, "flock", fail_with(errno.ENOLCK))
    with Gallery.open(gallery.path) as reader:
        assert ids(reader) == [0, 1, 2, 3, 4, 5]
    monkeypatch.setattr(fcntl, "flock", fail_with(errno.EIO))
    before = os.listdir("/proc/self/fd")
    with pytest.raises(OSError, match="Input/output") as caught:
        Gallery.open(gallery.path)
    assert os.listdir("/proc/self/fd") == before
    assert caught.value.errno == errno.EIO


def test_a_lease_on_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Lease(tmp_path / "none")
    (tmp_path / "free").touch()
    assert not is_held(tmp_path / "free")
    assert holders(tmp_path / "free") == ()


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("writes", [1, 3])
def test_a_generation_that_goes_while_it_is_opened(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch, when: str, writes: int
) -> None:
    """Others compact between the look at CURRENT and the lock, or between the lock and the second
    look: a reader has the generation that is then the present one, and holds it."""
    left = [writes]

    def slow(path: Path) -> Lease:
        def others() -> None:
            if left[0]:
                left[0] -= 1
                gallery.add(ROWS)
                gallery.compact()

        if when == "before":
            monkeypatch.setattr(commit, "Lease", Lease)
            others()
            monkeypatch.setattr(commit, "Lease", slow)
            return Lease(path)
        lease = Lease(path)
        monkeypatch.setattr(commit, "Lease", Lease)
        others()
        monkeypatch.setattr(commit, "Lease", slow)
        return lease

    monkeypatch.setattr(commit, "Lease", slow)
    with Gallery.open(gallery.path) as reader:
        monkeypatch.undo()
        assert left == [0]
        assert reader.manifest == gallery.manifest
        assert len(ids(reader)) == 6 + 3 * writes
        gallery.close()
        assert is_held(gallery.path / reader.manifest.file_name)


def test_a_writer_that_looks_while_another_compacts(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it has read CURRENT for is gone then, which is no damage."""
    gallery.add(ROWS)
    other = Gallery.open(gallery.path)
    other._generation.lease.end()
    read = commit._read_present

    def slow(path: Path, content: bytes) -> Any:
        monkeypatch.setattr(commit, "_read_present", read)
        gallery.add(ROWS)
        gallery.compact()
        return read(path, content)

    monkeypatch.setattr(commit, "_read_present", slow)
    other.add(ROWS[:1])
    assert ids(other) == list(range(13))


def test_a_manifest_that_is_gone_is_no_reason_to_try_for_ever(gallery: Gallery) -> None:
    (gallery.path / "manifest-000002.json").unlink()
    with pytest.raises(CorruptGallery, match=r"manifest-000002\.json is gone"):
        Gallery.open(gallery.path)


def test_what_a_reader_holds_is_whole(gallery: Gallery) -> None:
    """Its history too, whatever others have removed of it."""
    with Gallery.open(gallery.path) as reader:
        told = reader.history()
        assert [past.generation for past in told] == [0, 1, 2]
        gallery.delete(items=[0])
        gallery.compact()
        assert verify_gallery(reader) == []
        assert reader.history() == told


def test_another_gallery_in_its_place(gallery: Gallery, make_gallery: MakeGallery) -> None:
    """A folder that was put there from a copy may have other shards of the same names."""
    other = make_gallery("other")
    other.add(2 * ROWS[:1], [{"person": "dot"}])
    gallery.search(ROWS[0])
    shutil.rmtree(gallery.path)
    other.path.rename(gallery.path)
    assert gallery.refresh()
    assert [match.person for match in gallery.search(ROWS[0]).matches] == ["dot"]
    assert gallery.items["person"].to_pylist() == ["dot"]


# Under load

SECONDS = 3.0

CHECKER = """
import sys, time
import numpy as np
from reid_index import Gallery
Gallery.open(sys.argv[1]).search([1, 0])  # what is imported and compiled when it is first used
end, opened, seen = time.monotonic() + float(sys.argv[2]), 0, set()
while time.monotonic() < end:
    with Gallery.open(sys.argv[1]) as gallery:
        opened += 1
        seen.add(gallery.manifest.generation)
        for _ in range(2):
            camera, track = (gallery.items[name].to_pylist() for name in ("camera", "track"))
            pairs = sorted(zip(track, camera))
            assert pairs == sorted((t, c) for t in set(track) for c in (1, 2)), pairs
            vectors = gallery.vectors(range(len(gallery)))
            assert [v[0] for v in vectors.tolist()] == [float(t) for t in track]
            found = gallery.search([1, 0], k=9).matches
            best = sorted(map(int, track), reverse=True)[:9]
            assert [match.similarity for match in found] == best, (found, best)
            gallery.refresh()
print(opened, len(seen))
"""


def test_no_reader_sees_a_half(make_gallery: MakeGallery) -> None:
    """Items come and go in pairs, whose first number is that of their track."""
    gallery = make_gallery(dim=2, metric="inner_product")
    gallery.add([[0, 1], [0, 2]], [{"camera": 1, "track": "0"}, {"camera": 2, "track": "0"}])
    with (
        checking(gallery.path) as one,
        checking(gallery.path) as two,
        reading(gallery.path) as problems,
    ):
        number, compacted = 0, 0
        while one.poll() is None or two.poll() is None:
            number += 1
            items = [{"camera": camera, "track": str(number)} for camera in (1, 2)]
            gallery.add([[number, 1], [number, 2]], items)
            if number % 2:
                gallery.delete(where=f"track = '{number - 1}'")
            if number % 3 == 0:
                gallery.compact()
                compacted += 1
        said = [process.communicate()[0].split() for process in (one, two)]
    assert problems == []
    for opened, seen in said:
        assert int(opened) > 5
        assert int(seen) > 3
    assert compacted > 3
    assert gallery.compact().pending == ()
    assert verify_gallery(gallery) == []


@contextmanager
def checking(path: Path) -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen(
        [sys.executable, "-c", CHECKER, str(path), str(SECONDS)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()
            process.wait()


@contextmanager
def reading(path: Path) -> Iterator[list[str]]:
    """A thread of this process that asks one gallery again and again while others refresh it."""
    problems: list[str] = []
    done = threading.Event()

    def ask() -> None:
        with Gallery.open(path) as reader:
            while not done.is_set():
                try:
                    reader.refresh()
                    tracks = [m.extra or m.track for m in reader.search([1, 0], k=2).matches]
                    if len(set(map(str, tracks))) != 1:
                        problems.append(f"half a pair: {tracks}")
                except Exception as error:  # told in the test's own thread
                    problems.append(repr(error))
                time.sleep(0.01)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield problems
    finally:
        done.set()
        thread.join()
