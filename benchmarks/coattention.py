"""Whether the pair scores of a co-attention network find more than the mean of the same frames.

    python -m benchmarks.coattention CROPS --split LIST --out FILE [--init MODEL] [--freeze VIEWS]

Tracks are Market-1501's multi-shot groups: the crops of one person, camera and sequence, in the
order of their frames. All tracks of query and gallery of the split, taken together, are looked for
among all; of the same person those of the same camera are left out, as the Market rule has it.
A track is cut into segments as `reid build` does. Compared, by the same vectors of frames:

* mean: the cosine of the means of whole tracks, of the network that training begins with, and,
  where its backbone learns, of the network that comes of it;
* pairs: the probabilities of all pairs of segments, the best fifth or all of them, summed as in the
  source, or their mean;
* codes: the cosine of segments' codes by their own index vectors, the best fifth's mean.

Runs that FILE has already are not made again.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import click
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.machine import keep
from benchmarks.split_scores import runs_of, table
from cli.sides import split_pictures
from extractors.coattention import CoAttentionEncoder
from extractors.public import frames_state
from extractors.segments import MeanEncoder, SegmentEncoder, Segments, rows_of, windows
from extractors.systems import Plan
from extractors.systems.coattention import CoAttention
from extractors.systems.system import System
from extractors.trained import DEFAULT, Model, read_model
from extractors.training.augment import Augment
from extractors.training.crops import Labelled, decode, read_labelled
from extractors.training.denormals import without_denormals
from extractors.training.losses import LossPlan
from extractors.training.schedule import Schedule
from extractors.training.tracks import Tracks, tracks_of
from extractors.training.train import Training, train
from reid_index import evaluate_distances
from reid_index.evaluation.video_scores import PairsOf, VideoScores
from reid_index.metric import Metric
from reid_index.search.aggregate import Aggregation, Groups
from reid_index.search.coattention import FramePairs
from reid_index.search.pairs import VectorPairs
from reid_index.store.frames import SegmentFrames

_CPU = torch.device("cpu")
_BATCH = 128
_WAYS = {
    "best fifth, sum": Aggregation(how="sum", top=0.2),
    "all, sum": Aggregation(how="sum", top=1.0),
    "best fifth, mean": Aggregation(how="mean", top=0.2),
    "all, mean": Aggregation(how="mean", top=1.0),
}
BEFORE = "mean, before"


@dataclass(frozen=True)
class Side:
    """Tracks to search. crops: uint8 (N, height, width, 3). persons, cameras: of the tracks."""

    crops: NDArray[np.uint8]
    tracks: Tracks
    persons: list[str]

    @classmethod
    def read(cls, folder: Path, split: Path, model: Model) -> "Side":
        """Query and gallery of a split."""
        people = [
            one
            for part in ("query", "gallery")
            for one in read_labelled([split_pictures(folder, split, part)]).people
        ]
        names = [str(person.columns["person"]) for _, person in people]
        known = sorted(set(names))
        classes = np.array([known.index(name) for name in names], np.int64)
        labelled = Labelled(people, classes, known)
        tracks = tracks_of(labelled)
        return cls(
            decode(labelled, model.preprocess),
            tracks,
            [names[crops[0]] for crops in tracks.crops],
        )

    def frames(self, system: System, model: Model) -> NDArray[np.float32]:
        """The vectors of all crops."""
        found = []
        with torch.inference_mode():
            for start in range(0, len(self.crops), _BATCH):
                some = self.crops[start : start + _BATCH]
                fed = np.stack([model.preprocess.normalise(crop) for crop in some])
                found.append(system.embed(torch.from_numpy(fed)).numpy())
        return np.concatenate(found)

    def encoded(
        self, frames: NDArray[np.float32], encoder: SegmentEncoder, *, whole: bool = False
    ) -> tuple[Segments, NDArray[np.int64], Groups]:
        """Segments of all tracks, their offsets, and which are of which track. whole: each track is
        one."""
        rows, lengths, codes = [], [], []
        for number, crops in enumerate(self.tracks.crops):
            spans = np.array([(0, len(crops))]) if whole else windows(len(crops))
            here, offsets = rows_of(spans)
            rows.append(crops[here])
            lengths.append(np.diff(offsets))
            codes.append(np.full(len(spans), number))
        offsets = np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
        segments = encoder.encode(frames[np.concatenate(rows)], offsets)
        return segments, offsets, Groups.of(np.concatenate(codes))

    def score(
        self, groups: Groups, pairs_of: PairsOf, *, dim: int, way: Aggregation
    ) -> list[float]:
        """mAP and rank-1 of all tracks among all."""
        scores = VideoScores(groups, groups, pairs_of, dim=dim, aggregation=way)
        distances, _ = scores.chunk(0, len(groups))
        cameras = self.tracks.cameras
        found = evaluate_distances(distances, self.persons, self.persons, cameras, cameras)
        return [float(found.mAP), float(found.cmc[0])]


def by_means(side: Side, frames: NDArray[np.float32]) -> list[float]:
    """By the cosine of the means of whole tracks."""
    mean = MeanEncoder(frames.shape[1])
    segments, _, groups = side.encoded(frames, mean, whole=True)
    return side.score(groups, _cosines(segments.global_), dim=mean.dim, way=_WAYS["all, mean"])


def by_segments(
    side: Side, frames: NDArray[np.float32], system: CoAttention
) -> Iterator[tuple[str, list[float]]]:
    """By pairs of segments, and by their codes."""
    encoder = CoAttentionEncoder(system, device=_CPU)
    segments, offsets, groups = side.encoded(frames, encoder)
    assert segments.index is not None
    assert segments.key is not None
    assert segments.value is not None
    index, codes = segments.index, segments.global_
    kept = SegmentFrames(index, segments.key, segments.value, offsets)

    def pairs_of(rows: NDArray[np.int64]) -> FramePairs:
        return FramePairs(codes[rows], index[rows], [kept], matcher=encoder.matcher)

    for name, way in _WAYS.items():
        yield f"pairs, {name}", side.score(groups, pairs_of, dim=encoder.dim, way=way)
    way = _WAYS["best fifth, mean"]
    yield "codes", side.score(groups, _cosines(codes), dim=encoder.dim, way=way)


def _cosines(vectors: NDArray[np.float32]) -> PairsOf:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def pairs_of(rows: NDArray[np.int64]) -> VectorPairs:
        return VectorPairs(unit[rows], [unit], metric=Metric.COSINE)

    return pairs_of


def plan_of(model: Model, *, value: int) -> Plan:
    """A co-attention network on the frames of a model of bot."""
    return replace(model.plan, system="coattention", value=value)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--split", type=click.Path(path_type=Path), required=True)
@click.option("--init", type=click.Path(path_type=Path), default=DEFAULT, help="A model of bot.")
@click.option("--freeze", default=8, show_default=True, help="Views; 0: the backbone learns, too.")
@click.option("--epochs", default=10, show_default=True)
@click.option("--rate", default=3e-4, show_default=True)
@click.option("--ema", default=0.0, show_default=True)
@click.option("--value", default=0, show_default="128")
@click.option("--frames", default=4, show_default=True)
@click.option("--seeds", default=3, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Raw results as JSON.")
def main(
    folder: Path,
    split: Path,
    init: Path,
    freeze: int,
    epochs: int,
    rate: float,
    ema: float,
    value: int,
    frames: int,
    seeds: int,
    out: Path,
) -> None:
    """Train co-attention networks and score them beside the mean of frames."""
    model = read_model(init)
    state = frames_state(init)
    assert state is not None, f"{init} is no model of bot"
    training = Training(
        plan=plan_of(model, value=value),
        preprocess=model.preprocess,
        augment=Augment(pad=5),
        losses=LossPlan(),
        schedule=Schedule(warmup=1),
        epochs=epochs,
        persons=8,
        crops=8,
        frames=frames,
        views=freeze,
        rate=rate,
        ema=ema,
    )
    asked = {"benchmark": "coattention", "init": init.name, "training": training.to_json()}
    runs = runs_of(out, asked)
    labelled = read_labelled([split_pictures(folder, split, "train")])
    crops, tracks = decode(labelled, model.preprocess), tracks_of(labelled)
    side = Side.read(folder, split, model)
    first = side.frames(model.system, model)
    before = by_means(side, first)
    for seed in range(seeds):
        if any(run["seed"] == seed for run in runs):
            continue
        start = time.perf_counter()
        with without_denormals():
            system = train(
                replace(training, seed=seed),
                crops,
                labelled.classes,
                state=None,
                device=_CPU,
                tracks=tracks,
                start=_beginning(state, init),
            ).system
        assert isinstance(system, CoAttention)
        spent = {"seed": seed, "seconds": time.perf_counter() - start}
        seen = first if freeze else side.frames(system, model)
        scored = {BEFORE: before, "mean, of the same network": by_means(side, seen)}
        scored |= dict(by_segments(side, seen, system))
        for name, (mAP, rank) in scored.items():
            runs.append({"name": name, "mAP": mAP, "rank-1": rank, **spent})
            click.echo(f"{name}, seed {seed}: mAP {mAP:.4f}, rank-1 {rank:.4f}")
        click.echo(f"seed {seed}: trained in {spent['seconds']:.0f} s")
        keep(out, {**asked, "tracks": len(side.persons), "runs": runs})
    names = dict.fromkeys(run["name"] for run in runs)
    for line in table(runs, {name: "mean, of the same network" for name in names}):
        click.echo(line)


def _beginning(state: dict[str, torch.Tensor], path: Path) -> Callable[[System], object]:
    return lambda system: system.begin(state, path=path)


if __name__ == "__main__":
    main()
