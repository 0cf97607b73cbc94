"""Attachments: what is kept with a gallery, which rows it was made from, and how long it stays."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROWS, contents, ids
from test_gallery import rewrite

from reid_index import Gallery, verify_gallery
from reid_index.errors import CorruptGallery, GalleryLocked, UsageError
from reid_index.store.commit import writer_lock

MakeGallery = Callable[..., Gallery]
GOLDEN = Path(__file__).parent / "data" / "format_v1"


def writes(**files: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        for name, text in files.items():
            (folder / f"{name}.txt").write_text(text)

    return write


def attach(gallery: Gallery, kind: str, **files: str) -> None:
    gallery.attach(kind, writes(**files), generation=gallery.manifest.generation)


@pytest.fixture
def gallery(make_gallery: MakeGallery) -> Gallery:
    gallery = make_gallery()
    gallery.add(ROWS)
    return gallery


def test_what_is_attached_is_there_for_everyone_and_stays(gallery: Gallery) -> None:
    assert gallery.attached("graph") is None
    with pytest.raises(UsageError, match="no graph is attached"):
        gallery.is_stale("graph")
    attach(gallery, "graph", a="one", b="two")
    attach(gallery, "calibration", c="three")
    for seen in (gallery, Gallery.open(gallery.path)):
        graph, calibration = seen.attached("graph"), seen.attached("calibration")
        assert graph == gallery.path / "attached" / "000002-graph"
        assert calibration == gallery.path / "attached" / "000003-calibration"
        assert contents(graph) == {"a.txt": b"one", "b.txt": b"two"}
        assert contents(calibration) == {"c.txt": b"three"}
        assert (seen.is_stale("graph"), seen.is_stale("calibration")) == (False, False)
        assert (seen.manifest.generation, ids(seen)) == (3, [0, 1, 2])


def test_adding_carries_it_on_and_makes_it_stale(gallery: Gallery) -> None:
    attach(gallery, "graph", a="one")
    before = Gallery.open(gallery.path)
    gallery.add(ROWS[:1])
    assert gallery.attached("graph") == before.attached("graph")
    assert (before.is_stale("graph"), gallery.is_stale("graph")) == (False, True)
    attach(gallery, "graph", a="two")
    assert not gallery.is_stale("graph")
    gallery.add(ROWS[:0])
    assert not gallery.is_stale("graph")


def test_what_was_made_before_others_added_is_stale_at_once(gallery: Gallery) -> None:
    generation = gallery.manifest.generation
    Gallery.open(gallery.path).add(ROWS[:1])
    gallery.attach("graph", writes(a="old"), generation=generation)
    assert (gallery.is_stale("graph"), len(gallery)) == (True, 4)
    gallery.attach("graph", writes(a="new"), generation=gallery.manifest.generation)
    assert not gallery.is_stale("graph")
    with pytest.raises(UsageError, match=r"generation 9 is gone, it is at 4; .* is not kept"):
        gallery.attach("graph", writes(a="x"), generation=9)


def test_what_was_made_before_others_deleted_is_stale_at_once(gallery: Gallery) -> None:
    """It carries how many rows were deleted when it was made, not how many are now."""
    before = gallery.manifest.generation
    with Gallery.open(gallery.path) as other:
        other.delete(items=[0])
        between = other.manifest.generation
        other.delete(items=[2])
    for generation, deleted in ((before, 0), (between, 1)):
        gallery.attach("graph", writes(a="old"), generation=generation)
        [entry] = gallery.manifest.attached
        assert (entry.deleted, gallery.manifest.deleted) == (deleted, 2)
        for seen in (gallery, Gallery.open(gallery.path)):
            assert seen.is_stale("graph")
            assert seen.graph is None
    gallery.attach("graph", writes(a="new"), generation=gallery.manifest.generation)
    assert gallery.manifest.attached[0].deleted == 2
    assert not gallery.is_stale("graph")


def test_the_former_one_is_removed_at_once_unless_a_reader_holds_it(gallery: Gallery) -> None:
    attach(gallery, "graph", a="one")
    with Gallery.open(gallery.path) as reader:
        attach(gallery, "graph", a="two")
        former = reader.attached("graph")
        assert former is not None
        assert contents(former) == {"a.txt": b"one"}
        attach(gallery, "calibration", c="x")
        assert contents(former) == {"a.txt": b"one"}
    attach(gallery, "graph", a="three")
    assert contents(gallery.path / "attached") == {
        "000004-calibration/c.txt": b"x",
        "000005-graph/a.txt": b"three",
    }
    assert verify_gallery(gallery) == []
    assert len(Gallery.open(gallery.path).manifest.attached) == 2


BROKEN = {
    "cut": lambda path: path.write_text("on"),
    "flip": lambda path: path.write_text("onf"),
    "remove": lambda path: path.unlink(),
}


@pytest.mark.parametrize(
    ("kind", "command"),
    [("graph", "reid graph"), ("calibration", "reid calibrate"), ("index", "reid index")],
)
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("cut", ": 2 bytes, the manifest says 3"),
        ("flip", ": its bytes have changed since it was written (sha256 differs)"),
        ("remove", ": cannot be read: No such file or directory"),
    ],
)
def test_a_broken_one_is_named_and_made_again(
    gallery: Gallery, kind: str, command: str, change: str, words: str
) -> None:
    attach(gallery, kind, a="one")
    assert verify_gallery(gallery) == []
    path = gallery.path / f"attached/000002-{kind}/a.txt"
    BROKEN[change](path)
    opened = Gallery.open(gallery.path)
    assert verify_gallery(opened) == [f"{path}{words}; `{command}` makes it again"]
    assert len(opened.search(ROWS[0], k=3).matches) == 3
    opened.add(ROWS[:1])  # it is carried on, as it is
    attach(opened, kind, a="two")
    assert verify_gallery(Gallery.open(gallery.path)) == []
    folder = opened.attached(kind)
    assert folder is not None
    assert contents(folder) == {"a.txt": b"two"}


@pytest.mark.parametrize("kind", ["graph", "index"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("cut", "has 2 bytes, not 3"),
        ("flip", ": its bytes have changed since it was written"),
        ("remove", "is gone"),
    ],
)
def test_a_broken_one_is_refused_where_it_is_used(
    gallery: Gallery, kind: str, change: str, words: str
) -> None:
    attach(gallery, kind, a="one")
    BROKEN[change](gallery.path / f"attached/000002-{kind}/a.txt")
    opened = Gallery.open(gallery.path)
    with pytest.raises(CorruptGallery, match=rf"a\.txt ?{words}; `reid {kind}` makes it again"):
        getattr(opened, kind)


def test_a_failing_writer_or_another_one_leaves_everything_as_it_was(gallery: Gallery) -> None:
    attach(gallery, "graph", a="one")
    before = contents(gallery.path)

    def fail(folder: Path) -> None:
        (folder / "half.txt").write_text("half")
        raise OSError("disk full")

    def misname(folder: Path) -> None:
        (folder / ".hidden").write_text("x")

    with pytest.raises(OSError, match="disk full"):
        gallery.attach("graph", fail, generation=2)
    with pytest.raises(UsageError, match=r"'\.hidden'"):
        gallery.attach("graph", misname, generation=2)
    with pytest.raises(
        UsageError, match="no attachment 'notes'; there are graph, calibration, index"
    ):
        gallery.attach("notes", writes(a="x"), generation=2)
    with writer_lock(gallery.path), pytest.raises(GalleryLocked):
        gallery.attach("graph", writes(a="x"), generation=2)
    assert contents(gallery.path) == before
    assert [path.name for path in (gallery.path / "attached").iterdir()] == ["000002-graph"]


@pytest.mark.parametrize(
    "entry",
    [
        {"folder": ".."},
        {"folder": "attached/../shards"},
        {"folder": "/etc"},
        {"folder": "shards/000001"},
        {"files": {"../x": {}}},
        {"files": {"..": {}}},
    ],
)
def test_paths_outside_the_gallery_are_refused(gallery: Gallery, entry: dict[str, Any]) -> None:
    whole = {"kind": "graph", "folder": "attached/000002-graph", "covers": [], "files": {}}
    rewrite(gallery, current={}, manifest={"attached": [whole]})
    assert Gallery.open(gallery.path).is_stale("graph")
    rewrite(gallery, current={}, manifest={"attached": [{**whole, **entry}]})
    with pytest.raises(CorruptGallery, match="outside the gallery"):
        Gallery.open(gallery.path)


def test_a_gallery_of_format_1_0_can_be_attached_to(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN, tmp_path / "g")
    gallery = Gallery.open(tmp_path / "g")
    assert gallery.manifest.attached == ()
    attach(gallery, "graph", a="one")
    manifest = json.loads((gallery.path / "manifest-000003.json").read_bytes())
    assert manifest["format"] == [1, 6]
    assert manifest["attached"][0]["covers"] == ["shards/000001", "shards/000002"]
    assert verify_gallery(Gallery.open(gallery.path)) == []
    # What was made at a generation that the old format wrote is known to be of that generation.
    gallery.attach("graph", writes(a="old"), generation=1)
    assert gallery.is_stale("graph")
