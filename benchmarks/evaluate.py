"""What an evaluation costs beside the bare matrix product of its vectors, in one run.

    python -m benchmarks.evaluate --out raw              3,368 × 15,913 × 512, synthetic people
    python -m benchmarks.evaluate --gallery GALLERY      vectors and persons of your own

Each round times the product (NumPy's and torch's; the faster counts) and the evaluation from
vectors to measures. Ranks are compared with those of sorting whole lists of exact scores. Memory
is that of a fresh process.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from benchmarks.machine import Product, in_fresh_process, keep_raw, memory_of, print_times, timed
from cli.sides import gallery_side
from reid_index import Metric
from reid_index.evaluation.evaluate import Evaluation, evaluate, per_query
from reid_index.evaluation.protocol import UNKNOWN, Labelled, get_protocol, label
from reid_index.evaluation.scores import VectorScores
from reid_index.search.oracle import best_first, score

CROPS = 20
"""Crops of a synthetic person, queries among them."""

_LOOKS = 16
"""Independent traits of a synthetic person: few enough that some are each other's look-alikes."""

_NOISE = 1.1
"""How far a crop is from its person, in lengths of the person's vector."""


@dataclass(frozen=True)
class People:
    """Vectors and items of two sides: float32 (Q, D) and (G, D), of length 1 for cosine."""

    queries: NDArray[np.float32]
    gallery: NDArray[np.float32]
    query_items: pa.Table
    gallery_items: pa.Table
    metric: Metric


def load_people(gallery: str | None, *, queries: int, rows: int, dim: int) -> People:
    """Synthetic people, or those of a gallery, of which `queries` rows are taken out to ask for."""
    if gallery is None:
        return draw_people(queries=queries, rows=rows, dim=dim)
    side = gallery_side(Path(gallery))
    order = np.random.default_rng(0).permutation(side.items.num_rows)
    asked, searched = np.sort(order[:queries]), np.sort(order[queries:])
    return People(
        queries=side.matrix(asked),
        gallery=side.matrix(searched),
        query_items=side.items.take(pa.array(asked)),
        gallery_items=side.items.take(pa.array(searched)),
        metric=side.metric,
    )


