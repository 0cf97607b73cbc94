"""What k-reciprocal re-ranking costs, beside what it cannot do without, in one run.

    python -m benchmarks.rerank --out raw                     joint, Market-1501's size
    python -m benchmarks.rerank --out raw --size msmt17       joint, MSMT17's size
    python -m benchmarks.rerank --out raw --dense             and the N × N way, once
    python -m benchmarks.rerank --out raw --device cuda       joint on a GPU
    python -m benchmarks.rerank --out raw --alone             single queries in 200,000 × 256
    python -m benchmarks.rerank --out raw --alone --approximate --rows 1000000 --exact-too

Joint: each round times the bare N × N × D product (NumPy's and torch's; the faster counts) and the
whole way from vectors to all re-ranked distances. Alone: each query is timed with the plain k-NN
search just before it. Answers are compared with the N × N way, or with those of the exact graph.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks.dense_rerank import dense_rerank
from benchmarks.evaluate import People, load_people
from benchmarks.machine import (
    Product,
    in_fresh_process,
    keep_raw,
    memory_of,
    print_times,
    spread,
    timed,
    told,
)
from reid_index import Reranking, rerank_joint
from reid_index.reranking.graph import Graph, make_graph
from reid_index.reranking.rerank import JointReranking
from reid_index.reranking.rerank_query import QueryReranking
from reid_index.search.exact import Block
from reid_index.search.knn import Rows, nearest

SIZES = {"market": (3368, 15913, 512), "msmt17": (11659, 82161, 512)}
ALONE = (200, 200_000, 256)

TOP = 20
"""How many answers of a query are compared."""

_CHUNK = 512
"""Queries whose distances are made at a time."""

_CHECKED = 3000
"""Rows at most of the smaller gallery on which answers are compared."""

TOLERANCE = 1e-4
"""Answers further apart than this are counted."""

Answers = list[dict[str, Any]]
"""Rows of a table: query, rank, row, distance, reference_row, reference_distance."""

Ranked = tuple[NDArray[np.int64], NDArray[Any]]
"""Rows and distances, nearest first."""


@click.command()
@click.option("--gallery", type=click.Path(path_type=Path), help="Your own.")
@click.option("--size", type=click.Choice(list(SIZES)), default="market", show_default=True)
@click.option("--queries", type=int, help="[default: the size's; 200 alone]")
@click.option("--rows", type=int, help="[default: the size's; 200,000 alone]")
@click.option("--dim", type=int, help="[default: the size's; 256 alone]")
@click.option("--k1", default=20, show_default=True)
@click.option("--k2", default=6, show_default=True)
@click.option("--lambda", "lambda_", default=0.3, show_default=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--dense", is_flag=True, help="The N × N way too, once: 20·N² bytes, minutes.")
@click.option("--device", help="Joint through torch on this device instead, as cuda.")
@click.option("--alone", is_flag=True, help="Single queries in a gallery with a graph instead.")
@click.option("--approximate", is_flag=True, help="Alone: an approximate graph.")
@click.option("--exact-too", is_flag=True, help="Alone: and the exact one, to compare with.")
@click.option("--out", type=click.Path(path_type=Path), help="A folder for raw results.")
def main(
    gallery: Path | None,
    size: str,
    queries: int | None,
    rows: int | None,
    dim: int | None,
    k1: int,
    k2: int,
    lambda_: float,
    rounds: int,
    dense: bool,
    device: str | None,
    alone: bool,
    approximate: bool,
    exact_too: bool,
    out: Path | None,
) -> None:
    """Measure re-ranking."""
    usual = ALONE if alone else SIZES[size]
    source: dict[str, Any] = {
        "gallery": None if gallery is None else str(gallery),
        "queries": queries or usual[0],
        "rows": rows or usual[1],
        "dim": dim or usual[2],
    }
    parameters: dict[str, Any] = {"k1": k1, "k2": k2, "lambda_": lambda_}
    if alone:
        _alone(source, parameters, approximate=approximate, exact_too=exact_too, out=out)
    elif device is not None:
        _on_device(source, parameters, device=device, rounds=rounds, out=out)
    else:
        _joint(source, parameters, rounds=rounds, dense=dense, out=out)


def _joint(
    source: dict[str, Any],
    parameters: dict[str, Any],
    *,
    rounds: int,
    dense: bool,
    out: Path | None,
) -> None:
    reranking = Reranking(**parameters)
    # Before anything large is held here: the reference needs all the memory that there is.
    reference: dict[str, Any] | None = None
    if dense:
        with told("the N × N way"):
            reference = in_fresh_process("benchmarks.rerank", "dense_once", **source, **parameters)
    memory = in_fresh_process("benchmarks.rerank", "joint_memory", **source, **parameters)
    people = load_people(**source)
    checked, answers = _compared(*_few(people), reranking=reranking)
    if reference is not None:
        answers = reference.pop("answers")
    vectors = np.concatenate([people.queries, people.gallery])
    product = Product.of(vectors, vectors.copy())
    times = []
    for turn in range(rounds):
        taken = product.seconds()
        floor = min(taken.values())
        taken.update(_reranked(people.queries, people.gallery, reranking=reranking))
        times += [{"round": turn, "what": what, "seconds": taken[what]} for what in taken]
        click.echo(f"round {turn + 1}: whole ÷ product {taken['whole'] / floor:.3f}")
    shape = (len(people.queries), *people.gallery.shape)
    print_times(times)
    click.echo(
        f"memory over the vectors: {(memory['peak'] - memory['before']) / 1e6:.0f} MB, "
        f"in all {memory['peak'] / 1e6:.0f} MB"
    )
    _print_differences("a part", checked)
    if reference is not None:
        _print_differences("all", reference)
    results = {
        "benchmark": "rerank-joint",
        "gallery": source["gallery"],
        "size": shape,
        **parameters,
        "memory": memory,
        "checked": checked,
        "dense": reference,
    }
    keep_raw(out, f"rerank-joint-{_name(shape, parameters)}", results, times=times, answers=answers)


def _name(shape: tuple[int, ...], parameters: dict[str, Any]) -> str:
    return f"{'x'.join(map(str, shape))}-k{parameters['k1']}-{parameters['k2']}"


def _print_differences(what: str, found: dict[str, Any]) -> None:
    click.echo(
        f"compared on {what}, {found['nodes']:,} nodes: largest difference "
        f"{found['largest_difference']:.2g}, {found['over']} of {found['pairs']:,} pairs over "
        f"{TOLERANCE:g}, {found['same_top']} of {found['queries']} lists of {TOP} the same"
    )


def _few(people: People) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    return people.queries[:100], people.gallery[:_CHECKED]


def _reranked(
    queries: NDArray[np.float32], gallery: NDArray[np.float32], *, reranking: Reranking
) -> dict[str, float]:
    """Seconds of the graph, of all distances from it, and of both."""
    graph, joint = timed(lambda: rerank_joint(queries, gallery, reranking=reranking))
    distances, _ = timed(lambda: _all_distances(joint))
    return {"graph": graph, "distances": distances, "whole": graph + distances}


def _all_distances(joint: JointReranking) -> None:
    for start in range(0, joint.queries, _CHUNK):
        joint.chunk(start, min(start + _CHUNK, joint.queries))


def _tiny(people: People, reranking: Reranking) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """As much as warms up."""
    return people.queries[:5], people.gallery[: 100 + reranking.length]


def joint_memory(*, k1: int, k2: int, lambda_: float, **source: Any) -> dict[str, int]:
    """Resident bytes of a joint re-ranking, all distances made; for a fresh process."""
    reranking = Reranking(k1=k1, k2=k2, lambda_=lambda_)
    people = load_people(**source)
    _reranked(*_tiny(people, reranking), reranking=reranking)
    used, _ = memory_of(lambda: _reranked(people.queries, people.gallery, reranking=reranking))
    return used


def dense_once(*, k1: int, k2: int, lambda_: float, **source: Any) -> dict[str, Any]:
    """Seconds and resident bytes of the N × N way, and how ours differs; for a fresh process."""
    reranking = Reranking(k1=k1, k2=k2, lambda_=lambda_)
    people = load_people(**source)
    dense_rerank(*_tiny(people, reranking), reranking=reranking)
    used, (seconds, dense) = memory_of(
        lambda: timed(lambda: dense_rerank(people.queries, people.gallery, reranking=reranking))
    )
    joint = rerank_joint(people.queries, people.gallery, reranking=reranking)
    differences, answers = _difference(joint, dense)
    return {"seconds": seconds, "memory": used, **differences, "answers": answers}


def _compared(
    queries: NDArray[np.float32], gallery: NDArray[np.float32], *, reranking: Reranking
) -> tuple[dict[str, Any], Answers]:
    dense = dense_rerank(queries, gallery, reranking=reranking)
    return _difference(rerank_joint(queries, gallery, reranking=reranking), dense)


def _difference(
    joint: JointReranking, reference: NDArray[np.float32]
) -> tuple[dict[str, Any], Answers]:
    """How far the distances are from the reference (Q, G), and first answers of 100 queries."""
    largest, over, same = 0.0, 0, 0
    answers: Answers = []
    for start in range(0, joint.queries, _CHUNK):
        stop = min(start + _CHUNK, joint.queries)
        ours, _ = joint.chunk(start, stop)
        theirs = reference[start:stop]
        apart = np.abs(ours - theirs)
        largest, over = max(largest, float(apart.max())), over + int((apart > TOLERANCE).sum())
        for query in range(start, stop):
            own, other = ours[query - start], theirs[query - start]
            top, other_top = (np.argsort(row, kind="stable")[:TOP] for row in (own, other))
            same += bool((top == other_top).all())
            if query < 100:
                answers += _answers(query, (top, own[top]), (other_top, other[other_top]))
    return {
        "nodes": joint.queries + joint.gallery,
        "queries": joint.queries,
        "pairs": reference.size,
        "largest_difference": largest,
        "over": over,
        "same_top": same,
    }, answers


def _answers(query: int, ours: Ranked, reference: Ranked | None) -> Answers:
    """Rows of the table of answers; no reference gives nulls."""
    found = []
    for place in range(len(ours[0])):
        theirs = None if reference is None else (reference[0][place], reference[1][place])
        found.append(
            {
                "query": query,
                "rank": place + 1,
                "row": int(ours[0][place]),
                "distance": float(ours[1][place]),
                "reference_row": None if theirs is None else int(theirs[0]),
                "reference_distance": None if theirs is None else float(theirs[1]),
            }
        )
    return found


def _on_device(
    source: dict[str, Any],
    parameters: dict[str, Any],
    *,
    device: str,
    rounds: int,
    out: Path | None,
) -> None:
    """Joint re-ranking through torch, vectors on the device already."""
    import torch

    from reid_index.reranking.rerank_torch import joint_torch

    if device.startswith("cuda") and not torch.cuda.is_available():
        click.echo(f"skipped: there is no {device} here")
        return
    people = load_people(**source)
    reranking = Reranking(**parameters)
    queries, gallery = (
        torch.from_numpy(side).to(device) for side in (people.queries, people.gallery)
    )

    def whole() -> torch.Tensor:
        made = joint_torch(queries, gallery, reranking=reranking, device=device)
        if made.is_cuda:
            torch.cuda.synchronize()
        return made

    found = whole().cpu().numpy()
    whole()
    times = [{"round": turn, "what": "whole", "seconds": timed(whole)[0]} for turn in range(rounds)]
    checked, answers = _difference(
        rerank_joint(people.queries, people.gallery, reranking=reranking), found
    )
    print_times(times)
    _print_differences("all, with the CPU's answers", checked)
    shape = (len(people.queries), *people.gallery.shape)
    results = {
        "benchmark": "rerank-device",
        "gallery": source["gallery"],
        "size": shape,
        **parameters,
        "device": torch.cuda.get_device_name(device) if queries.is_cuda else device,
        "device_peak": torch.cuda.max_memory_allocated(device) if queries.is_cuda else None,
        "checked": checked,
    }
    name = f"rerank-{device.replace(':', '')}-{_name(shape, parameters)}"
    keep_raw(out, name, results, times=times, answers=answers)


def _alone(
    source: dict[str, Any],
    parameters: dict[str, Any],
    *,
    approximate: bool,
    exact_too: bool,
    out: Path | None,
) -> None:
    reranking = Reranking(**parameters)
    people = load_people(**source)
    kind = "approximate" if approximate else "exact"
    opened = _Opened.of(people.gallery, reranking, exact=not approximate)
    seconds = {kind: opened.seconds}
    times, found = _queried(people, opened)
    neighbours_found = opened.neighbours_found(people)
    known = None
    if approximate and exact_too:
        exact = _Opened.of(people.gallery, reranking, exact=True)
        seconds["exact"] = exact.seconds
        known = [exact.best(query) for query in people.queries]
    checked = _checked_alone(people, reranking)
    for what in ("k-NN", "re-ranked", "added"):
        click.echo(f"{what}: ms {spread([row[what] for row in times])}")
    click.echo(
        f"compared with joint on {checked['rows']:,} rows: largest difference "
        f"{checked['largest_difference']:.2g}, {checked['same_top']} of {checked['queries']} "
        f"lists of {TOP} the same"
    )
    click.echo(f"neighbours that the graph's lists hold: {neighbours_found:.4f}")
    differ = None if known is None else _differing(found, known)
    if differ is not None:
        click.echo(
            f"of {differ['queries']} lists of {TOP}, {differ['lists']} differ from the exact "
            f"graph's, {differ['sets']} in what they hold, {differ['firsts']} in the first; "
            f"{differ['shared']:.4f} of what they hold is the same"
        )
    shape = (len(people.queries), *people.gallery.shape)
    results = {
        "benchmark": "rerank-alone",
        "gallery": source["gallery"],
        "size": shape,
        **parameters,
        "graph": kind,
        "graph_seconds": seconds,
        "neighbours_found": neighbours_found,
        "checked": checked,
        "differ": differ,
    }
    answers = [
        row
        for query, ours in enumerate(found)
        for row in _answers(query, ours, None if known is None else known[query])
    ]
    name = f"rerank-alone-{kind}-{_name(shape, parameters)}"
    keep_raw(out, name, results, times=times, answers=answers)


@dataclass(frozen=True)
class _Opened:
    """A gallery with its graph, and how long that took to make."""

    seconds: float
    graph: Graph
    alone: QueryReranking

    @classmethod
    def of(cls, gallery: NDArray[np.float32], reranking: Reranking, *, exact: bool) -> "_Opened":
        items = np.arange(len(gallery))
        with told(f"{'exact' if exact else 'approximate'} graph of {len(gallery):,} rows"):
            seconds, graph = timed(
                lambda: make_graph(gallery, items=items, reranking=reranking, exact=exact)
            )
        alone = QueryReranking(vectors=gallery, items=items, graph=graph, reranking=reranking)
        return cls(seconds, graph, alone)

    def best(self, query: NDArray[np.float32]) -> Ranked:
        """The first answers of one query."""
        return self.alone.rerank(query).best(TOP, self.alone.items, None)

    def neighbours_found(self, people: People, sample: int = 100) -> float:
        """The share of the exact neighbours of some rows that the graph's lists hold."""
        near = self.graph.near.index
        rows = np.random.default_rng(2).permutation(len(near))[:sample]
        found: int = 0
        searched = _rows(people, self)
        for row in rows:
            [exact] = nearest(searched, people.gallery[row][None], near.shape[1])
            found += len(np.intersect1d(exact.rows, near[row]))
        share: float = found / (len(rows) * near.shape[1])
        return share


