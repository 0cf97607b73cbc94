"""Which crops come together: P persons with K crops each."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from reid_index.errors import UsageError


class Batches:
    """P × K sampling (Hermans et al., "In Defense of the Triplet Loss", 2017, section 2).

    Crops, or tracks, come in groups of K of one person, each once an epoch, the last group of a
    person filled up from the same crops; a batch has P groups of P persons. What is left when fewer
    than P persons have groups, as where a few have most of the crops, is left out of that epoch.
    """

    def __init__(
        self,
        classes: NDArray[np.int64],
        *,
        persons: int,
        crops: int,
        seed: int,
        cameras: NDArray[np.int64] | None = None,
    ) -> None:
        """classes: of the crops, int64 (N,). persons: P, crops: K, both ≥ 2. cameras: of the crops,
        int64 (N,), where the K of a person are to be from as many as they can.

        Raises UsageError where there are fewer than P persons.
        """
        if persons < 2 or crops < 2:
            raise UsageError(
                f"a batch has two persons of two crops at least, not {persons} × {crops}"
            )
        found = len(np.unique(classes))
        if found < persons:
            raise UsageError(
                f"a batch of {persons} persons cannot be had of {found}: give a smaller --batch"
            )
        self._persons, self._crops, self._seed = persons, crops, seed
        self._cameras = cameras
        order = np.argsort(classes, kind="stable")
        starts = np.flatnonzero(np.diff(classes[order], prepend=-1))
        self._members = np.split(order, starts[1:])

    def epoch(self, number: int) -> list[NDArray[np.int64]]:
        """The batches of an epoch, each P·K crops by number; the same for the same seed."""
        rng = np.random.default_rng((self._seed, number))
        groups = [list(self._groups(members, rng)) for members in self._members]
        left = np.array([len(some) for some in groups])
        batches: list[NDArray[np.int64]] = []
        while np.count_nonzero(left) >= self._persons:
            chosen = self._choose(left, rng)
            left[chosen] -= 1
            batches.append(np.concatenate([groups[person].pop() for person in chosen]))
        return batches

    def _choose(self, left: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        """P persons with groups left: those who would be left over otherwise, then by chance, the
        more groups the likelier."""
        batches = int(left.sum()) // self._persons
        pressing = rng.permutation(np.flatnonzero(left >= max(batches, 1)))
        pressing = pressing[np.argsort(-left[pressing], kind="stable")][: self._persons]
        others = left.astype(np.float64)
        others[pressing] = 0
        missing = min(self._persons - len(pressing), int(np.count_nonzero(others)))
        if missing == 0:
            return pressing
        drawn = rng.choice(len(left), missing, replace=False, p=others / others.sum())
        return np.concatenate([pressing, drawn])

    def _groups(
        self, members: NDArray[np.int64], rng: np.random.Generator
    ) -> Iterator[NDArray[np.int64]]:
        shuffled = rng.permutation(members)
        if self._cameras is not None:
            shuffled = shuffled[np.argsort(_turns(self._cameras[shuffled]), kind="stable")]
        for start in range(0, len(shuffled), self._crops):
            group = shuffled[start : start + self._crops]
            missing = self._crops - len(group)
            if missing:
                again = rng.choice(members, missing, replace=missing > len(members))
                group = np.concatenate([group, again])
            yield group


def _turns(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """How often each value came before."""
    order = np.argsort(values, kind="stable")
    starts = np.flatnonzero(np.diff(values[order], prepend=values[order[:1]] - 1))
    turns = np.empty(len(values), np.int64)
    turns[order] = np.arange(len(values)) - np.repeat(starts, np.diff([*starts, len(values)]))
    return turns
