"""Crops of a split, to train on and to be scored on, and tables of what several seeds scored."""

import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray

from cli.sides import split_pictures
from extractors.preprocess import Preprocess
from extractors.systems.system import System
from extractors.training.crops import Labelled, decode, read_labelled
from extractors.training.denormals import without_denormals
from extractors.training.looks import Looks
from extractors.training.train import Training, train
from reid_index import evaluate_distances
from reid_index.evaluation.parts_scores import parts_scores
from reid_index.evaluation.scores import VectorScores
from reid_index.matcher import Matcher
from reid_index.metric import Metric

_BATCH = 128
_QUERIES = 256

Network = Callable[[torch.Tensor], torch.Tensor]
Sides = list[tuple[NDArray[np.uint8], Labelled]]
"""Of query and gallery: crops uint8 (N, height, width, 3), and who is on them."""


class Crops:
    """Crops of a split, decoded for a network that is fed so."""

    def __init__(self, folder: Path, split: Path, preprocess: Preprocess) -> None:
        parts: dict[str, Labelled] = {
            part: read_labelled([split_pictures(folder, split, part)])
            for part in ("train", "query", "gallery")
        }
        self.preprocess = preprocess
        self.train = decode(parts["train"], preprocess)
        self.classes = parts["train"].classes
        self.labelled = parts["train"]
        self.sides: Sides = [
            (decode(parts[part], preprocess), parts[part]) for part in ("query", "gallery")
        ]

    def score(self, embed: Network, sides: Sides | None = None) -> tuple[float, float]:
        """mAP and rank-1 by cosine. embed: of a system, float32 (B, 3, H, W) → (B, D). sides:
        others than its own."""
        query, gallery = (self._vectors(embed, crops) for crops, _ in sides or self.sides)
        return self._measured(1 - query @ gallery.T)

    def score_parts(self, system: System, matcher: Matcher) -> tuple[float, float]:
        """The same by vectors and parts, all pairs."""
        query, gallery = (self._embedded(system, crops) for crops, _ in self.sides)
        vectors = VectorScores(_unit(query[0]), [_unit(gallery[0])], metric=Metric.COSINE)
        scores = parts_scores(
            matcher,
            vectors,
            queries=query[1],
            blocks=[gallery[1]],
            visible=_visible(query),
            shown=[_visible(gallery)],
        )
        starts = range(0, len(query[0]), _QUERIES)
        stops = (min(at + _QUERIES, len(query[0])) for at in starts)
        chunks = [scores.chunk(at, stop)[0].copy() for at, stop in zip(starts, stops, strict=True)]
        return self._measured(np.concatenate(chunks))

    def told(self, system: System) -> tuple[list[NDArray[np.float32]], list[str]]:
        """What a system that tells attributes says of the crops of both sides, the probabilities
        (N, words) of each, and the persons."""
        found = [self._embedded(system, crops)[3] for crops, _ in self.sides]
        persons = [str(one.columns["person"]) for _, side in self.sides for _, one in side.people]
        return found, persons

    def _embedded(
        self, system: System, crops: NDArray[np.uint8]
    ) -> tuple[NDArray[np.generic], ...]:
        found = []
        with torch.inference_mode():
            for start in range(0, len(crops), _BATCH):
                some = crops[start : start + _BATCH]
                fed = np.stack([self.preprocess.normalise(crop) for crop in some])
                found.append([one.numpy() for one in system.embed_parts(torch.from_numpy(fed))])
        return tuple(np.concatenate(some) for some in zip(*found, strict=True))

    def run_on(self, crops: NDArray[np.uint8], network: Network) -> NDArray[np.float32]:
        """What a network says of crops, (N, …), a batch at a time."""
        found = []
        with torch.inference_mode():
            for start in range(0, len(crops), _BATCH):
                some = crops[start : start + _BATCH]
                fed = np.stack([self.preprocess.normalise(crop) for crop in some])
                found.append(network(torch.from_numpy(fed)).numpy())
        return np.concatenate(found)

    def _vectors(self, embed: Network, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        return _unit(self.run_on(crops, embed))

    def _measured(self, distances: NDArray[np.float32]) -> tuple[float, float]:
        persons, cameras = [], []
        for _, labelled in self.sides:
            columns = [person.columns for _, person in labelled.people]
            persons.append([one["person"] for one in columns])
            cameras.append([one["camera"] for one in columns])
        found = evaluate_distances(distances, *persons, *cameras)
        return found.mAP, float(found.cmc[0])


def _visible(embedded: tuple[NDArray[np.generic], ...]) -> NDArray[np.generic]:
    """What of the parts is, all where the system does not say."""
    return embedded[2] if len(embedded) > 2 else np.ones(embedded[1].shape[:2], np.uint8)


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    normed: NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return normed


def trained(
    crops: Crops, training: Training, *, seed: int, looks: Looks | None = None
) -> tuple[System, float]:
    """A system learnt from them on the processor, and the seconds that took."""
    start = time.perf_counter()
    with without_denormals():
        made = train(
            replace(training, seed=seed),
            crops.train,
            crops.classes,
            state=None,
            device=torch.device("cpu"),
            looks=looks,
        )
    return made.system, time.perf_counter() - start


def runs_of(out: Path, asked: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The runs that a file of results has already, [] where there is none. asked: what they have to
    have been made by. Raises click.UsageError for those of other networks."""
    if not out.exists():
        return []
    kept = json.loads(out.read_text())
    if any(kept[name] != value for name, value in asked.items()):
        raise click.UsageError(f"{out} has runs of other networks: name another file")
    return list(kept["runs"])


def table(runs: list[dict[str, Any]], bases: Mapping[str, str]) -> Iterator[str]:
    """Means with their range, and the mean difference to its base, each seed's to that of the same
    seed. bases: by name, for those that have one."""
    by_name: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        by_name.setdefault(run["name"], []).append(run)
    yield "| | mAP | rank-1 | mAP, less its base's | base |\n|---|---|---|---|---|"
    for name, some in by_name.items():
        cells = [cell([run[key] for run in some], "") for key in ("mAP", "rank-1")]
        base = bases.get(name, name)
        its = {run["seed"]: run["mAP"] for run in by_name.get(base, []) if base != name}
        gains = [run["mAP"] - its[run["seed"]] for run in some if run["seed"] in its]
        cells.append(cell(gains, "+") if gains else "")
        yield f"| {name} | {' | '.join(cells)} | {base if gains else ''} |"


def cell(shares: list[float], sign: str) -> str:
    """Mean and range, in hundredths. sign: "+" for differences."""
    mean, low, high = (100 * one for one in (statistics.mean(shares), min(shares), max(shares)))
    return f"{mean:{sign}.1f} ({low:{sign}.1f} … {high:{sign}.1f})"
