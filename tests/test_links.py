"""Paths that lead out of the folder that a build starts from, by `..` and by links."""

from pathlib import Path

import pytest
from cli_world import assert_refused, run, succeed
from PIL import Image

from cli.target import load_crop
from extractors.images import read_image
from extractors.pictures import find_pictures
from extractors.records import Listing, Part, Record
from reid_index import Gallery
from reid_index.errors import UnreadableImage


def drawn(path: Path, colour: str = "red") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 16), colour).save(path)
    return path


def outside_message(path: Path, real: Path, root: Path) -> str:
    return f"{path}: it is {real}, outside {root}: build from the folder that it is in"


def refusal_of(paths: list[Path]) -> list[str]:
    """What is said of each picture of a source, "" where it is read."""
    said = []
    for picture in find_pictures(paths).pictures():
        try:
            read_image(picture.path, root=picture.root)
            said.append("")
        except UnreadableImage as error:
            said.append(str(error))
    return said


def test_a_link_that_leads_outside_is_skipped_and_told_or_fatal_with_strict(tmp_path):
    secret = drawn(tmp_path / "secret.png")
    drawn(tmp_path / "in" / "a.png")
    drawn(tmp_path / "in" / "b.png", "blue")
    link = tmp_path / "in" / "c.png"
    link.symlink_to("../secret.png")
    told = outside_message(link, secret, tmp_path / "in")
    result = succeed("build", "--extractor", "stripes", tmp_path / "in", "--out", tmp_path / "g")
    assert f"skipped: {told}\n1 of 3 were skipped\n" in result.stderr
    with Gallery.open(tmp_path / "g") as gallery:
        assert gallery.items["source"].to_pylist() == ["a.png", "b.png"]
    result = run(
        "build", "--extractor", "stripes", tmp_path / "in", "--out", tmp_path / "h", "--strict"
    )
    assert_refused(result, code=1, text=told)


def test_links_that_stay_inside_and_a_root_that_is_one_are_followed(tmp_path):
    drawn(tmp_path / "real" / "deep" / "a.png")
    (tmp_path / "real" / "b.png").symlink_to("deep/a.png")
    (tmp_path / "link").symlink_to("real")
    assert refusal_of([tmp_path / "link"]) == ["", ""]


def test_a_folder_that_is_a_link_beside_another_is_refused(tmp_path):
    far = drawn(tmp_path / "far" / "a.png")
    drawn(tmp_path / "here" / "one" / "b.png")
    two = tmp_path / "here" / "two"
    two.symlink_to(tmp_path / "far")
    told = outside_message(two / "a.png", far, tmp_path / "here")
    assert refusal_of([tmp_path / "here" / "one", two]) == ["", told]


def test_a_list_may_name_files_above_it_and_links_may_not(tmp_path):
    drawn(tmp_path / "all" / "crops" / "a.png")
    secret = drawn(tmp_path / "secret.png")
    (tmp_path / "all" / "crops" / "b.png").symlink_to(secret)
    (tmp_path / "all" / "lists").mkdir()
    listed = tmp_path / "all" / "lists" / "l.csv"
    listed.write_text("file\n../crops/a.png\n../crops/b.png\n")
    assert find_pictures([listed]).root == tmp_path / "all"
    told = outside_message(tmp_path / "all" / "crops" / "b.png", secret, tmp_path / "all")
    assert refusal_of([listed]) == ["", told]


@pytest.mark.parametrize("name", ["../secret.png", "{}/secret.png", "a/../../secret.png"])
def test_a_data_set_that_lists_files_elsewhere_is_not_followed(name, tmp_path):
    drawn(tmp_path / "secret.png")
    (tmp_path / "set" / "a").mkdir(parents=True)
    part = Part([Record((name.format(tmp_path),), {})])
    (picture,) = Listing(tmp_path / "set", part, part).source(part).pictures()
    with pytest.raises(UnreadableImage, match=r"secret\.png, outside .*set: build from"):
        read_image(picture.path, root=picture.root)


def test_a_sheet_shows_no_picture_from_outside(tmp_path):
    secret = drawn(tmp_path / "secret.png")
    root = tmp_path / "root"
    drawn(root / "deep" / "a.png")
    (root / "inside.png").symlink_to("deep/a.png")
    (root / "out.png").symlink_to(secret)
    (root / "up").symlink_to("..")
    (tmp_path / "link").symlink_to("root")
    for folder in (root, tmp_path / "link"):
        shown = [
            source
            for source in ("deep/a.png", "inside.png", "out.png", "up/secret.png", "../secret.png")
            if load_crop(source, str(folder), None) is not None
        ]
        assert shown == ["deep/a.png", "inside.png"]
    assert load_crop(str(secret), str(root), None) is None
