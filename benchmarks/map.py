"""What re-ranking does to mAP and rank-1, where it helps and where it hurts.

    python -m benchmarks.map --out raw                           synthetic people, drawn now
    python -m benchmarks.map GALLERY QUERIES --out raw           galleries, shards or datasets
    python -m benchmarks.map GALLERY --split LIST --out raw      parts of one

For the whole gallery, and for galleries in which each person has at most K items, drawn by several
seeds: without re-ranking, in the scope "joint" with the two usual sets of parameters, and in the
scope "query". Rows without a person are distractors.
"""

import csv
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import keep_raw
from cli.judge import Judged, Question, judge
from cli.world import draw_world
from reid_index import Metric, Reranking, rerank_joint
from reid_index.errors import UsageError
from reid_index.evaluation.evaluate import Evaluation, evaluate, per_query
from reid_index.evaluation.measures import measure
from reid_index.evaluation.protocol import NOBODY, Labelled, Labels, get_protocol
from reid_index.evaluation.scores import Scores, VectorScores
from reid_index.reranking.graph import make_graph
from reid_index.reranking.rerank_query import QueryReranking, QueryScores

VARIANTS: dict[str, tuple[str, Reranking] | None] = {
    "plain": None,
    "joint 20/6/0.3": ("joint", Reranking()),
    "joint 50/15/0.3": ("joint", Reranking(k1=50, k2=15)),
    "query 20/6/0.3": ("query", Reranking()),
}


@click.command()
@click.argument("gallery", required=False, type=click.Path(path_type=Path))
@click.argument("queries", required=False, type=click.Path(path_type=Path))
@click.option("--split", type=click.Path(path_type=Path), help="A list: file, split, …")
@click.option("--protocol", default="market1501", show_default=True)
@click.option("--extractor", help="For dataset folders [default: stripes]")
@click.option("--weights", type=click.Path(path_type=Path), help="The extractor's model file.")
@click.option(
    "--per-person",
    multiple=True,
    type=click.IntRange(1),
    default=(1, 2, 3, 5),
    show_default=True,
    help="Items of a person at most. Can be given again.",
)
@click.option("--seeds", default=3, show_default=True, help="Draws for each --per-person.")
@click.option("--people", default=150, show_default=True, help="Of the synthetic world.")
@click.option("--out", type=click.Path(path_type=Path), help="A folder for raw results.")
def main(
    gallery: Path | None,
    queries: Path | None,
    split: Path | None,
    protocol: str,
    extractor: str | None,
    weights: Path | None,
    per_person: tuple[int, ...],
    seeds: int,
    people: int,
    out: Path | None,
) -> None:
    """Evaluate with and without re-ranking."""
    with TemporaryDirectory() as scratch:
        name = "synthetic" if gallery is None else (gallery.resolve().name or "gallery")
        if gallery is None:
            gallery, split = _drawn(Path(scratch), people)
        question = Question(
            gallery=gallery,
            queries=gallery if queries is None else queries,
            split=split,
            protocol=protocol,
            extractor=extractor,
            weights=weights,
            unlabelled="distractor",
        )
        world = _World.of(judge(question))
    figures: list[dict[str, Any]] = []
    of_queries: list[dict[str, Any]] = []
    cases = [(None, 0), *((most, seed) for most in per_person for seed in range(seeds))]
    for most, seed in cases:
        for variant, seconds, found, labelled in _evaluated(world, most, seed):
            case = {"per_person": most, "seed": seed, "variant": variant}
            areas = measure(found.ranks, ap_rule="trapezoid", unanswerable=found.unanswerable)
            figures.append({**case, **_figures(found, areas.mAP), "seconds": seconds})
            of_queries += [
                {**case, **row, "ap_trapezoid": float(area)}
                for row, area in zip(
                    per_query(found, labelled, world.query_items).to_pylist(), areas.ap, strict=True
                )
            ]
            click.echo(_line(figures[-1]))
    results = {
        "benchmark": "map",
        "name": name,
        "extractor": str(world.extractor),
        "protocol": protocol,
        "ap_rule": found.ap_rule,
    }
    keep_raw(out, f"map-{name}-{world.extractor}", results, figures=figures, queries=of_queries)


