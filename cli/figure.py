"""A drawn pedestrian, on a transparent ground: what stays with a person, and how they stand."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from PIL import Image, ImageDraw, ImageOps

Colour = tuple[int, int, int]
Point = tuple[float, float]
Box = tuple[float, float, float, float]

# The figure's canvas. A body is 100 units tall, its feet at y = 0, its middle at x = 0. At
# 4.8 pixels a unit it is drawn about four times as large as it is shown.
UNIT = 4.8
CANVAS = (360, 580)
FEET = (180, 560)


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
class Pose:
    """view: front, back, left or right. phase: of the walk, in radians."""

    view: str
    phase: float

    @property
    def from_side(self) -> bool:
        return self.view in ("left", "right")


def draw_figure(*, look: Look, pose: Pose) -> Image.Image:
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


def shade(colour: Colour, factor: float) -> Colour:
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
        pen.limb([top, knee, (x, y)], [4.2, 3.2, 2.0], shade(look.skin, 0.95 * dim))
        toe = (x + 5.5, y - 1.9) if pose.from_side else (x * 1.15, y - 1.7)
        pen.limb([(x, y - 1.2), toe], [2.3, 1.7], shade(look.shoes, dim))
        if look.garment == "trousers":
            pen.limb([top, knee, (x, y + 1.5)], [4.9, 3.9, 3.0], shade(look.lower, dim))
        if look.garment == "shorts":
            pen.limb([top, knee], [5.0, 4.6], shade(look.lower, dim))
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
    cloth = shade(look.accent if look.pattern == "two-tone" else look.upper, dim)
    skin = shade(look.skin, dim + 0.1)
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
            pen.limb([(lock * 0.8, y + 1), (lock, y - 11)], [2.6, 2.2], shade(look.hair, 0.9))
    if pose.view != "back" or not look.long_hair:
        pen.limb([(0, y - 9), (x / 2, y - 5)], [2.7, 2.4], shade(look.skin, 0.85))
    pen.disc((x, y), 4.7, 6.2, look.skin)
    if pose.from_side:
        pen.disc((x + 4.7, y - 0.8), 1.0, 1.1, look.skin)
    for eye in {"front": [-1.9, 1.9], "back": []}.get(pose.view, [x + 2.6]):
        pen.disc((eye, y - 0.3), 0.7, 0.6, shade(look.skin, 0.45))
    # Degrees clockwise from three o'clock: what the hair leaves free is the face.
    start, end = {"front": (192, 348), "back": (0, 360)}.get(pose.view, (105, 318))
    pen.draw.chord(pen.box(x - 5.1, y + 6.8, x + 5.1, y - 6.4), start, end, fill=look.hair)
    if look.hat is not None:
        pen.draw.chord(pen.box(x - 5.5, y + 8.2, x + 5.5, y - 4), 180, 360, fill=look.hat)
        left, right = (x + 1, x + 9) if pose.from_side else (x - 5.8, x + 5.8)
        pen.limb([(left, y + 2.2), (right, y + 2)], [0.8, 0.7], shade(look.hat, 0.75))


def _draw_carried(pen: Pen, *, look: Look, pose: Pose, hip: float) -> None:
    colour = look.carried_colour
    if look.carried == "backpack" and pose.view == "front":
        for x in (-5.5, 5.5):
            pen.limb([(x, hip + 32), (x * 1.1, hip + 14)], [1.1, 0.9], colour)
    elif look.carried == "backpack":
        left, right = (-12.5, -4) if pose.from_side else (-7.5, 7.5)
        for top, dim in ((31, 1.0), (17, 0.75)):
            box = pen.box(left, hip + top, right, hip + 7)
            pen.draw.rounded_rectangle(box, radius=14, fill=shade(colour, dim))
    elif look.carried == "bag":
        # Worn on one hip, so its side in the picture changes between front and back.
        x = {"front": 9.5, "back": -9.5}.get(pose.view, -2.0)
        pen.limb([(-0.55 * x, hip + 33), (x * 0.9, hip + 6)], [0.8, 0.8], shade(colour, 0.7))
        pen.draw.rounded_rectangle(pen.box(x - 5, hip + 6, x + 5, hip - 6), radius=8, fill=colour)
