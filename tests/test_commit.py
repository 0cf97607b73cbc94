"""Commits: one writer, and a crash at any step leaves one whole generation."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROWS, contents, ids, no_privileges

from reid_index import Gallery, verify_gallery
from reid_index import files as reid_files
from reid_index.errors import FormatTooNew, GalleryExists, GalleryLocked
from reid_index.manifest import writer_lock

MakeGallery = Callable[..., Gallery]
REPOSITORY = Path(__file__).parents[1]

HOLDER = """
import sys, time
from pathlib import Path
from reid_index.manifest import writer_lock
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


class Crash(BaseException):
    """Stands for the end of the process: nothing in the project catches it by name."""


@contextmanager
def crash_at(step: int) -> Iterator[list[str]]:
    """Raise Crash at the step-th call, from 0, of whatever reaches the disk; yields the calls."""
    calls: list[str] = []

    def counted(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            calls.append(name)
            if len(calls) - 1 == step:
                raise Crash(name)
            return real(*args, **options)

        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", counted("fsync", os.fsync))
        for name in ("rename", "replace", "mkdir", "write_bytes"):
            patch.setattr(Path, name, counted(name, getattr(Path, name)))
        patch.setattr(reid_files.shutil, "rmtree", counted("rmtree", reid_files.shutil.rmtree))
        yield calls


def test_a_crash_at_any_step_leaves_the_old_generation_or_the_new(
    make_gallery: MakeGallery,
) -> None:
    old, new = [0, 1, 2], [0, 1, 2, 3]
    seen = []
    for step in range(100):
        gallery = make_gallery(f"g{step}")
        gallery.add(ROWS)
        with crash_at(step) as calls:
            try:
                gallery.add(ROWS[:1])
            except Crash:
                finished = False
            else:
                finished = True
        again = Gallery.open(gallery.path)
        seen.append(ids(again))
        assert seen[-1] in (old, new)
        assert verify_gallery(again) == []
        again.add(ROWS[1:2])
        assert ids(again) == [*seen[-1], len(seen[-1])]
        assert verify_gallery(Gallery.open(gallery.path)) == []
        shards = {path.name for path in (gallery.path / "shards").iterdir()}
        assert shards == {Path(entry.folder).name for entry in again.manifest.shards}
        assert not list(gallery.path.glob(".*"))
        if finished:
            break
    assert finished
    assert {"fsync", "rename", "replace", "mkdir", "write_bytes"} <= set(calls)
    commit = seen.index(new)
    assert seen == [old] * commit + [new] * (len(seen) - commit)
    assert commit > 5


def test_creating_can_be_repeated_after_a_crash(make_gallery: MakeGallery, tmp_path: Path) -> None:
    dims = []
    for step in range(100):
        with crash_at(step):
            try:
                dims.append(make_gallery(f"g{step}").dim)
                break
            except Crash:
                pass
        try:
            dims.append(make_gallery(f"g{step}", dim=7).dim)
        except GalleryExists:
            dims.append(Gallery.open(tmp_path / f"g{step}").dim)
    assert dims[:5] == [7] * 5
    assert dims == sorted(dims, reverse=True)
    assert dims[-1] == 3


KILLED = """
import os, signal, sys
import numpy as np
from pathlib import Path
from reid_index import Gallery
gallery = Gallery.open(sys.argv[1])
real, left = os.fsync, [int(sys.argv[2])]
def fsync(descriptor):
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    left[0] -= 1
    real(descriptor)
os.fsync = fsync
gallery.add(np.eye(3)[:1])
"""


def test_kill_9_at_any_sync_of_a_commit(make_gallery: MakeGallery) -> None:
    seen = []
    for syncs in range(100):
        gallery = make_gallery(f"g{syncs}")
        gallery.add(ROWS)
        command = [sys.executable, "-c", KILLED, str(gallery.path), str(syncs)]
        code = subprocess.run(command, cwd=REPOSITORY).returncode
        again = Gallery.open(gallery.path)
        assert verify_gallery(again) == []
        seen.append(len(again))
        again.add(ROWS[:1])
        assert ids(Gallery.open(gallery.path)) == list(range(seen[-1] + 1))
        shards = [Path(entry.folder).name for entry in again.manifest.shards]
        assert sorted(path.name for path in (gallery.path / "shards").iterdir()) == shards
        if code == 0:
            break
        assert code == -signal.SIGKILL
    commit = seen.index(4)
    assert commit > 5
    assert seen == [3] * commit + [4] * (len(seen) - commit)


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


def test_every_new_file_is_synced_before_it_counts(
    make_gallery: MakeGallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power cut only what was synced is there: files before the rename that names their
    folder, and everything before CURRENT is replaced."""
    gallery = make_gallery()
    events: list[tuple[str, str]] = []
    sync, rename, replace = os.fsync, Path.rename, Path.replace

    def fsync(descriptor: int) -> None:
        events.append(("sync", Path(os.readlink(f"/proc/self/fd/{descriptor}")).name))
        sync(descriptor)

    def named(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Path, target: Path) -> Path:
            events.append((name, Path(target).name))
            return real(path, target)  # type: ignore[no-any-return]

        return call

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "rename", named("rename", rename))
    monkeypatch.setattr(Path, "replace", named("replace", replace))
    gallery.add(ROWS)
    named_shard = events.index(("rename", "000001"))
    for name in ("vectors.h5", "items.parquet", "shard.json", ".000001.tmp"):
        assert ("sync", name) in events[:named_shard], name
    current = events.index(("replace", "CURRENT"))
    assert named_shard < events.index(("sync", "shards")) < current
    manifest = events.index(("sync", "manifest-000001.json"))
    assert manifest < events.index(("sync", gallery.path.name), manifest) < current
    assert events.index(("sync", ".CURRENT.tmp")) < current
    assert ("sync", gallery.path.name) in events[current:]


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


def test_a_gallery_of_a_newer_minor_format_is_read_but_not_written(
    make_gallery: MakeGallery,
) -> None:
    gallery = make_gallery()
    gallery.add(ROWS)
    manifest = gallery.path / "manifest-000001.json"
    manifest.write_text(
        json.dumps(json.loads(manifest.read_bytes()) | {"format": [1, 3], "new": 1})
    )
    current = gallery.path / "CURRENT"
    sha256 = reid_files.sha256_file(manifest)
    current.write_text(
        json.dumps(json.loads(current.read_bytes()) | {"format": [1, 3], "sha256": sha256})
    )
    opened = Gallery.open(gallery.path)
    assert len(opened) == 3
    with pytest.raises(FormatTooNew, match="so this one only reads it"):
        opened.add(ROWS)