@dataclass(frozen=True)
class _World:
    """Both sides of an evaluation, whole."""

    queries: NDArray[np.float32]
    gallery: NDArray[np.float32]
    query_items: Any
    labelled: Labelled
    metric: Metric
    protocol: str
    same_item: bool
    extractor: str

    @classmethod
    def of(cls, judged: Judged) -> "_World":
        queries, gallery, question = judged.queries, judged.gallery, judged.question
        if gallery.metric is Metric.INNER_PRODUCT:
            raise UsageError(f"{gallery.path}: re-ranking needs distances: inner products are none")
        return cls(
            queries=queries.matrix(np.arange(queries.items.num_rows)),
            gallery=gallery.matrix(np.arange(gallery.items.num_rows)),
            query_items=queries.items,
            labelled=judged.labelled,
            metric=gallery.metric,
            protocol=question.protocol,
            same_item=judged.same_item,
            extractor=gallery.fingerprint.name,
        )


def _drawn(scratch: Path, people: int) -> tuple[Path, Path]:
    """A folder of synthetic crops, and the list that asks for the first of each person and camera,
    as Market-1501 does."""
    crops = scratch / "crops"
    draw_world(crops, people=people, cameras=4, crops_per_camera=3)
    seen: set[str] = set()
    rows = []
    for path in sorted(crops.iterdir()):
        sighting = path.name[:7]
        rows.append((path.name, "gallery" if sighting in seen else "query"))
        seen.add(sighting)
    with (scratch / "split.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file", "split"), *rows])
    return crops, scratch / "split.csv"


def _evaluated(
    world: _World, most: int | None, seed: int
) -> Iterator[tuple[str, float, Evaluation, Labelled]]:
    """Each variant that so many items allow, the seconds it took, and the labels."""
    searched = world.labelled.gallery
    rows = np.arange(len(searched)) if most is None else at_most(most, searched.person, seed)
    gallery = world.gallery[rows]
    labelled = replace(
        world.labelled,
        gallery=Labels(searched.person[rows], searched.camera[rows], searched.item[rows]),
        gallery_rows=world.labelled.gallery_rows[rows],
    )
    for variant in VARIANTS:
        start = time.perf_counter()
        try:
            scores = _scores(variant, world, gallery, labelled.gallery.item)
        except UsageError as error:
            click.echo(f"{variant}, at most {most} a person: left out: {error}", err=True)
            continue
        found = evaluate(
            scores, labelled, protocol=get_protocol(world.protocol), same_item=world.same_item
        )
        yield variant, time.perf_counter() - start, found, labelled


def at_most(most: int, person: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Rows, ascending, of at most so many items of each person, drawn; all that are nobody's."""
    drawn = np.random.default_rng(seed).permutation(len(person))
    grouped = drawn[np.argsort(person[drawn], kind="stable")]
    people = person[grouped]
    place = np.arange(len(people)) - np.searchsorted(people, people)
    return np.sort(grouped[(place < most) | (people == NOBODY)])


def _scores(
    variant: str, world: _World, gallery: NDArray[np.float32], items: NDArray[np.int64]
) -> Scores:
    choice = VARIANTS[variant]
    if choice is None:
        return VectorScores(world.queries, [gallery], metric=world.metric)
    scope, reranking = choice
    if scope == "joint":
        return rerank_joint(world.queries, gallery, items=items, reranking=reranking)
    graph = make_graph(gallery, items=items, reranking=reranking, exact=True)
    return QueryScores(
        world.queries,
        QueryReranking(vectors=gallery, items=items, graph=graph, reranking=reranking),
    )


def _figures(found: Evaluation, trapezoid: float) -> dict[str, Any]:
    return {
        "mAP": found.mAP,
        "mAP_trapezoid": trapezoid,
        "mINP": found.mINP,
        "rank1": float(found.cmc[0]),
        "queries": found.queries,
        "answerable": found.answerable,
        "gallery": found.gallery,
    }


def _line(row: dict[str, Any]) -> str:
    most = "all" if row["per_person"] is None else f"{row['per_person']} (seed {row['seed']})"
    return (
        f"{most:10s} {row['variant']:16s} mAP {row['mAP']:.4f}, trapezoid "
        f"{row['mAP_trapezoid']:.4f}, rank-1 {row['rank1']:.4f}, "
        f"{row['answerable']} of {row['queries']} queries in {row['gallery']:,}"
    )


if __name__ == "__main__":
    main()
