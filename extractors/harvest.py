"""From a source of pictures to shards: decoding, batching and inference overlap, in bounded memory.

Shards are written every few thousand crops, and when a run is interrupted. Each is noted in a
journal, so that the next run goes on behind the last one.
"""

import hashlib
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from reid_index.errors import UnreadableImage
from reid_index.files import make_folder
from reid_index.metric import Metric
from reid_index.store.items import STANDARD
from reid_index.store.shard import write_shard
from reid_index.store.vectors import ArrayStream

from .boxes import crop_box
from .extractor import Embedding, Extractor
from .images import read_image
from .journal import Journal, Part, identity
from .pictures import Person, Picture, Source


@dataclass(frozen=True)
class Harvest:
    """What a run yielded. parts: shard folders in order; rows in them; skipped: people left out;
    resumed: rows that an earlier run had already."""

    parts: tuple[Path, ...]
    rows: int
    skipped: int
    resumed: int


@dataclass(frozen=True, kw_only=True)
class Pace:
    """batch_size: crops that go through the extractor at once. workers: decoding threads.
    part_rows: rows in a shard, and so what a kill can lose."""

    batch_size: int = 32
    workers: int = 2
    part_rows: int = 2048


DEFAULT_PACE = Pace()

_HELD = 192 * 2**20
"""Bytes of decoded frames that may wait for the threads that make crops of them."""


@dataclass(frozen=True)
class _Prepared:
    """A picture after decoding: inputs[i] belongs to people[i]; errors of the others. fault: why
    there is no image, also where nobody was to be in it."""

    picture: Picture
    people: list[Person]
    inputs: list[NDArray[Any]]
    errors: list[UnreadableImage]
    fault: UnreadableImage | None = None


def harvest(
    source: Source,
    extractor: Extractor,
    folder: Path,
    *,
    metric: Metric,
    dtype: str = "float32",
    pace: Pace = DEFAULT_PACE,
    strict: bool = False,
    of_frames: bool = False,
    on_skip: Callable[[UnreadableImage], None] = lambda _error: None,
    progress: Callable[[int], object] = lambda _people: None,
) -> Harvest:
    """Extract every person of the source into shards in folder.

    folder: kept between runs; one that holds an unfinished run of the same extractor, source root
    and storage is gone on with. Parts whose pictures have changed since are done again.
    of_frames: the shards are for `write_segments`: vectors alone, as the extractor yields them, in
    single precision, whatever metric and dtype.
    on_skip is told once of each picture or box that cannot be read; with strict the first one
    is raised. progress is told of people as they are done, at once of those an earlier run did.

    Raises UsageError where folder holds another run, and what the extractor raises.
    """
    make_folder(folder)
    if of_frames:
        metric, dtype = Metric.EUCLIDEAN, "float32"  # which keep vectors as they are
    matcher = None if of_frames else extractor.matcher
    job: dict[str, Any] = {
        "fingerprint": extractor.fingerprint.to_json(),
        "metric": str(metric),
        "dtype": dtype,
        "root": str(source.root),
        "attributes": None if extractor.predicted_by is None else extractor.predicted_by.to_json(),
    }
    if matcher is not None:
        job["matcher"] = matcher.to_json()
    if of_frames:
        job["of_frames"] = True
    journal = Journal.open(folder, job, source, strict=strict)
    resumed = sum(part.rows for part in journal.parts)
    progress(resumed + sum(part.skipped for part in journal.parts))
    rest = islice(source.pictures(), sum(part.pictures for part in journal.parts), None)
    write = partial(
        _write_part,
        journal,
        fingerprint=extractor.fingerprint,
        metric=metric,
        dtype=dtype,
        matcher=matcher,
    )
    names = ("global_",) if of_frames else ("global_", "parts", "visible")
    buffer = _Buffer(source, names)
    try:
        with closing(_extracted(rest, extractor, pace)) as extracted:
            for batch, embeddings in extracted:
                for one in batch:
                    faults = [] if one.fault is None else [one.fault]
                    for error in dict.fromkeys(faults + one.errors):  # one picture, many people
                        if strict:
                            raise error
                        on_skip(error)
                    progress(len(one.picture.people))
                buffer.add(batch, embeddings)
                if buffer.rows >= pace.part_rows:
                    # Let go first: what could not be written is not tried again below.
                    full, buffer = buffer, _Buffer(source, names)
                    write(full)
    except BaseException:
        if buffer.rows:
            with suppress(Exception):
                write(buffer)
        raise
    if buffer.pictures:
        write(buffer)
    return Harvest(
        parts=tuple(folder / part.name for part in journal.parts if part.rows),
        rows=sum(part.rows for part in journal.parts),
        skipped=sum(part.skipped for part in journal.parts),
        resumed=resumed,
    )


def _write_part(journal: Journal, buffer: "_Buffer", **properties: Any) -> None:
    """Write what has gathered as a shard, and note it."""
    name = journal.next_name
    if buffer.rows:
        write_shard(
            journal.folder / name,
            arrays=buffer.arrays(),
            items=[buffer.items()],
            root=str(buffer.root),
            **properties,
        )
    journal.add(Part(name, buffer.rows, buffer.pictures, buffer.skipped, buffer.digest.hexdigest()))


def _extracted(
    pictures: Iterator[Picture], extractor: Extractor, pace: Pace
) -> Generator[tuple[list[_Prepared], list[Embedding]], None, None]:
    """Batches of pictures with their embeddings, in the source's order."""
    with (
        ThreadPoolExecutor(pace.workers, "decode", initializer=_step_back) as decoders,
        ThreadPoolExecutor(1, "embed") as embedder,
    ):
        try:
            ahead = 2 * pace.batch_size + pace.workers
            prepared = _in_order(decoders, pictures, extractor, ahead=ahead)
            yield from _embedded(embedder, prepared, extractor, pace.batch_size)
        finally:
            # Without this an error would first wait for everything that was queued.
            decoders.shutdown(cancel_futures=True)


