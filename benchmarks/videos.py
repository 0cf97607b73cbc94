"""Searching for a video: scores of all segments and their aggregation beside the bare product of
the same vectors; and co-attention over a shortlist.

    python -m benchmarks.videos --out raw

The gallery is a real one, mapped from its files. Each round asks for another target, by the product
(one BLAS call into memory that is there already) and by `Gallery.search_videos`, in turn. Some
candidates of every answer are compared with all of their pairs sorted, and co-attention with its
equations in plain NumPy.
"""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmarks.machine import keep_raw, spread
from reid_index import ArrayStream, Fingerprint, Gallery, Matcher, Metric, write_shard
from reid_index.search.aggregate import Aggregation, Groups, score_groups
from reid_index.search.coattention import FramePairs, own_codes
from reid_index.search.query_vectors import query_vectors
from reid_index.store.frames import SegmentFrames

_PIECE = 4096
_FINGERPRINT = Fingerprint(name="external:benchmark", version="1")
_WARM = 3


@click.command()
@click.option("--rows", default=1_000_000, show_default=True, help="Segments of the gallery.")
@click.option("--dim", default=512, show_default=True)
@click.option("--tracks", default=50_000, show_default=True)
@click.option("--targets", default=8, show_default=True, help="Segments of the target.")
@click.option("--dtype", default="float32", show_default=True)
@click.option("--segments", default=20_000, show_default=True, help="With frames.")
@click.option("--shortlist", default=1000, show_default=True)
@click.option("--frames", default=8, show_default=True, help="Of each segment.")
@click.option("--width", default=128, show_default=True, help="Of keys and values.")
@click.option("--rounds", default=30, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Folder for raw results.")
def main(out: Path | None, rounds: int, **size: Any) -> None:
    """Measure searches for videos."""
    _measure_vectors(out, rounds, **{name: size[name] for name in _OF_VECTORS})
    for targets in (1, size["targets"]):
        some = {name: size[name] for name in _OF_FRAMES}
        _measure_frames(out, rounds, targets=targets, **some)


_OF_VECTORS = ("rows", "dim", "tracks", "targets", "dtype")
_OF_FRAMES = ("segments", "shortlist", "frames", "width")


def _measure_vectors(
    out: Path | None, rounds: int, *, rows: int, dim: int, tracks: int, targets: int, dtype: str
) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        gallery = _gallery(Path(scratch), rows, dim, tracks, dtype)
        times, largest = _searches(gallery, targets, rounds)
        gallery.close()
    results = {
        "benchmark": "videos",
        "size": [rows, dim, tracks, targets],
        "dtype": dtype,
        "largest_difference": largest,
    }
    keep_raw(out, f"videos-{dtype}", results, times=times)
    for line in summary(times, largest):
        click.echo(f"{dtype}: {line}")


def _gallery(folder: Path, rows: int, dim: int, tracks: int, dtype: str) -> Gallery:
    """Vectors by chance, and tracks of very unequal length, whose segments follow each other."""
    rng = np.random.default_rng(0)
    shares = rng.lognormal(sigma=1.0, size=tracks)
    lengths = np.maximum(1, (shares / shares.sum() * (rows - tracks)).astype(np.int64) + 1)
    lengths[-1] += rows - lengths.sum()
    of = np.repeat(np.arange(tracks), lengths)
    items = pa.table(
        {
            "video": pa.array([f"video {number // 50}.mp4" for number in of.tolist()]),
            "track": pa.array(of.astype(str)),
            "camera": pa.array(of % 50, pa.int32()),
        }
    )
    write_shard(
        folder / "shard",
        arrays={"global": ArrayStream((rows, dim), np.float32, _drawn(rows, dim))},
        items=[items],
        fingerprint=_FINGERPRINT,
        metric=Metric.COSINE,
        dtype=dtype,
    )
    gallery = Gallery.create(folder / "gallery", dim=dim, fingerprint=_FINGERPRINT, dtype=dtype)
    gallery.add_shards([folder / "shard"])
    return gallery


def _drawn(rows: int, dim: int) -> Iterator[NDArray[np.float32]]:
    rng = np.random.default_rng(1)
    for at in range(0, rows, _PIECE):
        yield rng.standard_normal((min(_PIECE, rows - at), dim), np.float32)


def _searches(gallery: Gallery, targets: int, rounds: int) -> tuple[list[dict[str, Any]], float]:
    """Seconds of each round, the first few left out, and how far the farthest score is from that of
    all pairs sorted."""
    rng = np.random.default_rng(2)
    (vectors,) = gallery.blocks
    wide = np.asarray(vectors) if vectors.dtype == np.float32 else vectors.astype(np.float32)
    room = np.zeros((targets, len(wide)), np.float32)
    room += 1  # touched
    times, largest = [], 0.0
    for turn in range(-_WARM, rounds):
        target = rng.standard_normal((targets, gallery.dim), np.float32)
        target = query_vectors(target, dim=gallery.dim, metric=gallery.metric, combine="best")
        start = time.perf_counter()
        np.matmul(target, wide.T, out=room)
        product = time.perf_counter() - start
        start = time.perf_counter()
        result = gallery.search_videos(target, k=20)
        whole = time.perf_counter() - start
        taken = {"product": product, "score": result.seconds["score"], "search": whole}
        if turn >= 0:
            times += [{"round": turn, "what": what, "seconds": s} for what, s in taken.items()]
        for one in result.candidates[:3]:
            rows = np.flatnonzero(np.asarray(gallery.items["track"]) == one.track)
            largest = max(largest, abs(one.score - by_sorting(target, wide[rows])))
    return times, largest


def by_sorting(target: NDArray[np.float32], rows: NDArray[np.float32]) -> float:
    """The sum of the best fifth of all pairs; similarities have single precision."""
    similarities = rows.astype(np.float64) @ target.T.astype(np.float64)
    pairs = np.sort(similarities.astype(np.float32).astype(np.float64).reshape(-1))
    return float(pairs[-max(1, int(np.ceil(0.2 * len(pairs) - 1e-9))) :].sum())


def _measure_frames(
    out: Path | None,
    rounds: int,
    *,
    targets: int,
    segments: int,
    shortlist: int,
    frames: int,
    width: int,
) -> None:
    rng = np.random.default_rng(3)
    for dtype in ("float32", "float16"):
        there = _segments(rng, segments, frames, width, dtype)
        head = tuple((-0.01 * rng.random(width)).tolist())
        matcher = Matcher(name="coattention", head=head, bias=1.0)
        times, largest = [], 0.0
        for turn in range(-_WARM, rounds):
            target = _segments(rng, targets, frames, width, "float32")
            codes = own_codes(target)
            rows = np.sort(rng.choice(segments, min(shortlist, segments), replace=False))
            pairs = FramePairs(codes, target.index, [there], matcher=matcher)
            groups = Groups(rows, np.arange(0, len(rows) + 1, 10).clip(max=len(rows)))
            start = time.perf_counter()
            score_groups(pairs, groups, targets=targets, dim=16 * width, aggregation=Aggregation())
            seconds = time.perf_counter() - start
            if turn >= 0:
                times.append({"round": turn, "what": "coattention", "seconds": seconds})
            few = rows[:20]
            found = np.empty((len(few), targets), np.float32)
            pairs(few, found)
            wanted = by_numpy(codes, target.index, there.take(few), matcher)
            largest = max(largest, float(np.abs(found.T - wanted).max()))
        results = {
            "benchmark": "videos, coattention",
            "size": [segments, shortlist, frames, width, targets],
            "dtype": dtype,
            "largest_difference": largest,
        }
        keep_raw(out, f"videos-coattention-{targets}-{dtype}", results, times=times)
        taken = [1000 * row["seconds"] for row in times]
        click.echo(
            f"{dtype}, target of {targets}, {len(rows)} segments: coattention, ms: {spread(taken)};"
            f" largest difference from NumPy's double precision: {largest:.1e}"
        )


def _segments(
    rng: np.random.Generator, count: int, frames: int, width: int, dtype: str
) -> SegmentFrames:
    return SegmentFrames(
        index=(0.3 * rng.standard_normal((count, width), np.float32)).astype(dtype),
        key=(0.3 * rng.standard_normal((count * frames, width), np.float32)).astype(dtype),
        value=rng.standard_normal((count * frames, width), np.float32).astype(dtype),
        offset=np.arange(count + 1) * frames,
    )


def by_numpy(
    codes: NDArray[np.float32],
    index: NDArray[np.generic],
    frames: SegmentFrames,
    matcher: Matcher,
) -> NDArray[np.float64]:
    """The equations of coattention.py in double precision, pair by pair: (n, m)."""
    found = np.empty((len(codes), len(frames)))
    key, value = frames.key.astype(np.float64), frames.value.astype(np.float64)
    for p, (own, q) in enumerate(zip(codes, index, strict=True)):
        for g in range(len(frames)):
            here = slice(frames.offset[g], frames.offset[g + 1])
            heat = key[here] @ q.astype(np.float64)
            odds = np.exp(heat - heat.max())
            code = (odds / odds.sum()) @ value[here]
            total = matcher.bias + (np.array(matcher.head) * (own - code) ** 2).sum()
            found[p, g] = 1 / (1 + np.exp(-total))
    return found


def summary(times: list[dict[str, Any]], largest: float) -> list[str]:
    """Seconds, the ratios to the product of the same round, the largest difference."""
    taken = {
        what: [row["seconds"] for row in times if row["what"] == what]
        for what in dict.fromkeys(row["what"] for row in times)
    }
    lines = [f"{what}, s: {spread(some)}" for what, some in taken.items()]
    for what in ("score", "search"):
        ratios = [a / b for a, b in zip(taken[what], taken["product"], strict=True)]
        lines.append(f"{what} ÷ product: {spread(ratios)}")
    return [*lines, f"largest difference from sorting all pairs: {largest:.1e}"]


if __name__ == "__main__":
    main()
