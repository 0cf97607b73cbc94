"""Videos to frames beside bare PyAV, and what walking a long one takes of memory.

    python -m benchmarks.video speed VIDEO --out FILE
    python -m benchmarks.video memory --out FILE
    python -m benchmarks.video memory --size 1920x1080 --minutes 3

speed: each round decodes the whole file by bare PyAV (container.decode, threads "AUTO", the same
frames to RGB by to_ndarray) and by `read_frames`, in turn, which goes first by turns.

memory: draws a video of moving figures, encodes it, and takes each frame of it through `harvest`,
from the file to a shard, in a fresh process; its extractor is the mean colour, so that nothing but
the way of the frames is measured.
"""

import tempfile
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import click
import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import in_fresh_process, keep, memory_of, spread, told
from extractors.extractor import Crop, Embedding, Extractor
from extractors.harvest import Pace, harvest
from extractors.video.decode import read_frames
from extractors.video.sources import find_videos
from reid_index import Metric
from reid_index.fingerprint import Fingerprint
from reid_index.threads import cores

PATH = click.Path(path_type=Path)


@click.group()
def main() -> None:
    """Measure what becomes of videos."""


# Speed


@main.command()
@click.argument("video", type=PATH)
@click.option("--every", default=2, show_default=True, help="Each so manieth frame becomes RGB.")
@click.option("--rounds", default=15, show_default=True)
@click.option("--out", type=PATH, help="Raw results as JSON.")
def speed(video: Path, every: int, rounds: int, out: Path | None) -> None:
    """Decode VIDEO by bare PyAV and by read_frames, in turn."""
    ways = {"bare": _bare, "ours": _ours}
    sums = {name: way(video, every) for name, way in ways.items()}
    assert sums["bare"] == sums["ours"], sums
    rows = []
    for turn in range(rounds):
        row: dict[str, Any] = {"round": turn}
        for name in sorted(ways, reverse=bool(turn % 2)):
            begin = time.perf_counter()
            ways[name](video, every)
            row[name] = time.perf_counter() - begin
        row["share"] = row["bare"] / row["ours"]
        rows.append(row)
    frames = sums["bare"][0]
    for name in ways:
        click.echo(f"{name}: frames/s {spread([frames / row[name] for row in rows])}")
    click.echo(f"share of bare PyAV's speed: {spread([row['share'] for row in rows])}")
    keep(out, {"video": video.name, "frames": frames, "every": every, "rounds": rows})


def _bare(video: Path, every: int) -> tuple[int, int]:
    """Frames, and the sum of a pixel of each that became RGB."""
    count = total = 0
    with av.open(str(video)) as container:
        container.streams.video[0].thread_type = "AUTO"
        for frame in container.decode(video=0):
            if count % every == 0:
                total += int(frame.to_ndarray(format="rgb24")[0, 0, 0])
            count += 1
    return count, total


def _ours(video: Path, every: int) -> tuple[int, int]:
    count = total = 0
    for frame in read_frames(video):
        if frame.number % every == 0:
            total += int(frame.image()[0, 0, 0])
        count += 1
    return count, total


# Memory


@main.command()
@click.option("--minutes", default=60.0, show_default=True)
@click.option("--size", default="640x360", show_default=True, help="Width and height in pixels.")
@click.option("--rate", default=25, show_default=True, help="Frames a second.")
@click.option("--out", type=PATH, help="Raw results as JSON.")
def memory(minutes: float, size: str, rate: int, out: Path | None) -> None:
    """Take a whole long video through harvest, frame by frame."""
    width, height = map(int, size.split("x"))
    frames = round(60 * minutes * rate)
    with tempfile.TemporaryDirectory() as scratch:
        video = Path(scratch) / "long.mp4"
        with told(f"encoding {frames:,} frames of {size}"):
            _write(video, frames=frames, width=width, height=height, rate=rate)
        with told("harvest"):
            found = in_fresh_process(
                "benchmarks.video", "walk", video=str(video), folder=str(Path(scratch) / "out")
            )
    assert found["rows"] == frames, found
    click.echo(
        f"{frames:,} frames of {size}: {found['peak'] / 2**20:.0f} MiB at the peak, "
        f"{(found['peak'] - found['before']) / 2**20:.0f} over what was there before, "
        f"{frames / found['seconds']:.0f} frames/s"
    )
    keep(out, {"frames": frames, "size": size, "rate": rate, **found})


def walk(video: str, folder: str) -> dict[str, float]:
    """Memory, seconds and rows of a whole video's way to shards."""
    source = find_videos([Path(video)], tracks=None, whole=True, videos=None)
    begin = time.perf_counter()
    peak, taken = memory_of(
        lambda: harvest(
            source,
            _MeanColour(),
            Path(folder),
            metric=Metric.EUCLIDEAN,
            pace=Pace(workers=cores()),
        )
    )
    return {**peak, "seconds": time.perf_counter() - begin, "rows": taken.rows}


class _MeanColour(Extractor):
    @property
    def fingerprint(self) -> Fingerprint:
        return Fingerprint(name="mean-colour", version="1")

    @property
    def dim(self) -> int:
        return 3

    def prepare(self, crop: Crop) -> NDArray[np.float32]:
        return crop[::8, ::8].mean(axis=(0, 1), dtype=np.float32) + 1

    def embed(self, batch: NDArray[Any]) -> Embedding:
        return Embedding(global_=batch)


def _write(path: Path, *, frames: int, width: int, height: int, rate: int) -> None:
    """Eight figures that walk across, light and dark, before a floor with some texture."""
    rng = np.random.default_rng(0)
    floor = rng.integers(90, 130, (height, width), np.uint8)
    grey = np.full((height // 2, width), 128, np.uint8)
    tall, wide = height // 4, height // 10
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"preset": "ultrafast", "crf": "30"}
        for number in range(frames):
            light = floor.copy()
            for figure in range(8):
                left = (number * (figure + 1) + 97 * figure) % (width - wide)
                top = (height - tall) * figure // 8
                light[top : top + tall, left : left + wide] = 25 * figure + 30
            frame = av.VideoFrame.from_ndarray(np.concatenate([light, grey]), format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


if __name__ == "__main__":
    main()
