"""`reid explain`: what is on the sheets, and what is refused."""

import base64
import io
import json
import re
import shutil

import numpy as np
import pytest
import torch
from cli_world import assert_refused, pixels_of, run, succeed
from PIL import Image
from training_world import FED, HEIGHT, WIDTH, write_people

from cli.heat_sheet import _CELL, _CROP, _FRAME, _FRAMES, _GAP, _TITLE
from extractors.heat import heat_maps, overlay
from extractors.systems import Plan, make_system
from extractors.trained import Model, TrainedExtractor, read_model, write_model
from reid_index import Gallery


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """People 1 to 4 in folder `crops`, of two cameras; a model file; a gallery of it, without 4."""
    folder = tmp_path_factory.mktemp("explain")
    write_people(folder / "crops", range(1, 5), crops=4)
    torch.manual_seed(3)
    plan = Plan(backbone="resnet18_x0_125", dim=16)
    write_model(folder / "m.safetensors", Model(make_system(plan, classes=2).eval(), plan, FED, {}))
    write_people(folder / "known", range(1, 4), crops=4)
    model = ("--extractor", "trained", "--weights", folder / "m.safetensors")
    succeed("build", folder / "known", "--out", folder / "g", *model)
    return folder


def crops_of(world, *numbers):
    paths = sorted((world / "crops").iterdir())
    return [paths[number] for number in numbers]


def explained(world, out, *options, crops=(0, 5)):
    asked = ("explain", world / "m.safetensors", *crops_of(world, *crops))
    return succeed(*asked, "--out", out, *options)


def cell(sheet, line, column, *, apart):
    """What stands in a place of a sheet: crop, heat, colour of the frame."""
    x = _GAP + column * (_CELL[0] + _GAP) + (3 * _GAP if apart and column else 0)
    y = _TITLE + 3 * _GAP + line * (_CELL[1] + _GAP)
    frame = "#" + "".join(f"{value:02x}" for value in sheet[y + 1, x + 1])
    inside = sheet[y + _FRAME : y + _FRAME + _CROP[1], x + _FRAME : x + _FRAME + 2 * _CROP[0]]
    return inside[:, : _CROP[0]], inside[:, _CROP[0] :], frame


def assert_shows(part, pixels):
    """The crops of this world have the shape of a cell. A map differs in its last bits by batch."""
    large = Image.fromarray(pixels).resize(_CROP, Image.Resampling.BICUBIC)
    assert np.abs(part.astype(int) - np.asarray(large)).max() <= 3


def heat_of(world, path):
    pixels = pixels_of(path)
    return overlay(pixels, heat_maps(read_model(world / "m.safetensors"), [pixels])[0])


