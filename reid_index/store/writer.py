"""The one writer of a gallery, from its lock to its commit."""

import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .. import files
from ..errors import ReidIndexError, UsageError
from ..fingerprint import Fingerprint
from ..matcher import Matcher
from ..metric import Metric
from .commit import (
    commit,
    describe_file,
    history,
    read_current,
    refuse_taken,
    writer_lock,
)
from .manifest import Event, Manifest, Previous
from .retire import sweep
from .shard import check_matcher


class Writer:
    """Whoever holds the lock of a gallery.

    gallery: its folder. present: the manifest that the next generation is made from.
    """

    def __init__(self, gallery: Path, present: Manifest) -> None:
        self.gallery = gallery
        self.present = present

    @property
    def generation(self) -> int:
        """The number of the next generation."""
        return self.present.generation + 1

    @contextmanager
    def making(self, name: str) -> Iterator[Path]:
        """The path of something new, by its name in the gallery; removed again where that fails."""
        generation = self.generation
        try:
            yield self.gallery / name
        except BaseException:
            if not self.has_committed(generation):
                files.remove(self.gallery / name)
            raise

    def has_committed(self, generation: int) -> bool:
        """Whether a generation may be there already, after something failed: what fails may come
        behind the commit, and then it is. Where it cannot be told, it may."""
        try:
            return read_current(self.gallery).generation >= generation
        except (ReidIndexError, OSError):
            return True

    def commit(self, event: Event, *, forget: bool = False, **changes: Any) -> None:
        """Commit the present manifest with those changes as the next generation, then present.

        forget: the manifests before it may go; what they tell becomes its history.
        """
        present = self.present
        entry = describe_file(self.gallery / present.file_name)
        following = replace(
            present,
            generation=self.generation,
            created=datetime.now(UTC),
            event=event,
            previous=None if forget else Previous(present.file_name, entry),
            history=history(self.gallery, present) if forget else (),
            **changes,
        )
        commit(self.gallery, following)
        self.present = following


@contextmanager
def writing(gallery: Path) -> Iterator[Writer]:
    """Be the one writer of a gallery; leftovers of one that crashed are removed first.

    Raises GalleryLocked, and what `read_current` raises.
    """
    # Looked at before the lock, whose file would be made in any folder.
    read_current(gallery, writing=True)
    with writer_lock(gallery):
        present = read_current(gallery, writing=True)
        sweep(gallery, present)
        yield Writer(gallery, replace(present, identity=present.identity or new_identity()))


def new_identity() -> str:
    """A gallery's, by chance."""
    return secrets.token_hex(16)


def create(
    gallery: Path,
    *,
    dim: int,
    fingerprint: Fingerprint,
    metric: Metric,
    dtype: str,
    recipe: Mapping[str, Any],
    matcher: Matcher | None,
) -> None:
    """Make a new or empty folder an empty gallery; see `Gallery.create`."""
    if dim < 1:
        raise UsageError(f"a gallery's dim must be at least 1, got {dim}")
    if dtype not in ("float32", "float16"):
        raise UsageError(f"dtype {dtype!r}: vectors are stored as float32 or float16")
    check_matcher(matcher, metric)
    manifest = Manifest(
        generation=0,
        created=datetime.now(UTC),
        event=Event(what="create"),
        metric=metric,
        dim=dim,
        dtype=dtype,
        fingerprint=fingerprint,
        recipe=dict(recipe),
        next_item=0,
        shards=(),
        columns={},
        identity=new_identity(),
        matcher=matcher,
    )
    refuse_taken(gallery)
    files.make_folder(gallery)
    with writer_lock(gallery):
        refuse_taken(gallery)
        commit(gallery, manifest)
