"""A small synthetic world: drawn pedestrians before drawn cameras, for the demo and the tests.

Every picture is made of polygons and noise; no real person is shown. With the same Pillow and NumPy
the same arguments give the same pixels: each person, camera and crop has a random stream of its
own, derived from the seed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from reid_index.errors import UsageError

from .figure import Box, Look, Pose, draw_figure, shade

T = TypeVar("T")

SCENE_SIZE = (480, 270)
SCENE_PEOPLE = 12

# Random streams of one seed: each kind of thing draws from its own.
PERSON, CAMERA, CROP, SCENE, WORLD = range(5)

SKINS = [(244, 208, 180), (226, 178, 142), (190, 134, 98), (134, 88, 60), (88, 58, 44)]
HAIRS = [(34, 28, 26), (74, 46, 30), (122, 78, 42), (206, 168, 98), (150, 148, 146)]
UPPERS = [
    (40, 42, 48), (44, 46, 54), (128, 132, 138), (232, 230, 224), (184, 44, 48), (34, 62, 128),
    (72, 132, 196), (52, 116, 78), (226, 178, 60), (128, 72, 140), (216, 122, 56), (226, 156, 176),
]  # fmt: skip
LOWERS = [(36, 38, 46), (46, 62, 99), (80, 99, 150), (112, 112, 116), (188, 168, 130), (90, 48, 52)]
SHOES = [(38, 36, 38), (240, 238, 232), (120, 76, 48), (190, 52, 52)]
CARRIED = [(150, 40, 44), (40, 74, 120), (66, 66, 70), (196, 150, 62), (58, 104, 82)]


@dataclass(frozen=True, kw_only=True)
class Camera:
    """What stays with a camera. crop_height, blur: pixels. gain: of R, G, B. noise: grey levels."""

    place: str
    view: str
    crop_height: int
    gain: tuple[float, float, float]
    gamma: float
    blur: float
    noise: float


def draw_world(
    folder: Path, *, people: int = 24, cameras: int = 4, crops_per_camera: int = 3, seed: int = 0
) -> int:
    """Write crops named as in Market-1501, `0001_c1s1_000123_01.jpg`, and return how many.

    The name holds person (from 0001), camera (from 1), sequence (always 1), frame and box. Each
    person is seen by a random set of at least two cameras, crops_per_camera times by each. The
    folder is made if need be; other files in it stay.

    Raises UsageError unless 1 ≤ people ≤ 9999, 2 ≤ cameras ≤ 9 and 1 ≤ crops_per_camera ≤ 999.
    """
    _check(name="people", value=people, lowest=1, highest=9999)
    _check(name="cameras", value=cameras, lowest=2, highest=9)
    _check(name="crops_per_camera", value=crops_per_camera, lowest=1, highest=999)
    rng = _stream(seed, WORLD)
    folder.mkdir(parents=True, exist_ok=True)
    written = 0
    for person in range(1, people + 1):
        seen_by = rng.permutation(cameras)[: rng.integers(2, cameras + 1)] + 1
        for camera in sorted(seen_by.tolist()):
            start = int(rng.integers(1, 900_000))
            for frame in range(start, start + 25 * crops_per_camera, 25):
                crop = draw_crop(person=person, camera=camera, frame=frame, seed=seed)
                crop.save(folder / f"{person:04d}_c{camera}s1_{frame:06d}_01.jpg", quality=92)
                written += 1
    return written


def draw_crop(*, person: int, camera: int, frame: int, seed: int = 0) -> Image.Image:
    """One person as one camera's detector would cut them out: RGB, about 64×128 pixels.

    The size differs between cameras and a little between crops. The box is not quite tight, and
    about one crop in five has something standing before the person.

    Raises UsageError where person or camera is below 1, or frame or seed below 0.
    """
    eye = _camera(camera=camera, seed=seed)
    rng = _stream(seed, CROP, person, camera, frame)
    figure = draw_figure(look=_look(person=person, seed=seed), pose=_pose(camera=eye, rng=rng))
    height = round(eye.crop_height * rng.uniform(0.95, 1.05))
    width = round(height * rng.uniform(0.44, 0.54))
    figure = _shrink(figure, height=round(height * rng.uniform(0.88, 0.98)))
    backdrop = _backdrop(place=eye.place, rng=_stream(seed, CAMERA, camera, 1))
    left = int(rng.integers(0, SCENE_SIZE[0] - width))
    top = int(rng.integers(70, SCENE_SIZE[1] - height))
    picture = backdrop.crop((left, top, left + width, top + height))
    x = (width - figure.width) // 2 + round(width * rng.uniform(-0.09, 0.09))
    y = (height - figure.height) // 2 + round(height * rng.uniform(-0.03, 0.03))
    _place(picture, figure=figure, x=x, y=y)
    if rng.random() < 0.2:
        _obstruct(picture, rng=rng)
    return _expose(picture, camera=eye, rng=rng)


def draw_scene(
    *, people: Sequence[int], camera: int, frame: int, seed: int = 0
) -> tuple[Image.Image, list[Box]]:
    """A full picture of a camera, 480×270 RGB, and each person's box in the order of people.

    A box is (x, y, width, height) in pixels, tight, wholly inside the picture. People stand side
    by side in random order and overlap slightly at most. A person has the same pose as in the crop
    of this camera and frame.

    Raises UsageError where more than 12 people are asked for, a person or camera is below 1, or
    frame or seed below 0.
    """
    _check(name="the number of people", value=len(people), lowest=0, highest=SCENE_PEOPLE)
    eye = _camera(camera=camera, seed=seed)
    rng = _stream(seed, SCENE, camera, frame)
    picture = _backdrop(place=eye.place, rng=_stream(seed, CAMERA, camera, 1))
    slot = SCENE_SIZE[0] / max(len(people), 1)
    tallest = min(165.0, 2.4 * slot)
    boxes: list[Box] = []
    for person, place in zip(people, rng.permutation(len(people)).tolist(), strict=True):
        look = _look(person=person, seed=seed)
        pose = _pose(camera=eye, rng=_stream(seed, CROP, person, camera, frame))
        figure = draw_figure(look=look, pose=pose)
        near = rng.uniform(0.85, 1.0)
        figure = _shrink(figure, height=round(tallest * near * look.height / 1.1))
        middle = (place + rng.uniform(0.4, 0.6)) * slot
        x = round(min(max(middle - figure.width / 2, 0), SCENE_SIZE[0] - figure.width))
        y = round(SCENE_SIZE[1] - 6 - 220 * (1 - near)) - figure.height
        _place(picture, figure=figure, x=x, y=y)
        boxes.append((float(x), float(y), float(figure.width), float(figure.height)))
    return _expose(picture, camera=eye, rng=rng), boxes


def _check(*, name: str, value: int, lowest: int, highest: int | None = None) -> None:
    if value < lowest or (highest is not None and value > highest):
        bounds = f"at least {lowest}" if highest is None else f"between {lowest} and {highest}"
        raise UsageError(f"synthetic world: {name} is {value}; it must be {bounds}")


def _stream(seed: int, kind: int, *ids: int) -> np.random.Generator:
    _check(name="seed or frame", value=min(seed, *ids, 0), lowest=0)
    return np.random.default_rng([seed, kind, *ids])


def _pick(rng: np.random.Generator, options: Sequence[T]) -> T:
    return options[int(rng.integers(len(options)))]


def _look(*, person: int, seed: int) -> Look:
    _check(name="person", value=person, lowest=1)
    rng = _stream(seed, PERSON, person)
    upper = _pick(rng, UPPERS)
    accents = [colour for colour in UPPERS if math.dist(colour, upper) > 110]
    return Look(
        skin=_pick(rng, SKINS),
        hair=_pick(rng, HAIRS),
        long_hair=rng.random() < 0.45,
        hat=_pick(rng, CARRIED) if rng.random() < 0.15 else None,
        upper=upper,
        accent=_pick(rng, accents),
        pattern=_pick(rng, ["plain", "plain", "stripes", "two-tone", "logo"]),
        long_sleeves=rng.random() < 0.55,
        lower=_pick(rng, LOWERS),
        garment=_pick(rng, ["trousers", "trousers", "trousers", "shorts", "skirt"]),
        shoes=_pick(rng, SHOES),
        carried=_pick(rng, ["nothing", "nothing", "backpack", "bag"]),
        carried_colour=_pick(rng, CARRIED),
        height=rng.uniform(0.9, 1.1),
        width=rng.uniform(0.9, 1.2),
    )


def _camera(*, camera: int, seed: int) -> Camera:
    _check(name="camera", value=camera, lowest=1)
    rng = _stream(seed, CAMERA, camera)
    gain = rng.uniform(0.72, 1.15)
    # Places and views take turns, so that even two cameras differ.
    return Camera(
        place=("street", "wall", "grass")[(camera - 1) % 3],
        view=("front", "right", "back", "left")[(camera - 1) % 4],
        crop_height=int(rng.integers(100, 145)),
        gain=(gain * rng.uniform(0.9, 1.1), gain, gain * rng.uniform(0.88, 1.12)),
        gamma=rng.uniform(0.8, 1.2),
        blur=rng.uniform(0.0, 0.8),
        noise=rng.uniform(2.0, 6.0),
    )


def _pose(*, camera: Camera, rng: np.random.Generator) -> Pose:
    usual = rng.random() < 0.6
    view = camera.view if usual else _pick(rng, ["front", "right", "back", "left"])
    return Pose(view=view, phase=rng.uniform(0, 2 * math.pi))


def _shrink(figure: Image.Image, *, height: int) -> Image.Image:
    """The figure at its shown height in pixels, lit from the left to look round."""
    width = max(1, round(figure.width * height / figure.height))
    small = figure.resize((width, height), Image.Resampling.LANCZOS)
    pixels = np.array(small, dtype=np.float32)
    soft = small.getchannel("A").filter(ImageFilter.GaussianBlur(height / 45))
    slope = np.gradient(np.asarray(soft, dtype=np.float32), axis=1) / 255
    fall = np.linspace(1.06, 0.9, height, dtype=np.float32)[:, None]
    pixels[..., :3] *= (fall * (1 + 0.022 * height * slope).clip(0.6, 1.35))[..., None]
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _place(picture: Image.Image, *, figure: Image.Image, x: int, y: int) -> None:
    """Paste the figure into the picture with its top left corner at (x, y), on a soft shadow."""
    shadow = Image.new("L", (figure.width + 20, 18))
    ImageDraw.Draw(shadow).ellipse((6, 5, figure.width + 13, 12), fill=130)
    shadow = shadow.filter(ImageFilter.GaussianBlur(2))
    picture.paste((18, 18, 22), (x - 7, y + figure.height - 11), shadow)
    picture.paste(figure, (x, y), figure)


def _obstruct(picture: Image.Image, *, rng: np.random.Generator) -> None:
    """Put a post, a bench or a bin before the person."""
    draw = ImageDraw.Draw(picture)
    width, height = picture.size
    thing = _pick(rng, ["post", "bench", "bin"])
    x = rng.uniform(0.0, 0.7) * width
    if thing == "post":
        draw.rectangle((x, 0, x + 0.15 * width, height), fill=(92, 96, 98))
    elif thing == "bench":
        draw.rectangle((x, 0.7 * height, x + 0.07 * width, height), fill=(58, 56, 56))
        for y in (0.7, 0.77, 0.86):
            draw.rectangle((0, y * height, width, (y + 0.04) * height), fill=(126, 88, 54))
    else:
        draw.rectangle((x, 0.68 * height, x + 0.5 * width, height), fill=(54, 84, 70))
        draw.rectangle((x, 0.73 * height, x + 0.5 * width, 0.75 * height), fill=(36, 58, 48))


def _backdrop(*, place: str, rng: np.random.Generator) -> Image.Image:
    """The empty scene of a camera, before its lens and light: RGB of SCENE_SIZE."""
    picture = Image.new("RGB", SCENE_SIZE)
    draw = ImageDraw.Draw(picture)
    {"street": _draw_street, "wall": _draw_wall, "grass": _draw_grass}[place](draw, rng)
    for cell in (2, 24):
        size = (SCENE_SIZE[1] // cell, SCENE_SIZE[0] // cell)
        grain = rng.integers(112, 144, size=size, dtype=np.uint8)
        smooth = Image.fromarray(grain).resize(SCENE_SIZE).convert("RGB")
        picture = ImageChops.overlay(picture, smooth)
    return picture


def _draw_street(draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    draw.rectangle((0, 0, 480, 140), fill=(176, 164, 148))
    for x in range(int(rng.integers(-60, 14)), 480, 74):
        draw.rectangle((x, 18, x + 44, 104), fill=(210, 204, 194))
        for left in (x + 4, x + 24):
            draw.rectangle((left, 22, left + 16, 100), fill=(74, 92, 108))
    draw.rectangle((0, 140, 480, 196), fill=(158, 156, 152))
    draw.rectangle((0, 196, 480, 201), fill=(196, 194, 188))
    draw.rectangle((0, 201, 480, 270), fill=(98, 98, 102))
    for x in range(20, 480, 110):
        draw.polygon([(x, 232), (x + 56, 232), (x + 52, 239), (x - 6, 239)], fill=(204, 204, 198))


def _draw_wall(draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    draw.rectangle((0, 0, 480, 160), fill=(168, 156, 146))
    for row, y in enumerate(range(0, 160, 10)):
        for x in range(-12 * (row % 2), 480, 25):
            draw.rectangle((x, y, x + 23, y + 8), fill=shade((150, 90, 72), rng.uniform(0.8, 1.1)))
    draw.rectangle((0, 160, 480, 270), fill=(176, 168, 156))
    for x in range(-400, 900, 60):
        draw.line((x, 270, 240 + (x - 240) * 0.5, 160), fill=(146, 138, 128))


def _draw_grass(draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    draw.rectangle((0, 0, 480, 40), fill=(186, 204, 216))
    draw.rectangle((0, 40, 480, 130), fill=(44, 70, 42))
    for x, y, r in rng.uniform((0, 22, 8), (480, 128, 20), size=(260, 3)).tolist():
        draw.ellipse((x - r, y - r, x + r, y + r), fill=shade((62, 96, 56), rng.uniform(0.75, 1.2)))
    draw.rectangle((0, 130, 480, 270), fill=(112, 144, 78))
    draw.polygon([(0, 196), (480, 176), (480, 232), (0, 256)], fill=(192, 178, 146))


def _expose(picture: Image.Image, *, camera: Camera, rng: np.random.Generator) -> Image.Image:
    """The picture as the camera's lens and sensor give it."""
    blurred = picture.filter(ImageFilter.GaussianBlur(camera.blur))
    light = (np.asarray(blurred) / np.float32(255)) ** np.float32(camera.gamma)
    light = 255 * light * camera.gain + rng.normal(0, camera.noise, size=light.shape)
    return Image.fromarray(light.clip(0, 255).round().astype(np.uint8))
