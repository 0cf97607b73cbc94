"""A small synthetic world: drawn pedestrians before drawn cameras, for the demo and the tests.

Every picture is made of polygons and noise; no real person is shown. With the same Pillow and NumPy
the same arguments give the same pixels: each person, camera and crop has a random stream of its
own, derived from the seed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageOps

from reid_index.errors import UsageError

T = TypeVar("T")
Colour = tuple[int, int, int]
Point = tuple[float, float]
Box = tuple[float, float, float, float]

SCENE_SIZE = (480, 270)
SCENE_PEOPLE = 12

# Random streams of one seed: each kind of thing draws from its own.
PERSON, CAMERA, CROP, SCENE, WORLD = range(5)

# The figure's canvas. A body is 100 units tall, its feet at y = 0, its middle at x = 0. At
# 4.8 pixels a unit it is drawn about four times as large as it is shown.
UNIT = 4.8
CANVAS = (360, 580)
FEET = (180, 560)

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
class Look:
    """What stays with a person. height and width are shares of the average body's."""

    skin: Colour
    hair: Colour
    long_hair: bool
    hat: Colour | None
    upper: Colour
    accent: Colour
    pattern: str
    long_sleeves: bool
    lower: Colour
    garment: str
    shoes: Colour
    carried: str
    carried_colour: Colour
    height: float
    width: float


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


@dataclass(frozen=True, kw_only=True)
class Pose:
    """view: front, back, left or right. phase: of the walk, in radians."""

    view: str
    phase: float

    @property
    def from_side(self) -> bool:
        return self.view in ("left", "right")


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
    figure = _figure(look=_look(person=person, seed=seed), pose=_pose(camera=eye, rng=rng))
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
        figure = _figure(look=look, pose=pose)
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


def _shade(colour: Colour, factor: float) -> Colour:
    red, green, blue = (min(255, round(value * factor)) for value in colour)
    return red, green, blue


@dataclass(frozen=True, kw_only=True)
class Pen:
    """Draws on a figure's canvas in body units; wide is pixels a unit from left to right."""

    draw: ImageDraw.ImageDraw
    wide: float

    def at(self, point: Point) -> Point:
        return FEET[0] + point[0] * self.wide, FEET[1] - point[1] * UNIT

    def box(self, left: float, top: float, right: float, bottom: float) -> Box:
        return (*self.at((left, top)), *self.at((right, bottom)))

    def shape(self, points: Sequence[Point], colour: Colour | int) -> None:
        self.draw.polygon([self.at(point) for point in points], fill=colour)

    def disc(self, centre: Point, rx: float, ry: float, colour: Colour) -> None:
        x, y = centre
        self.draw.ellipse(self.box(x - rx, y + ry, x + rx, y - ry), fill=colour)

    def limb(self, joints: Sequence[Point], radii: Sequence[float], colour: Colour) -> None:
        """A tapering tube through the joints, round at each."""
        for (x, y), radius in zip(joints, radii, strict=True):
            self.disc((x, y), radius, radius * self.wide / UNIT, colour)
        tube = zip(map(self.at, joints), radii, strict=True)
        for ((x0, y0), start), ((x1, y1), end) in pairwise(tube):
            length = math.hypot(x1 - x0, y1 - y0) / self.wide
            nx, ny = (y0 - y1) / length, (x1 - x0) / length
            there = [(x0 + nx * start, y0 + ny * start), (x1 + nx * end, y1 + ny * end)]
            back = [(x1 - nx * end, y1 - ny * end), (x0 - nx * start, y0 - ny * start)]
            self.draw.polygon(there + back, fill=colour)


def _figure(*, look: Look, pose: Pose) -> Image.Image:
    """A person on a transparent ground, RGBA, cut tight, about four times as large as shown."""
    image = Image.new("RGBA", CANVAS)
    pen = Pen(draw=ImageDraw.Draw(image), wide=UNIT * look.width / look.height)
    legs, hip = _legs(pose)
    # A side view is drawn walking to the right; arm 0 and leg 0 are the far ones.
    if pose.from_side:
        _draw_arm(pen, look=look, pose=pose, hip=hip, arm=0)
    _draw_legs(pen, look=look, pose=pose, legs=legs, hip=hip)
    _draw_torso(image, pen, look=look, pose=pose, hip=hip)
    _draw_head(pen, look=look, pose=pose, hip=hip)
    _draw_carried(pen, look=look, pose=pose, hip=hip)
    for arm in (1,) if pose.from_side else (0, 1):
        _draw_arm(pen, look=look, pose=pose, hip=hip, arm=arm)
    if pose.view == "left":
        image = ImageOps.mirror(image)
    return image.crop(image.getbbox())


