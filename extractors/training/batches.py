"""Which crops come together: P persons with K crops each."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from reid_index.errors import UsageError


class Batches:
    """P × K sampling (Hermans et al., "In Defense of the Triplet Loss", 2017, section 2).

    Every crop comes once an epoch, in groups of K of one person, the last group of a person filled
    up from the same crops; a batch has P groups of P persons. What is left when fewer than P
    persons have groups is left out of that epoch.
    """

    def __init__(self, classes: NDArray[np.int64], *, persons: int, crops: int, seed: int) -> None:
        """classes: of the crops, int64 (N,). persons: P, crops: K, both ≥ 2.

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
        order = np.argsort(classes, kind="stable")
        starts = np.flatnonzero(np.diff(classes[order], prepend=-1))
        self._members = np.split(order, starts[1:])
        self._classes = classes

    def epoch(self, number: int) -> list[NDArray[np.int64]]:
        """The batches of an epoch, each P·K crops by number; the same for the same seed."""
        rng = np.random.default_rng((self._seed, number))
        groups = [group for members in self._members for group in self._groups(members, rng)]
        waiting = [groups[place] for place in rng.permutation(len(groups))]
        batches: list[NDArray[np.int64]] = []
        while True:
            taken, waiting = self._take(waiting)
            if len(taken) < self._persons:
                return batches
            batches.append(np.concatenate(taken))

    def _groups(
        self, members: NDArray[np.int64], rng: np.random.Generator
    ) -> Iterator[NDArray[np.int64]]:
        shuffled = rng.permutation(members)
        for start in range(0, len(shuffled), self._crops):
            group = shuffled[start : start + self._crops]
            missing = self._crops - len(group)
            if missing:
                again = rng.choice(members, missing, replace=missing > len(members))
                group = np.concatenate([group, again])
            yield group

    def _take(
        self, waiting: list[NDArray[np.int64]]
    ) -> tuple[list[NDArray[np.int64]], list[NDArray[np.int64]]]:
        """The first groups of P different persons, and the others in order."""
        taken: list[NDArray[np.int64]] = []
        rest: list[NDArray[np.int64]] = []
        seen: set[int] = set()
        for place, group in enumerate(waiting):
            if len(taken) == self._persons:
                return taken, rest + waiting[place:]
            person = int(self._classes[group[0]])
            if person in seen:
                rest.append(group)
            else:
                seen.add(person)
                taken.append(group)
        return taken, []