def test_crops_stand_beside_their_heat(world, tmp_path):
    assert _CROP[1] / _CROP[0] == HEIGHT / WIDTH
    numbers = (0, 5, 2, 3, 7, 9, 11, 12)
    result = explained(world, tmp_path / "s.png", crops=numbers)
    assert result.stderr == f"{tmp_path}/s.png: 8 crops\n"
    sheet = pixels_of(tmp_path / "s.png")
    for at, path in enumerate(crops_of(world, *numbers)):
        crop, heat, frame = cell(sheet, at // 6, at % 6, apart=False)
        assert_shows(crop, pixels_of(path))
        assert_shows(heat, heat_of(world, path))
        assert frame == _FRAMES[None]


def expected(world, number, *, top, own_camera=True):
    """The matches of a crop, by the gallery alone."""
    (path,) = crops_of(world, number)
    extractor = TrainedExtractor(world / "m.safetensors")
    vector = extractor.extract([pixels_of(path)]).global_
    with Gallery.open(world / "g") as gallery:
        without = [] if own_camera else [int(path.name[6])]
        return gallery.search(vector, k=top, not_camera=without).matches


def test_matches_stand_beside_their_crop_in_frames(world, tmp_path):
    explained(world, tmp_path / "s.png", "--gallery", world / "g", "--top", 4, crops=(0, 5, 13))
    sheet = pixels_of(tmp_path / "s.png")
    seen = set()
    for line, number in enumerate((0, 5, 13)):
        assert_shows(cell(sheet, line, 0, apart=True)[0], pixels_of(crops_of(world, number)[0]))
        for column, match in enumerate(expected(world, number, top=4), start=1):
            path = world / "known" / match.source
            crop, heat, frame = cell(sheet, line, column, apart=True)
            assert_shows(crop, pixels_of(path))
            assert_shows(heat, heat_of(world, path))
            verdict = "same" if match.person == crops_of(world, number)[0].name[:4] else "other"
            assert frame == _FRAMES[verdict]
            seen.add(verdict)
    assert seen == {"same", "other"}


def figures(page):
    """(verdict, pictures, text) of each figure."""
    found = []
    each = r'<figure(?: data-verdict="(\w+)")?>(.*?)</figure>'
    for verdict, body in re.findall(each, page, re.S):
        encoded = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', body)
        pictures = [Image.open(io.BytesIO(base64.b64decode(one))) for one in encoded]
        text = re.search("<figcaption>(.*?)</figcaption>", body, re.S)
        found.append((verdict or None, pictures, re.sub("<[^>]+>|\\s+", " ", text[1])))
    return found


def test_a_page_has_the_same(world, tmp_path):
    explained(world, tmp_path / "s.html", "--gallery", world / "g", "--not-own-camera")
    page = (tmp_path / "s.html").read_text()
    assert "http" not in page.replace('http-equiv="Content', "")
    shown = figures(page)
    assert len(shown) == 2 * 6
    for line, number in enumerate((0, 5)):
        itself, *matches = shown[6 * line : 6 * line + 6]
        (path,) = crops_of(world, number)
        assert itself[0] is None
        assert path.name in itself[2]
        assert [picture.size for picture in itself[1]] == [(WIDTH, HEIGHT)] * 2
        # JPEG changes little.
        assert np.abs(np.asarray(itself[1][1], float) - heat_of(world, path)).mean() < 8
        for (verdict, _, text), match in zip(
            matches, expected(world, number, top=5, own_camera=False), strict=True
        ):
            assert match.camera != int(path.name[6])
            assert verdict == ("same" if match.person == path.name[:4] else "other")
            assert match.source in text
            assert f"similarity {match.similarity:.4f}" in text


def test_where_is_asked_of_the_gallery(world, tmp_path):
    explained(world, tmp_path / "s.html", "--gallery", world / "g", "--where", "person = '0003'")
    shown = figures((tmp_path / "s.html").read_text())
    names = [text.split()[0] for verdict, _, text in shown if verdict is not None]
    assert len(names) == 8
    assert {name[:4] for name in names} == {"0003"}


def test_unknown_people_have_grey_frames_and_lost_pictures_none(world, tmp_path):
    shutil.copy(crops_of(world, 0)[0], tmp_path / "somebody.png")
    options = ("--gallery", world / "g", "--root", tmp_path)
    out = tmp_path / "s.png"
    succeed("explain", world / "m.safetensors", tmp_path / "somebody.png", "--out", out, *options)
    crop, heat, frame = cell(pixels_of(out), 0, 1, apart=True)
    assert frame == _FRAMES["unknown"]
    assert len(np.unique(heat.reshape(-1, 3), axis=0)) == 1  # nothing is drawn
    assert not np.array_equal(crop, heat)  # it says that there is no picture


def test_the_model_that_comes_along_is_called_default(world, tmp_path):
    succeed("explain", "default", *crops_of(world, 0), "--out", tmp_path / "s.png")
    with Image.open(tmp_path / "s.png") as sheet:
        assert sheet.format == "PNG"


def test_names_are_shown_as_text(world, tmp_path):
    path = tmp_path / "<b>&.png"
    shutil.copy(crops_of(world, 0)[0], path)
    for form in ("png", "html"):
        succeed("explain", world / "m.safetensors", path, "--out", tmp_path / f"s.{form}")
    page = (tmp_path / "s.html").read_text()
    assert "<b>" not in page
    assert "&lt;b&gt;&amp;.png" in page


def test_crops_that_cannot_be_read_are_skipped_or_refused(world, tmp_path):
    shutil.copy(crops_of(world, 0)[0], tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no picture")
    options = ("explain", world / "m.safetensors", tmp_path, "--out", tmp_path / "s.html")
    result = succeed(*options)
    assert "skipped: " in result.stderr
    assert "1 of 2 were skipped" in result.stderr
    assert len(figures((tmp_path / "s.html").read_text())) == 1
    assert_refused(run(*options, "--strict"), code=1, text="b.png")
    (tmp_path / "a.png").unlink()
    nobody = run(*options)
    assert (nobody.exit_code, nobody.stdout) == (1, "")
    assert "no crop that can be read" in nobody.stderr


def test_matches_of_a_model_that_compares_parts_are_ranked_by_them(world, tmp_path):
    torch.manual_seed(5)
    plan = Plan(system="fls", backbone="resnet18_x0_125", dim=8, regions=3)
    model = tmp_path / "fls.safetensors"
    write_model(model, Model(make_system(plan, classes=2).eval(), plan, FED, {}))
    made = ("--extractor", "trained", "--weights", model)
    succeed("build", world / "known", "--out", tmp_path / "g", *made)
    (crop,) = crops_of(world, 13)
    sheet = tmp_path / "s.html"
    succeed("explain", model, crop, "--gallery", tmp_path / "g", "--top", 2, "--out", sheet)
    best = succeed("query", tmp_path / "g", crop, "--top", 2, "--format", "jsonl").stdout
    places = [sheet.read_text().find(json.loads(line)["source"]) for line in best.splitlines()]
    assert 0 < places[0] < places[1]


def test_a_gallery_of_another_model_is_refused(world, tmp_path):
    options = ("--gallery", world / "g", "--out", tmp_path / "s.png")
    result = run("explain", "default", *crops_of(world, 0), *options)
    assert_refused(result, code=1, text="sha256")


@pytest.mark.parametrize(
    ("out", "options", "text"),
    [
        ("s.jpg", (), "a .png or .html file"),
        ("no/s.png", (), "a folder that is there"),
        ("s.png", ("--where", "camera = 1"), "name it"),
        ("s.png", ("--not-own-camera",), "name it"),
    ],
)
def test_options_that_make_no_sense_are_refused(world, tmp_path, out, options, text):
    asked = ("explain", world / "m.safetensors", *crops_of(world, 0))
    assert_refused(run(*asked, "--out", tmp_path / out, *options), code=2, text=text)


def test_too_many_crops_are_refused(world, tmp_path, monkeypatch):
    monkeypatch.setattr("cli.explained.MOST", 15)
    result = run("explain", world / "m.safetensors", world / "crops", "--out", tmp_path / "s.png")
    assert_refused(result, code=2, text="16 crops; a sheet has 15 at most")


def test_an_own_camera_that_is_not_known_is_refused(world, tmp_path):
    shutil.copy(crops_of(world, 0)[0], tmp_path / "somebody.png")
    options = ("--gallery", world / "g", "--not-own-camera", "--out", tmp_path / "s.png")
    result = run("explain", world / "m.safetensors", tmp_path / "somebody.png", *options)
    assert_refused(result, code=2, text="somebody.png: no camera is known")


def test_what_is_no_model_is_refused(world, tmp_path):
    (crop,) = crops_of(world, 0)
    assert_refused(run("explain", crop, crop, "--out", tmp_path / "s.png"), code=1, text="no model")