def _legs(pose: Pose) -> tuple[list[list[Point]], float]:
    """Hip, knee and ankle of both legs, and the height of the hip, so that one foot stands."""
    legs: list[list[Point]] = []
    for side in (-1, 1):
        if pose.from_side:
            thigh = 0.36 * side * math.sin(pose.phase)
            shin = thigh - 0.12 - 0.5 * max(0.0, side * math.cos(pose.phase))
            knee = (23 * math.sin(thigh), -23 * math.cos(thigh))
            ankle = (knee[0] + 22.5 * math.sin(shin), knee[1] - 22.5 * math.cos(shin))
            legs.append([(0, 0), knee, ankle])
        else:
            lift = max(0.0, 4 * side * math.sin(pose.phase))
            legs.append([(side * 4.0, 0), (side * 4.5, lift / 2 - 22), (side * 4.6, lift - 44.5)])
    top = 3.5 - min(ankle[1] for _, _, ankle in legs)
    return [[(x, top + y) for x, y in leg] for leg in legs], top + 2


def _draw_legs(pen: Pen, *, look: Look, pose: Pose, legs: list[list[Point]], hip: float) -> None:
    for leg, (top, knee, (x, y)) in enumerate(legs):
        dim = (0.72 if pose.from_side else 0.9) if leg == 0 else 1.0
        pen.limb([top, knee, (x, y)], [4.2, 3.2, 2.0], _shade(look.skin, 0.95 * dim))
        toe = (x + 5.5, y - 1.9) if pose.from_side else (x * 1.15, y - 1.7)
        pen.limb([(x, y - 1.2), toe], [2.3, 1.7], _shade(look.shoes, dim))
        if look.garment == "trousers":
            pen.limb([top, knee, (x, y + 1.5)], [4.9, 3.9, 3.0], _shade(look.lower, dim))
        if look.garment == "shorts":
            pen.limb([top, knee], [5.0, 4.6], _shade(look.lower, dim))
    waist = 5.2 if pose.from_side else 8.2
    knees = [knee[0] for _, knee, _ in legs]
    skirt = look.garment == "skirt"
    drop, left, right = (23, min(knees) - 4, max(knees) + 4) if skirt else (4, -waist, waist)
    corners = [(-waist, hip + 2), (waist, hip + 2), (right, hip - drop), (left, hip - drop)]
    pen.shape(corners, look.lower)


def _draw_torso(image: Image.Image, pen: Pen, *, look: Look, pose: Pose, hip: float) -> None:
    shoulder, waist, hem = (5.8, 5.4, 5.8) if pose.from_side else (10.4, 8.0, 8.8)
    half = [(3, 34), (shoulder, 31), (shoulder, 27), (waist, 10), (hem, -3)]
    outline = [(x, hip + y) for x, y in half] + [(-x, hip + y) for x, y in reversed(half)]
    cloth, mask = Image.new("RGBA", CANVAS, look.upper), Image.new("L", CANVAS)
    Pen(draw=ImageDraw.Draw(mask), wide=pen.wide).shape(outline, 255)
    on_cloth = Pen(draw=ImageDraw.Draw(cloth), wide=pen.wide)
    stripes = [(y, y + 3.2) for y in (-2.0, 5.0, 12.0, 19.0, 26.0)]
    for low, high in {"two-tone": [(18.0, 40.0)], "stripes": stripes}.get(look.pattern, []):
        on_cloth.draw.rectangle(on_cloth.box(-20, hip + high, 20, hip + low), fill=look.accent)
    if look.pattern == "logo" and pose.view == "front":
        on_cloth.disc((0, hip + 20), 5.2, 5.2, look.accent)
        on_cloth.disc((0, hip + 20), 2.4, 2.4, look.upper)
    image.paste(cloth, mask=mask)


def _draw_arm(pen: Pen, *, look: Look, pose: Pose, hip: float, arm: int) -> None:
    side = 2 * arm - 1
    swing = -side * math.sin(pose.phase)
    shoulder, elbow = (9.4 * side, hip + 29), (12.0 * side, hip + 15)
    wrist = (11.6 * side, hip + 1 + 2 * swing)
    if pose.from_side:
        upper, fore = 0.45 * swing, 0.45 * swing + 0.35
        shoulder = (0.0, hip + 29)
        elbow = (14 * math.sin(upper), shoulder[1] - 14 * math.cos(upper))
        wrist = (elbow[0] + 13.5 * math.sin(fore), elbow[1] - 13.5 * math.cos(fore))
    dim = 0.7 if pose.from_side and arm == 0 else 0.88
    cloth = _shade(look.accent if look.pattern == "two-tone" else look.upper, dim)
    skin = _shade(look.skin, dim + 0.1)
    pen.limb([shoulder, elbow, wrist], [2.6, 2.1, 1.7], skin)
    pen.disc((wrist[0], wrist[1] - 1.5), 1.9, 2.5, skin)
    if look.long_sleeves:
        pen.limb([shoulder, elbow, wrist], [3.2, 2.7, 2.2], cloth)
    else:
        hem = (0.4 * shoulder[0] + 0.6 * elbow[0], 0.4 * shoulder[1] + 0.6 * elbow[1])
        pen.limb([shoulder, hem], [3.3, 3.2], cloth)


