"""The synthetic world: names, determinism, boxes that fit, people who can be told apart."""

import re
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cli.world import draw_crop, draw_scene, draw_world
from reid_index.errors import UsageError


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world") / "made" / "here"
    assert draw_world(folder, people=16, seed=3) == len(list(folder.iterdir()))
    return folder


def test_every_person_is_seen_three_times_by_each_of_at_least_two_cameras(world: Path) -> None:
    seen: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for path in world.iterdir():
        name = re.fullmatch(r"(\d{4})_c([1-4])s1_(\d{6})_01\.jpg", path.name)
        assert name is not None, path.name
        seen[name[1]][name[2]] += 1
    assert sorted(seen) == [f"{person:04d}" for person in range(1, 17)]
    assert {count for cameras in seen.values() for count in cameras.values()} == {3}
    assert {len(cameras) for cameras in seen.values()} == {2, 3, 4}


def test_a_file_holds_the_crop_that_its_name_says(world: Path) -> None:
    path = sorted(world.glob("*_c3s1_*"))[4]
    person, camera, frame = int(path.name[:4]), int(path.name[6]), int(path.name[10:16])
    with Image.open(path) as picture:
        stored = np.asarray(picture, dtype=float)
    drawn = np.asarray(draw_crop(person=person, camera=camera, frame=frame, seed=3), dtype=float)
    assert stored.shape == drawn.shape
    assert np.abs(stored - drawn).mean() < 6  # what JPEG loses


def test_the_same_arguments_draw_the_same_crop_and_any_other_another() -> None:
    first = draw_crop(person=5, camera=2, frame=70, seed=1)
    draw_crop(person=6, camera=1, frame=3, seed=1)
    assert draw_crop(person=5, camera=2, frame=70, seed=1).tobytes() == first.tobytes()
    others = [
        draw_crop(person=4, camera=2, frame=70, seed=1),
        draw_crop(person=5, camera=3, frame=70, seed=1),
        draw_crop(person=5, camera=2, frame=71, seed=1),
        draw_crop(person=5, camera=2, frame=70, seed=2),
    ]
    assert len({crop.tobytes() for crop in [first, *others]}) == 5


def test_crops_are_of_about_64_by_128_pixels(world: Path) -> None:
    for path in world.iterdir():
        with Image.open(path) as crop:
            assert crop.mode == "RGB"
            assert 95 <= crop.height <= 152
            assert 0.43 <= crop.width / crop.height <= 0.55


def test_colours_find_the_person_in_other_cameras_often_but_not_always(world: Path) -> None:
    paths = sorted(world.iterdir())
    vectors = np.stack([stripe_colours(path) for path in paths])
    person = np.array([path.name[:4] for path in paths])
    camera = np.array([path.name[6] for path in paths])
    distance = np.abs(vectors[:, None] - vectors).sum(axis=2)
    distance[camera[:, None] == camera] = np.inf
    rank1 = (person[distance.argmin(axis=1)] == person).mean()
    assert 0.35 < rank1 < 0.95  # guessing gives about 1/16


def stripe_colours(path: Path) -> NDArray[np.float64]:
    """Mean colour of each of eight stripes in the middle third of the crop, (24,)."""
    with Image.open(path) as picture:
        pixels = np.asarray(picture.resize((24, 64)), dtype=float)
    return pixels[:, 8:16].reshape(8, 8 * 8, 3).mean(axis=1).ravel()


@pytest.mark.parametrize("people", [[7], [3, 1, 2, 4, 9], list(range(1, 13))])
@pytest.mark.parametrize("camera", [1, 2, 3])
def test_scene_boxes_hold_the_people_and_nothing_else(people: list[int], camera: int) -> None:
    picture, boxes = draw_scene(people=people, camera=camera, frame=9)
    empty, no_boxes = draw_scene(people=[], camera=camera, frame=9)
    assert picture.size == empty.size == (480, 270)
    assert len(boxes) == len(people)
    assert no_boxes == []
    change = np.abs(np.asarray(picture, dtype=float) - np.asarray(empty, dtype=float)).max(axis=2)
    background = np.ones((270, 480), dtype=bool)
    covered = np.zeros((270, 480), dtype=int)
    for x, y, width, height in boxes:
        assert 0 <= x < x + width <= 480
        assert 0 <= y < y + height <= 270
        left, top, right, bottom = int(x), int(y), int(x + width), int(y + height)
        assert (change[top:bottom, left:right] > 40).mean() > 0.15
        # A shadow falls a little beside the feet.
        background[top : bottom + 12, max(left - 12, 0) : right + 12] = False
        covered[top:bottom, left:right] += 1
    assert (change[background] > 40).mean() < 0.001
    assert (covered > 1).sum() < 0.1 * (covered > 0).sum()


def test_scene_boxes_come_in_the_order_of_people() -> None:
    people = [3, 6, 2, 4]
    together = torso_colours(people)
    alone = np.concatenate([torso_colours([person]) for person in people])
    distance = np.abs(together[:, None] - alone).sum(axis=2)
    assert distance.argmin(axis=1).tolist() == [0, 1, 2, 3]


def torso_colours(people: list[int]) -> NDArray[np.float64]:
    """Mean colour of the chest and of the belly in each person's box, (people, 6)."""
    picture, boxes = draw_scene(people=people, camera=2, frame=40)
    colours = []
    for x, y, width, height in boxes:
        middle = (x + 0.4 * width, x + 0.6 * width)
        for top in (0.2, 0.36):
            stripe = (middle[0], y + top * height, middle[1], y + (top + 0.12) * height)
            colours.append(np.asarray(picture.crop(stripe), dtype=float).mean(axis=(0, 1)))
    return np.array(colours).reshape(len(people), 6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"people": 0}, "people is 0; it must be between 1 and 9999"),
        ({"cameras": 1}, "cameras is 1; it must be between 2 and 9"),
        ({"cameras": 10}, "cameras is 10; it must be between 2 and 9"),
        ({"crops_per_camera": 0}, "crops_per_camera is 0; it must be between 1 and 999"),
        ({"seed": -1}, "seed or frame is -1; it must be at least 0"),
    ],
)
def test_a_world_that_makes_no_sense_is_refused_before_anything_is_written(
    tmp_path: Path, options: dict[str, int], message: str
) -> None:
    with pytest.raises(UsageError, match=f"^synthetic world: {message}$"):
        draw_world(tmp_path / "world", **options)
    assert not (tmp_path / "world").exists()


def test_a_crop_or_scene_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(UsageError, match="person is 0; it must be at least 1"):
        draw_crop(person=0, camera=1, frame=1)
    with pytest.raises(UsageError, match="camera is 0; it must be at least 1"):
        draw_scene(people=[1], camera=0, frame=1)
    with pytest.raises(UsageError, match="frame is -1; it must be at least 0"):
        draw_crop(person=1, camera=1, frame=-1)
    with pytest.raises(UsageError, match="number of people is 13; it must be between 0 and 12"):
        draw_scene(people=range(1, 14), camera=1, frame=1)
