"""Made-up videos: drawn people who walk through a plain picture, one after the other."""

import csv

import numpy as np
import pytest
from PIL import Image

from cli.world import draw_crop

av = pytest.importorskip("av", reason="PyAV is not installed (the extra video)")

RATE = 10
SIZE = (160, 120)
HEIGHT = 96


def write_film(path, people, *, frames=20, camera=1, first=0):
    """A video in which each of the people walks for so many frames, and the boxes that they have:
    dicts of video, camera, track (the person's number), frame, x, y, w, h. first: of the drawn
    frames, so that two films of one person differ."""
    boxes = []
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"crf": "10"})
        stream.width, stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        for number in range(frames * len(people)):
            person, step = people[number // frames], number % frames
            figure = draw_crop(person=person, camera=1, frame=first + step // 4)
            figure = figure.resize((HEIGHT * figure.width // figure.height, HEIGHT))
            picture = Image.new("RGB", SIZE, (96, 104, 96))
            x, y = 4 + step * (SIZE[0] - figure.width - 8) // frames, 12
            picture.paste(figure, (x, y))
            frame = av.VideoFrame.from_ndarray(np.asarray(picture), format="rgb24")
            for packet in stream.encode(frame):
                container.mux(packet)
            place = {"x": x, "y": y, "w": figure.width, "h": HEIGHT}
            known = {"video": path.name, "camera": camera, "track": person, "frame": number}
            boxes.append(known | place)
        for packet in stream.encode():
            container.mux(packet)
    return boxes


def write_boxes(path, boxes):
    """A CSV of boxes, as `reid build --tracks` reads it."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(boxes[0]))
        writer.writeheader()
        writer.writerows(boxes)
    return path


def halves(boxes):
    """The boxes of each track, cut in two by frames: of all first halves, of all second ones."""
    tracks = {}
    for box in boxes:
        tracks.setdefault(box["track"], []).append(box)
    first = [box for some in tracks.values() for box in some[: len(some) // 2]]
    return first, [box for some in tracks.values() for box in some[len(some) // 2 :]]