def _draw_head(pen: Pen, *, look: Look, pose: Pose, hip: float) -> None:
    x, y = (0.9 if pose.from_side else 0.0), hip + 43
    if look.long_hair:
        for lock in {"front": (-4.4, 4.4), "back": (-3.2, 0, 3.2)}.get(pose.view, (-3.0,)):
            pen.limb([(lock * 0.8, y + 1), (lock, y - 11)], [2.6, 2.2], _shade(look.hair, 0.9))
    if pose.view != "back" or not look.long_hair:
        pen.limb([(0, y - 9), (x / 2, y - 5)], [2.7, 2.4], _shade(look.skin, 0.85))
    pen.disc((x, y), 4.7, 6.2, look.skin)
    if pose.from_side:
        pen.disc((x + 4.7, y - 0.8), 1.0, 1.1, look.skin)
    for eye in {"front": [-1.9, 1.9], "back": []}.get(pose.view, [x + 2.6]):
        pen.disc((eye, y - 0.3), 0.7, 0.6, _shade(look.skin, 0.45))
    # Degrees clockwise from three o'clock: what the hair leaves free is the face.
    start, end = {"front": (192, 348), "back": (0, 360)}.get(pose.view, (105, 318))
    pen.draw.chord(pen.box(x - 5.1, y + 6.8, x + 5.1, y - 6.4), start, end, fill=look.hair)
    if look.hat is not None:
        pen.draw.chord(pen.box(x - 5.5, y + 8.2, x + 5.5, y - 4), 180, 360, fill=look.hat)
        left, right = (x + 1, x + 9) if pose.from_side else (x - 5.8, x + 5.8)
        pen.limb([(left, y + 2.2), (right, y + 2)], [0.8, 0.7], _shade(look.hat, 0.75))


def _draw_carried(pen: Pen, *, look: Look, pose: Pose, hip: float) -> None:
    colour = look.carried_colour
    if look.carried == "backpack" and pose.view == "front":
        for x in (-5.5, 5.5):
            pen.limb([(x, hip + 32), (x * 1.1, hip + 14)], [1.1, 0.9], colour)
    elif look.carried == "backpack":
        left, right = (-12.5, -4) if pose.from_side else (-7.5, 7.5)
        for top, dim in ((31, 1.0), (17, 0.75)):
            box = pen.box(left, hip + top, right, hip + 7)
            pen.draw.rounded_rectangle(box, radius=14, fill=_shade(colour, dim))
    elif look.carried == "bag":
        # Worn on one hip, so its side in the picture changes between front and back.
        x = {"front": 9.5, "back": -9.5}.get(pose.view, -2.0)
        pen.limb([(-0.55 * x, hip + 33), (x * 0.9, hip + 6)], [0.8, 0.8], _shade(colour, 0.7))
        pen.draw.rounded_rectangle(pen.box(x - 5, hip + 6, x + 5, hip - 6), radius=8, fill=colour)


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
            draw.rectangle((x, y, x + 23, y + 8), fill=_shade((150, 90, 72), rng.uniform(0.8, 1.1)))
    draw.rectangle((0, 160, 480, 270), fill=(176, 168, 156))
    for x in range(-400, 900, 60):
        draw.line((x, 270, 240 + (x - 240) * 0.5, 160), fill=(146, 138, 128))


def _draw_grass(draw: ImageDraw.ImageDraw, rng: np.random.Generator) -> None:
    draw.rectangle((0, 0, 480, 40), fill=(186, 204, 216))
    draw.rectangle((0, 40, 480, 130), fill=(44, 70, 42))
    for x, y, r in rng.uniform((0, 22, 8), (480, 128, 20), size=(260, 3)).tolist():
        draw.ellipse(
            (x - r, y - r, x + r, y + r), fill=_shade((62, 96, 56), rng.uniform(0.75, 1.2))
        )
    draw.rectangle((0, 130, 480, 270), fill=(112, 144, 78))
    draw.polygon([(0, 196), (480, 176), (480, 232), (0, 256)], fill=(192, 178, 146))


def _expose(picture: Image.Image, *, camera: Camera, rng: np.random.Generator) -> Image.Image:
    """The picture as the camera's lens and sensor give it."""
    blurred = picture.filter(ImageFilter.GaussianBlur(camera.blur))
    light = (np.asarray(blurred) / np.float32(255)) ** np.float32(camera.gamma)
    light = 255 * light * camera.gain + rng.normal(0, camera.noise, size=light.shape)
    return Image.fromarray(light.clip(0, 255).round().astype(np.uint8))
