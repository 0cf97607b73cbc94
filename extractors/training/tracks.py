"""Which crops follow each other in time, and segments of them to train on."""

import posixpath
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reid_index.errors import NothingToIndex, UsageError

from .batches import Batches
from .crops import Labelled

_SEED = 1
"""So that frames are not drawn by the same numbers as persons."""


@dataclass(frozen=True)
class Tracks:
    """crops: of each track its crops by number, in order of time, one at least. cameras: int64, of
    each track, -1 where it is not known."""

    crops: Sequence[NDArray[np.int64]]
    cameras: NDArray[np.int64]


def tracks_of(labelled: Labelled) -> Tracks:
    """The tracks of labelled crops: of one person, those of one camera and `track` in one folder or
    video, as `extractors.tracklets` has it; without a `track` those of one camera and, in names as
    Market-1501's, `sequence`. In a track, crops are in the order of frame_first, where all have
    one, or else as they came.

    Raises NothingToIndex where no person has two tracks: nothing could be learnt from pairs.
    """
    tracks: dict[tuple[object, ...], list[int]] = {}
    moments: list[int | None] = []
    cameras: list[int] = []
    for number, (picture, person) in enumerate(labelled.people):
        known = person.columns
        camera, track, video = (known.get(name) for name in ("camera", "track", "video"))
        place: object = ("sequence", known.get("sequence"))
        if track is not None:
            place = (video or posixpath.dirname(picture.source), video is None, track)
        key = (int(labelled.classes[number]), camera, place)
        if key not in tracks:
            tracks[key] = []
            cameras.append(-1 if camera is None else int(camera))
        tracks[key].append(number)
        moments.append(known.get("frame_first"))
    persons = [key[0] for key in tracks]
    if len(set(persons)) == len(persons):
        raise NothingToIndex(
            f"each of the {len(persons):,} persons has one track only: what stays the same from "
            "track to track cannot be learnt from that; tracks are told apart by the columns "
            "`camera`, `track` and `sequence`"
        )
    return Tracks([_in_order(some, moments) for some in tracks.values()], np.array(cameras))


def _in_order(crops: list[int], moments: list[int | None]) -> NDArray[np.int64]:
    when = [moments[crop] for crop in crops]
    if None not in when:
        crops = [crops[i] for i in np.argsort(np.array(when, np.int64), kind="stable")]
    return np.array(crops, np.int64)


class SegmentBatches:
    """P persons with K segments of T frames each.

    Tracks come as crops do in `Batches`, the K of a person from as many cameras as they can, and of
    each a segment: T crops that follow each other, from anywhere in the track; all of a shorter
    track, and some of them more than once, in order.
    """

    def __init__(
        self,
        tracks: Tracks,
        classes: NDArray[np.int64],
        *,
        persons: int,
        segments: int,
        frames: int,
        seed: int,
    ) -> None:
        """classes: of the crops, int64 (N,). persons: P, segments: K, both ≥ 2; frames: T ≥ 1.
        Raises UsageError where there are fewer than P persons."""
        if frames < 1:
            raise UsageError(f"a segment has one frame at least, not {frames}")
        self._tracks, self._frames, self._seed = tracks, frames, seed
        firsts = np.array([crops[0] for crops in tracks.crops])
        self._batches = Batches(
            classes[firsts], persons=persons, crops=segments, seed=seed, cameras=tracks.cameras
        )

    def epoch(self, number: int) -> list[NDArray[np.int64]]:
        """The batches of an epoch, each P·K·T crops by number, segment by segment; the same for the
        same seed."""
        rng = np.random.default_rng((self._seed, number, _SEED))
        return [
            np.concatenate([self._segment(self._tracks.crops[track], rng) for track in chosen])
            for chosen in self._batches.epoch(number)
        ]

    def _segment(self, crops: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        more = len(crops) - self._frames
        if more >= 0:
            start = rng.integers(more + 1)
            return crops[start : start + self._frames]
        again = np.concatenate([np.arange(len(crops)), rng.integers(len(crops), size=-more)])
        chosen: NDArray[np.int64] = crops[np.sort(again)]
        return chosen