def _rows(people: People, opened: "_Opened") -> Rows:
    norms = np.einsum("nd,nd->n", people.gallery, people.gallery)
    block = Block(people.gallery, float(np.sqrt(norms.max())) * (1 + 2.0**-10))
    return Rows(blocks=[block], items=opened.alone.items, metric=people.metric)


def _queried(people: People, opened: _Opened) -> tuple[list[dict[str, Any]], list[Ranked]]:
    """Milliseconds of each query, plain and re-ranked, and the first of the re-ranked answers."""
    searched = _rows(people, opened)

    def plain(query: NDArray[np.float32]) -> object:
        return nearest(searched, query[None], TOP)

    times: list[dict[str, Any]] = []
    found = []
    for query in people.queries[:5]:
        plain(query)
        opened.best(query)
    for number, query in enumerate(people.queries):
        before, _ = timed(partial(plain, query))
        whole, answer = timed(partial(opened.best, query))
        found.append(answer)
        taken = {"k-NN": before, "re-ranked": whole, "added": whole - before}
        times.append({"query": number, **{what: 1000 * taken[what] for what in taken}})
    return times, found


def _checked_alone(people: People, reranking: Reranking) -> dict[str, Any]:
    """How single queries differ from joint re-ranking with the one query, on part of the rows."""
    queries, gallery = people.queries[:5], people.gallery[:_CHECKED]
    items = np.arange(len(gallery))
    graph = make_graph(gallery, items=items, reranking=reranking, exact=True)
    alone = QueryReranking(vectors=gallery, items=items, graph=graph, reranking=reranking)
    largest, same = 0.0, 0
    for query in queries:
        joint = rerank_joint(query[None], gallery, reranking=reranking).distances()[0]
        ours = alone.rerank(query)
        largest = max(largest, float(np.abs(ours.exact(items) - joint).max()))
        top, _ = ours.best(TOP, items, None)
        same += bool((top == np.argsort(joint, kind="stable")[:TOP]).all())
    return {
        "rows": len(gallery),
        "queries": len(queries),
        "largest_difference": largest,
        "same_top": same,
    }


def _differing(found: list[Ranked], known: list[Ranked]) -> dict[str, Any]:
    """How often the first answers are not those of the exact graph."""
    pairs = [(ours[0], exact[0]) for ours, exact in zip(found, known, strict=True)]
    shared = [len(np.intersect1d(ours, exact)) / len(exact) for ours, exact in pairs]
    return {
        "queries": len(pairs),
        "lists": sum(not np.array_equal(ours, exact) for ours, exact in pairs),
        "firsts": sum(bool(ours[0] != exact[0]) for ours, exact in pairs),
        "sets": sum(share < 1 for share in shared),
        "shared": float(np.mean(shared)),
    }


if __name__ == "__main__":
    main()
