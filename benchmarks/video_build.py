"""`reid build` of a long video with tracks: time and peak memory, with few frames and with all.

    python -m benchmarks.video_build --out FILE

The video is drawn, 1280 × 720 at 25 frames a second: ten seconds of figures that walk, encoded once
and repeated for as long as it is to be. Each figure has one box in every frame, and a new track
every ten seconds. Each build is a process of its own.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import keep, told
from reid_index import Gallery

RATE = 25
WIDTH, HEIGHT = 1280, 720
LOOP = 10 * RATE
"""Frames that are drawn."""

_TALL, _WIDE = 240, 90
"""Pixels of a figure."""


@click.command()
@click.option("--seconds", nargs=2, type=int, default=(360, 3600), show_default=True)
@click.option("--people", default=1, show_default=True, help="Figures in each frame.")
@click.option("--extractor", default="stripes", show_default=True)
@click.option("--weights", type=click.Path(path_type=Path))
@click.option("--whole", is_flag=True, help="Take the video as one candidate instead.")
@click.option("--out", type=click.Path(path_type=Path), help="Raw results as JSON.")
def main(
    seconds: tuple[int, int],
    people: int,
    extractor: str,
    weights: Path | None,
    whole: bool,
    out: Path | None,
) -> None:
    """Measure building from video."""
    builds = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for count in seconds:
            frames = count * RATE
            with told(f"a video of {count:,} seconds"):
                video, tracks = draw(folder / f"v{count}.mp4", frames=frames, people=people)
            words = ["build", video, "--out", folder / f"g{count}", "--extractor", extractor]
            words += ["--whole"] if whole else ["--tracks", tracks]
            words += [] if weights is None else ["--weights", weights]
            builds.append(measured([str(word) for word in words]))
            with Gallery.open(folder / f"g{count}") as gallery:
                builds[-1] |= {"frames": frames, "segments": len(gallery)}
            one = builds[-1]
            click.echo(
                f"{frames:,} frames, {one['segments']:,} segments: {one['seconds']:.0f} s, "
                f"{frames / one['seconds']:.0f} frames/s, peak {one['peak'] / 1e6:.0f} MB"
            )
    keep(out, {"benchmark": "video_build", "people": people, "whole": whole, "builds": builds})


def draw(path: Path, *, frames: int, people: int) -> tuple[Path, Path]:
    """A video of so many frames, whole loops of LOOP, and its tracks, a CSV beside it."""
    import av

    rng = np.random.default_rng(1)
    colours = rng.integers(40, 255, (people, 3))
    floor = np.repeat(rng.integers(90, 120, (HEIGHT, 1, 3)), WIDTH, axis=1).astype(np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.gop_size = 2 * RATE
        # Without frames that look ahead, a loop can follow the last one.
        stream.options = {"preset": "ultrafast", "tune": "zerolatency"}
        packets = []
        for number in range(LOOP):
            image = floor.copy()
            for one, (x, y) in enumerate(boxes(number, people)):
                image[y : y + _TALL, x : x + _WIDE] = colours[one]
            packets += stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24"))
        packets += stream.encode()
        loop = [(bytes(packet), packet.is_keyframe) for packet in packets]
        step = packets[1].pts - packets[0].pts
        for number in range(frames):
            content, is_key = loop[number % LOOP]
            packet = av.Packet(content)
            packet.stream, packet.is_keyframe = stream, is_key
            packet.pts = packet.dts = number * step
            packet.time_base = packets[0].time_base
            container.mux(packet)
    tracks = path.with_suffix(".csv")
    with tracks.open("w") as file:
        file.write("track,frame,x,y,w,h\n")
        file.writelines(_lines(frames, people))
    return path, tracks


def boxes(frame: int, people: int) -> list[tuple[int, int]]:
    """Left and top of each figure in a frame."""
    places: NDArray[np.int64] = 40 + (np.arange(people) * 350 + 4 * (frame % LOOP)) % 1100
    return [(int(x), 100 + 40 * (one % 8)) for one, x in enumerate(places)]


def _lines(frames: int, people: int) -> Iterator[str]:
    for frame in range(frames):
        for one, (x, y) in enumerate(boxes(frame, people)):
            yield f"{one}-{frame // LOOP},{frame},{x},{y},{_WIDE},{_TALL}\n"


def measured(words: list[str]) -> dict[str, Any]:
    """Seconds and peak resident bytes of `reid` with those words, a process of its own."""
    begin = time.perf_counter()
    script = "from cli.main import main; main()"
    process = subprocess.Popen([sys.executable, "-c", script, *words])
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise click.ClickException(f"reid {' '.join(words)}: exit code {process.returncode}")
    return {"seconds": seconds, "peak": usage.ru_maxrss * 1024}


if __name__ == "__main__":
    main()
