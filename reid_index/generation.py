"""One generation of a gallery, opened: nothing in it changes, what is made of it is kept."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from .errors import CorruptGallery
from .items import STANDARD, stack
from .knn import Block
from .manifest import Manifest
from .query import Searched
from .shard import Shard, open_shard

if TYPE_CHECKING:
    from .rerank import Reranking
    from .rerank_gallery import WholeGallery


@dataclass(frozen=True)
class Generation:
    """The folder of a gallery at one manifest."""

    path: Path
    manifest: Manifest

    @cached_property
    def shards(self) -> tuple[Shard, ...]:
        shards = tuple(open_shard(self.path / entry.folder) for entry in self.manifest.shards)
        for shard, entry in zip(shards, self.manifest.shards, strict=True):
            if shard.header.rows != entry.rows:
                raise CorruptGallery(
                    f"{shard.folder}: shard.json says {shard.header.rows} rows, the manifest "
                    f"{entry.rows}: restore it from a copy"
                )
        return shards

    @cached_property
    def searched(self) -> Searched:
        return Searched(
            blocks=[Block(shard.vectors, shard.header.max_norm) for shard in self.shards],
            items=stack([shard.items for shard in self.shards] or [_no_items()]),
            roots=[shard.header.root for shard in self.shards],
            metric=self.manifest.metric,
            dim=self.manifest.dim,
            generation=self.manifest.generation,
        )

    @cached_property
    def matrix(self) -> NDArray[np.float32]:
        """All vectors in one array, (N, D) float32: mapped where they lie so, else a copy."""
        blocks = [shard.vectors for shard in self.shards]
        if len(blocks) == 1 and blocks[0].dtype == np.float32:
            return cast("NDArray[np.float32]", blocks[0])
        if not blocks:
            return np.empty((0, self.manifest.dim), np.float32)
        return np.concatenate([block.astype(np.float32) for block in blocks])

    @cached_property
    def rerankings(self) -> "dict[Reranking, WholeGallery]":
        """What has been prepared for re-ranking, by its parameters."""
        return {}


def _no_items() -> pa.Table:
    return pa.table({name: pa.nulls(0, kind) for name, kind in STANDARD.items()})