def _step_back() -> None:
    """Let this thread run when the network's threads do not want the core: they wait for each
    other at every layer, so one that is held up holds up all. Linux alone has thread priorities."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)


def _in_order(
    decoders: ThreadPoolExecutor, pictures: Iterator[Picture], extractor: Extractor, *, ahead: int
) -> Iterator[_Prepared]:
    """Decoded pictures in the source's order, decoded ahead until `ahead` people wait, or pictures
    of _HELD bytes."""
    waiting: deque[tuple[int, int, Future[_Prepared]]] = deque()
    people = held = 0
    for picture in pictures:
        count, size = max(1, len(picture.people)), picture.held
        waiting.append((count, size, decoders.submit(_prepare, picture, extractor)))
        del picture  # or its image would be kept until the next is there
        people += count
        held += size
        while waiting and (people >= ahead or held >= _HELD):
            count, size, future = waiting.popleft()
            people -= count
            held -= size
            yield future.result()
    for _, _, future in waiting:
        yield future.result()


def _prepare(picture: Picture, extractor: Extractor) -> _Prepared:
    people: list[Person] = []
    inputs: list[NDArray[Any]] = []
    errors: list[UnreadableImage] = []
    make, picture = picture.image, replace(picture, image=None)  # a decoded frame is large
    try:
        _check_name(picture)
        image = read_image(picture.path, root=picture.root) if make is None else make()
    except UnreadableImage as error:
        return _Prepared(picture, people, inputs, [error] * len(picture.people), error)
    for person in picture.people:
        try:
            crop = image if person.box is None else crop_box(image, person.box)
        except UnreadableImage as error:
            errors.append(UnreadableImage(f"{picture.name}: {error}"))
        else:
            people.append(person)
            inputs.append(extractor.prepare(crop))
    return _Prepared(picture, people, inputs, errors)


def _check_name(picture: Picture) -> None:
    try:
        picture.source.encode()
    except UnicodeEncodeError:
        raise UnreadableImage(
            f"{picture.path}: its name is not UTF-8, so no table can hold it; rename it"
        ) from None


def _embedded(
    embedder: ThreadPoolExecutor,
    prepared: Iterable[_Prepared],
    extractor: Extractor,
    batch_size: int,
) -> Iterator[tuple[list[_Prepared], list[Embedding]]]:
    """Batches of whole pictures with their embeddings, no larger than batch_size each.

    While one batch is embedded the next is collected; one waits, so the embedder never does.
    """
    running: deque[tuple[list[_Prepared], Future[list[Embedding]]]] = deque()
    for batch in _batches(prepared, batch_size):
        inputs = [one for picture in batch for one in picture.inputs]
        # Stacked here, so that the embedder does nothing but embed. A picture of a crowd makes a
        # large batch, which goes through in several.
        stacks = np.array_split(np.stack(inputs), -(-len(inputs) // batch_size)) if inputs else []
        running.append((batch, embedder.submit(_embed, extractor, stacks)))
        if len(running) > 2:
            done, future = running.popleft()
            yield done, future.result()
    for done, future in running:
        yield done, future.result()


def _embed(extractor: Extractor, stacks: list[NDArray[Any]]) -> list[Embedding]:
    return [extractor.embed(stack) for stack in stacks]


def _batches(prepared: Iterable[_Prepared], batch_size: int) -> Iterator[list[_Prepared]]:
    batch: list[_Prepared] = []
    size = 0
    for one in prepared:
        batch.append(one)
        size += max(1, len(one.inputs))
        if size >= batch_size:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


class _Buffer:
    """Rows that wait to be written as one shard, and what part of the source they are. names: of
    the arrays that are kept of each embedding, where it has them."""

    def __init__(self, source: Source, names: Sequence[str]) -> None:
        self._names = names
        self.root = source.root
        self._types = STANDARD | dict(source.columns)
        self._embeddings: list[Embedding] = []
        self._rows: list[dict[str, Any]] = []
        self.pictures = self.skipped = 0
        self.digest = hashlib.sha256()

    @property
    def rows(self) -> int:
        return len(self._rows)

    def add(self, batch: list[_Prepared], embeddings: list[Embedding]) -> None:
        self._embeddings += embeddings
        for one in batch:
            self.pictures += 1
            self.skipped += len(one.errors)
            self.digest.update(identity(one.picture))
            for person in one.people:
                box = None if person.box is None else list(person.box)
                self._rows.append({**person.columns, "source": one.picture.source, "box": box})

    def arrays(self) -> dict[str, ArrayStream]:
        made = self._embeddings
        if any(one.visible is not None for one in made):
            made = list(map(_with_visible, made))
        names = [name for name in self._names if getattr(made[0], name) is not None]
        return {
            name.rstrip("_"): ArrayStream.of(np.concatenate([getattr(one, name) for one in made]))
            for name in names
        }

    def items(self) -> pa.Table:
        columns: dict[str, Any] = {
            name: pa.array([row.get(name) for row in self._rows], kind)
            for name, kind in self._types.items()
        }
        for name in self._embeddings[0].attributes or {}:
            columns[name] = [
                value for one in self._embeddings for value in (one.attributes or {})[name]
            ]
        return pa.table(columns)


def _with_visible(one: Embedding) -> Embedding:
    """One that says of every part whether it is visible: of some batches a model may hide none."""
    if one.parts is None or one.visible is not None:
        return one
    return replace(one, visible=np.ones(one.parts.shape[:2], np.uint8))
