"""The writer: what it has committed stays, whatever comes behind the commit, and nothing else
does."""

import errno
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import FINGERPRINT, ROWS, contents, ids

from reid_index import Gallery, verify_gallery
from reid_index.errors import CorruptGallery, GalleryExists, UsageError
from reid_index.store import writer
from reid_index.store.writer import Writer

pytestmark = pytest.mark.usefixtures("quick_disk")

MakeGallery = Callable[..., Gallery]


@pytest.fixture
def gallery(make_gallery: MakeGallery) -> Gallery:
    """Items 0 to 5, in two shards, and item 1 is deleted."""
    gallery = make_gallery()
    gallery.add(ROWS)
    gallery.add(2 * ROWS)
    gallery.delete(items=[1])
    return gallery


CHANGES: dict[str, tuple[Callable[[Gallery], object], list[int]]] = {
    "add": (lambda gallery: gallery.add(ROWS[:1]), [0, 2, 3, 4, 5, 6]),
    "delete": (lambda gallery: delete(gallery), [0, 2, 3, 5]),
    "compact": (lambda gallery: gallery.compact(), [0, 2, 3, 4, 5]),
    "attach": (lambda gallery: attach(gallery), [0, 2, 3, 4, 5]),
}
"""What changes a gallery, and the items that it then has."""


def receipt(gallery: Gallery) -> Path:
    return gallery.path.parent / "receipt.json"


def delete(gallery: Gallery) -> None:
    gallery.delete(items=[4], receipt=receipt(gallery))


def attach(gallery: Gallery) -> None:
    gallery.attach(
        "graph",
        lambda folder: (folder / "a").touch(),
        generation=gallery.manifest.generation,
    )


def interrupted(patch: pytest.MonkeyPatch, *, after: bool) -> None:
    """Ctrl-C right before or right after a commit."""
    commit = Writer.commit

    def commit_and_stop(self: Writer, *given: Any, **named: Any) -> None:
        if after:
            commit(self, *given, **named)
        raise KeyboardInterrupt

    patch.setattr(Writer, "commit", commit_and_stop)


@pytest.mark.parametrize("what", CHANGES)
def test_ctrl_c_behind_a_commit_undoes_nothing(gallery: Gallery, what: str) -> None:
    change, there = CHANGES[what]
    with pytest.MonkeyPatch.context() as patch:
        interrupted(patch, after=True)
        with pytest.raises(KeyboardInterrupt):
            change(gallery)
    with Gallery.open(gallery.path) as seen:
        assert seen.history()[-1].event.what == what
        assert ids(seen) == there
        assert verify_gallery(seen) == []
        assert receipt(gallery).exists() == (what == "delete")
        seen.add(ROWS[:1])
        assert verify_gallery(seen) == []


@pytest.mark.parametrize("what", CHANGES)
def test_ctrl_c_before_a_commit_leaves_nothing(gallery: Gallery, what: str) -> None:
    before = contents(gallery.path)
    with pytest.MonkeyPatch.context() as patch:
        interrupted(patch, after=False)
        with pytest.raises(KeyboardInterrupt):
            CHANGES[what][0](gallery)
    assert contents(gallery.path) == before
    assert {path.name for path in (gallery.path / "shards").iterdir()} == {"000001", "000002"}
    assert not receipt(gallery).exists()


@pytest.mark.parametrize("what", CHANGES)
@pytest.mark.parametrize("error", [OSError(errno.EIO, os.strerror(errno.EIO)), CorruptGallery("?")])
def test_where_nobody_can_tell_whether_it_is_committed_it_stays(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch, what: str, error: Exception
) -> None:
    """What is not needed goes with the next writer; what is needed could never come back."""
    change, there = CHANGES[what]
    commit = Writer.commit

    def fail(*_: object, **__: object) -> None:
        raise error

    def commit_and_fail(self: Writer, *given: Any, **named: Any) -> None:
        commit(self, *given, **named)
        monkeypatch.setattr(writer, "read_current", fail)
        raise OSError(errno.EIO, "the disk is gone")

    with monkeypatch.context() as patch:
        patch.setattr(Writer, "commit", commit_and_fail)
        with pytest.raises(OSError, match="the disk is gone"):
            change(gallery)
    monkeypatch.undo()
    with Gallery.open(gallery.path) as seen:
        assert ids(seen) == there
        assert verify_gallery(seen) == []
    assert receipt(gallery).exists() == (what == "delete")


def test_of_two_that_make_a_gallery_at_once_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other may come when the folder was looked at, before the lock is held."""
    lock = writer.writer_lock

    @contextmanager
    def slow(path: Path) -> Iterator[None]:
        monkeypatch.setattr(writer, "writer_lock", lock)
        with Gallery.create(path, dim=3, fingerprint=FINGERPRINT) as other:
            other.add(ROWS)
        with lock(path):
            yield

    monkeypatch.setattr(writer, "writer_lock", slow)
    with pytest.raises(GalleryExists, match="holds a gallery already"):
        Gallery.create(tmp_path / "g", dim=5, fingerprint=FINGERPRINT)
    with Gallery.open(tmp_path / "g") as seen:
        assert (seen.dim, ids(seen)) == (3, [0, 1, 2])


def test_a_closed_gallery_answers_nothing_and_changes_nothing(gallery: Gallery) -> None:
    gallery.close()
    before = contents(gallery.path)
    asked: list[Callable[[], object]] = [
        lambda: gallery.manifest,
        lambda: gallery.items,
        lambda: gallery.blocks,
        lambda: len(gallery),
        lambda: gallery.vectors([0]),
        lambda: gallery.search(ROWS[0]),
        lambda: gallery.search_many(ROWS),
        lambda: gallery.nearest(ROWS),
        lambda: gallery.attached("graph"),
        lambda: gallery.history(),
        lambda: gallery.graph,
        lambda: gallery.index,
        lambda: gallery.snapshot(),
        lambda: gallery.refresh(),
        lambda: gallery.add(ROWS),
        lambda: gallery.delete(items=[0]),
        lambda: gallery.compact(),
        lambda: gallery.attach("graph", lambda folder: None, generation=3),
        lambda: gallery.build_index("flat"),
    ]
    for ask in asked:
        with pytest.raises(UsageError, match="was closed: open it again"):
            ask()
    assert contents(gallery.path) == before
    gallery.close()
    assert gallery.path.name == "gallery"


def test_a_manifest_that_could_not_be_read_is_never_committed(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(gallery.path)
    with pytest.raises((TypeError, ValueError)), writer.writing(gallery.path) as one:
        one.commit(writer.Event(what="add"), next_item=-1)
    assert contents(gallery.path) == before


def test_every_commit_says_when_and_after_what(gallery: Gallery) -> None:
    names = [f"manifest-{number:06d}.json" for number in range(4)]
    told = [json.loads((gallery.path / name).read_bytes()) for name in names]
    assert [one["previous"] and one["previous"]["file"] for one in told] == [None, *names[:3]]
    assert [past.generation for past in gallery.history()] == [0, 1, 2, 3]
