"""What the planner's choice costs beside the best path that it could have taken, each timed from
the mask to the answer, in turn in one loop, so that a busy machine slows all of them alike.

    python -m benchmarks.filter --keep stores --out raw --penalty
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.filter_world import QUERIES, K, World, open_world
from reid_index import Gallery
from reid_index.errors import UsageError
from reid_index.filters.allowed import Allowed
from reid_index.search.knn import Rows, nearest
from reid_index.search.plan import PATHS, Experience

REQUESTS = {"exact": None, "recall 0.95": 0.95}
PLANNER = "planner"

_WARM = 3
_ROUNDS = 31
_SLOW = 2.0
"""Seconds of a round from which a third of the rounds is made."""

SMALL = 1e-3
"""Seconds of the best path under which the difference counts, not the ratio."""


@dataclass(frozen=True)
class Penalty:
    """One cell: medians in seconds of the planner's choice and of the best path, and their names.

    request: "exact" or "recall 0.95". chosen: what the planner took, in words.
    """

    request: str
    family: str
    rate: float
    allowed: int
    batch: int
    planner: float
    chosen: str
    best: float
    path: str

    @property
    def ratio(self) -> float | None:
        """planner ÷ best; None where the best takes less than SMALL."""
        return None if self.best < SMALL else self.planner / self.best

    @property
    def over(self) -> float:
        """planner − best, seconds."""
        return self.planner - self.best


@dataclass(frozen=True)
class _Asked:
    """What is asked in one cell, and of what."""

    world: World
    generation: Any
    request: str
    recall: float | None
    place: int
    batch: int


def measure(*, folder: str, name: str, quick: bool) -> dict[str, Any]:
    """All cells; runs in a process of its own. name: of the gallery's store in the folder."""
    world = open_world(Path(folder) / "world")
    generation = Gallery.open(Path(folder) / name)._generation
    times = []
    for request, recall in REQUESTS.items():
        for place in range(len(world.filters)):
            for batch in (1, 32):
                asked = _Asked(world, generation, request, recall, place, batch)
                times += _cell(asked, rounds=1 if quick else _ROUNDS)
    return {
        "benchmark": "filter-penalty",
        "rows": len(world.vectors),
        "dim": world.vectors.shape[1],
        "k": K,
        "quick": quick,
        "times": times,
    }


def _cell(asked: _Asked, *, rounds: int) -> list[dict[str, Any]]:
    """Every path and the planner, in turn; who begins changes from round to round."""
    index = asked.generation.how(recall=asked.recall, device="cpu").index
    rows = asked.generation.searched.rows
    # The planner learns how often the index is in doubt under a filter: from its own answers only.
    ways = {PLANNER: replace(rows, experience=Experience())}
    others = replace(rows, experience=Experience())
    ways |= {path: others for path in PATHS if path != "index" or index is not None}
    found: list[dict[str, Any]] = []
    turn = -_WARM
    while turn < rounds:
        order = list(ways)
        for path in order[turn % len(order) :] + order[: turn % len(order)]:
            try:
                found.append(_timed(asked, turn, path, ways[path], index))
            except UsageError:  # a path that cannot answer this, such as gathering all rows
                del ways[path]
        spent = sum(row["seconds"] for row in found if row["round"] == turn)
        if turn == 0 and spent > _SLOW:
            rounds = min(rounds, -(-_ROUNDS // 3))
        turn += 1
    return [row for row in found if row["round"] >= 0]


def _timed(asked: _Asked, turn: int, path: str, rows: Rows, index: Any) -> dict[str, Any]:
    """One answer to the next queries: its time, and what the recall came to."""
    world, chosen = asked.world, asked.world.filters[asked.place]
    mask = chosen.mask(world.columns)
    first = turn * asked.batch % QUERIES
    queries = world.queries[first : first + asked.batch]
    only = None if path == PLANNER else path
    start = time.perf_counter()
    found = nearest(
        rows,
        queries,
        K,
        allowed=Allowed(rows.count, mask),
        recall=asked.recall,
        index=index,
        only=only,
    )
    taken = time.perf_counter() - start
    recalls = [
        world.recall(asked.place, first + number, one.rows) for number, one in enumerate(found)
    ]
    return {
        "request": asked.request,
        "family": chosen.family,
        "rate": chosen.rate,
        "allowed": chosen.allowed,
        "batch": asked.batch,
        "round": turn,
        "path": path,
        "words": found[-1].path,
        "seconds": taken,
        "recall": float(np.mean(recalls)),
    }


def penalties(times: Sequence[dict[str, Any]]) -> list[Penalty]:
    """Of each cell. The index is among the paths where its recall reached the one asked for."""
    cells: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in times:
        key = (row["request"], row["family"], row["rate"], row["allowed"], row["batch"])
        cells.setdefault(key, []).append(row)
    made = []
    for (request, family, rate, allowed, batch), rows in cells.items():
        medians = {}
        for path in dict.fromkeys(row["path"] for row in rows):
            own = [row for row in rows if row["path"] == path]
            reached = float(np.mean([row["recall"] for row in own]))
            if path != "index" or reached >= (REQUESTS[request] or 1):
                medians[path] = float(np.median([row["seconds"] for row in own]))
        planner = medians.pop(PLANNER)
        best = min(medians, key=lambda path: medians[path])
        words = next(row["words"] for row in rows if row["path"] == PLANNER)
        cell = (request, family, rate, allowed, batch)
        made.append(Penalty(*cell, planner, words, medians[best], best))
    return made


def summary(found: Sequence[Penalty]) -> list[str]:
    """Of each request: the mean and worst ratio, and the worst difference of the small cells."""
    lines = []
    for request in dict.fromkeys(one.request for one in found):
        own = [one for one in found if one.request == request]
        ratios = [one.ratio for one in own if one.ratio is not None]
        overs = [1000 * one.over for one in own if one.ratio is None]
        parts = [f"{request}: {len(own)} cells"]
        if ratios:
            parts.append(
                f"{len(ratios)} of 1 ms or more: mean {np.mean(ratios):.3f}, worst "
                f"{max(ratios):.2f}"
            )
        if overs:
            parts.append(f"{len(overs)} below: at most {max(overs):+.3f} ms over")
        lines.append("; ".join(parts))
    return lines