def draw_people(*, queries: int, rows: int, dim: int, seed: int = 0) -> People:
    """Crops around people who have few traits, so that some look alike; six cameras."""
    rng = np.random.default_rng(seed)
    total = queries + rows
    person = rng.permutation(total) // CROPS
    traits = rng.standard_normal((total // CROPS + 1, _LOOKS), dtype=np.float32)
    vectors = np.empty((total, dim), np.float32)
    looks = rng.standard_normal((_LOOKS, dim), dtype=np.float32) / np.float32(_LOOKS**0.5)
    for at in range(0, total, 8192):  # no temporary of the size of all
        some = traits[person[at : at + 8192]] @ looks
        some += np.float32(_NOISE) * rng.standard_normal(some.shape, dtype=np.float32)
        vectors[at : at + len(some)] = some / np.linalg.norm(some, axis=1, keepdims=True)
    items = pa.table(
        {
            "item": np.arange(total),
            "person": pc.cast(pa.array(person), pa.string()),
            "camera": pa.array(rng.integers(1, 7, total), pa.int32()),
        }
    )
    return People(
        vectors[:queries], vectors[queries:], items[:queries], items[queries:], Metric.COSINE
    )


@click.command()
@click.option("--gallery", type=click.Path(path_type=Path), help="Your own, with persons.")
@click.option("--queries", default=3368, show_default=True)
@click.option("--rows", default=15913, show_default=True)
@click.option("--dim", default=512, show_default=True)
@click.option("--rounds", default=7, show_default=True)
@click.option("--check", default=100, show_default=True, help="Queries whose ranks are checked.")
@click.option("--out", type=click.Path(path_type=Path), help="A folder for raw results.")
def main(
    gallery: Path | None,
    queries: int,
    rows: int,
    dim: int,
    rounds: int,
    check: int,
    out: Path | None,
) -> None:
    """Measure evaluation."""
    source: dict[str, Any] = {
        "gallery": None if gallery is None else str(gallery),
        "queries": queries,
        "rows": rows,
        "dim": dim,
    }
    people, labelled = labelled_people(**source)
    product = Product.of(people.queries, people.gallery)
    found = evaluated(people, labelled)
    times = []
    for turn in range(rounds):
        taken = {**product.seconds(), **_stages(people, labelled)}
        times += [{"round": turn, "what": what, "seconds": taken[what]} for what in taken]
        floor = min(taken[what] for what in taken if what.startswith("product"))
        click.echo(f"round {turn + 1}: evaluation ÷ product {taken['evaluation'] / floor:.3f}")
    del product
    memory = in_fresh_process("benchmarks.evaluate", "memory", **source)
    checked = _checked(found, people, labelled, check)
    size = (*people.queries.shape[:1], *people.gallery.shape)
    print_times(times)
    click.echo(f"memory over the vectors: {(memory['peak'] - memory['before']) / 1e6:.0f} MB")
    click.echo(f"ranks equal to the oracle's: {sum(checked.values())} of {len(checked)} queries")
    keep_raw(
        out,
        f"evaluate-{size[0]}x{size[1]}x{size[2]}",
        {
            "benchmark": "evaluate",
            "gallery": source["gallery"],
            "size": size,
            "mAP": found.mAP,
            "memory": memory,
            "checked": len(checked),
            "exact": sum(checked.values()),
        },
        times=times,
        queries=[
            {**row, "equals_oracle": checked.get(query)}
            for query, row in enumerate(per_query(found, labelled, people.query_items).to_pylist())
        ],
    )


def memory(**source: Any) -> dict[str, int]:
    """Resident bytes of an evaluation; for a fresh process."""
    people, labelled = labelled_people(**source)
    evaluated(*labelled_people(None, queries=20, rows=200, dim=people.gallery.shape[1]))
    used, _ = memory_of(lambda: evaluated(people, labelled))
    return used


def labelled_people(gallery: str | None, **size: int) -> tuple[People, Labelled]:
    """`load_people` without junk and queries of nobody, and who they are. The tables of items stay
    whole."""
    people = load_people(gallery, **size)
    labelled = label(people.query_items, people.gallery_items, unlabelled="distractor")
    kept, searched = labelled.query_rows, labelled.gallery_rows
    if len(kept) < len(people.queries) or len(searched) < len(people.gallery):
        people = People(
            people.queries[kept],
            people.gallery[searched],
            people.query_items,
            people.gallery_items,
            people.metric,
        )
    return people, labelled


def evaluated(people: People, labelled: Labelled) -> Evaluation:
    """The whole way that is measured, from vectors to measures."""
    scores = VectorScores(people.queries, [people.gallery], metric=people.metric)
    return evaluate(scores, labelled, protocol=get_protocol("market1501"))


def _stages(people: People, labelled: Labelled) -> dict[str, float]:
    whole, found = timed(lambda: evaluated(people, labelled))
    return {"evaluation": whole, **found.seconds}


def _checked(found: Evaluation, people: People, labelled: Labelled, check: int) -> dict[int, bool]:
    """Whether the ranks of a sample of queries are those of sorted lists of exact scores."""
    total = len(people.queries)
    sample = np.random.default_rng(1).permutation(total)[:check]
    searched = labelled.gallery
    equal = {}
    for query in sample.tolist():
        person, camera = labelled.query.person[query], labelled.query.camera[query]
        same = searched.person == person
        kept = ~(same & (searched.camera == camera) & (camera != UNKNOWN))
        scores = score(people.queries[query], people.gallery[kept], metric=people.metric)
        order = best_first(scores, searched.item[kept], metric=people.metric)
        ranks = 1 + np.flatnonzero(same[kept][order])
        offsets = found.ranks.offsets
        ours = found.ranks.ranks[offsets[query] : offsets[query + 1]]
        equal[query] = bool(np.array_equal(ours, ranks))
    return equal


if __name__ == "__main__":
    main()
