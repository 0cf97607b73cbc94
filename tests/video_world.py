"""Videos drawn for tests: coloured figures that walk over a grey floor, encoded by PyAV."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

av = pytest.importorskip("av", reason="PyAV is not installed (the extra video)")

WIDTH, HEIGHT = 96, 64
RED, BLUE = (220, 20, 20), (20, 20, 220)


def box_of(figure: int, frame: int) -> tuple[int, int, int, int]:
    """x, y, width, height of a figure, 0 or 1, which go opposite ways in rows of their own."""
    x = 2 * frame if figure == 0 else WIDTH - 16 - 2 * frame
    return x, 4 + 30 * figure, 16, 28


def draw(frame: int, figures: int = 2) -> NDArray[np.uint8]:
    """(HEIGHT, WIDTH, 3): the figures of a frame; the floor's grey counts the frames."""
    image = np.full((HEIGHT, WIDTH, 3), 60 + 3 * (frame % 60), np.uint8)
    for figure, colour in enumerate((RED, BLUE)[:figures]):
        x, y, width, height = box_of(figure, frame)
        image[y : y + height, max(x, 0) : max(x + width, 0)] = colour
    return image


def write_video(
    path: Path,
    *,
    frames: int = 30,
    rate: int = 10,
    times: Sequence[float] | None = None,
    rotation: float = 0,
    codec: str | None = None,
    options: dict[str, str] | None = None,
    metadata: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    key_every: int = 5,
) -> Path:
    """A video of so many frames. times: seconds of each, instead of a steady rate."""
    codec = codec or ("mjpeg" if path.suffix == ".avi" else "libx264")
    with av.open(str(path), "w", options=container_options or {}) as container:
        container.metadata.update(metadata or {})
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height = WIDTH, HEIGHT
        stream.pix_fmt = "yuv444p" if codec == "libx264" else "yuvj420p"
        stream.gop_size = key_every
        best = {"crf": "5"} if codec == "libx264" else {"qmin": "1", "qmax": "2"}
        stream.options = best | (options or {})
        base = Fraction(1, rate) if path.suffix == ".avi" else Fraction(1, 1000)
        stream.codec_context.time_base = base
        if rotation:
            stream.set_display_rotation(rotation)
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(draw(number), format="rgb24")
            seconds = number / rate if times is None else times[number]
            frame.pts, frame.time_base = round(seconds / base), base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_boxes(path: Path, *, frames: Sequence[int], figures: int = 2, video: str = "") -> Path:
    """A CSV of the figures' boxes in some frames: tracks a and b."""
    lines = ["video,track,frame,x,y,w,h" if video else "track,frame,x,y,w,h"]
    for frame in frames:
        for figure in range(figures):
            cells = ["ab"[figure], frame, *box_of(figure, frame)]
            lines.append(",".join(map(str, [video, *cells] if video else cells)))
    path.write_text("\n".join(lines) + "\n")
    return path
