"""Manifests: what comes back from their JSON, and what is refused in it."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from conftest import FINGERPRINT

from reid_index.metric import Metric
from reid_index.store.manifest import (
    AttachedEntry,
    DeletedEntry,
    Event,
    FileEntry,
    Manifest,
    Owed,
    Past,
    Previous,
    ShardEntry,
    from_json,
    to_json,
)

FILE = FileEntry(7, "ab")
TIME = datetime(2024, 5, 1, 12, tzinfo=UTC)
WHOLE = Manifest(
    generation=9,
    created=TIME,
    metric=Metric.COSINE,
    dim=3,
    dtype="float16",
    fingerprint=FINGERPRINT,
    recipe={"extractor": "stripes"},
    next_item=50,
    shards=(
        ShardEntry(
            folder="shards/000001",
            rows=4,
            files={"shard.json": FILE},
            deleted=DeletedEntry(file="deleted/000008-000000.bits", rows=3, entry=FILE),
        ),
        ShardEntry(folder="shards/000007-0", rows=2, files={"a.b": FILE}, first_item=5),
    ),
    attached=(
        AttachedEntry(
            kind="graph",
            folder="attached/000005-graph",
            covers=("shards/000001",),
            files={"graph.json": FILE},
            deleted=1,
            about={"k1": 3},
        ),
    ),
    previous=Previous("manifest-000008.json", FILE),
    event=Event(what="delete", rows=2),
    history=(
        Past(generation=0, created=TIME, event=Event(what="create"), rows=None),
        Past(generation=1, created=TIME, event=Event(what="attach", kind="index"), rows=4),
    ),
    columns={"item": "int64"},
    keys=("0123", "4567"),
    owed=(Owed(kind="index", about={"kind": "hnsw", "recall_wanted": 0.9}),),
)


def test_a_manifest_comes_back_as_it_was() -> None:
    assert from_json(to_json(WHOLE)) == WHOLE
    assert (WHOLE.stored, WHOLE.deleted, WHOLE.rows) == (6, 3, 3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m["shards"][0]["deleted"].update(rows=5), "of 4 rows .* it has 5 deleted"),
        (lambda m: m["shards"][0]["deleted"].update(rows=0), "of 4 rows .* it has 0 deleted"),
        (lambda m: m["shards"][1].update(folder="shards/000001"), "it lists a shard twice"),
        (lambda m: m["shards"][1].update(folder="../000001"), "outside the gallery"),
        (lambda m: m["shards"][0]["deleted"].update(file="/etc/passwd"), "outside the gallery"),
        (lambda m: m["shards"][0]["files"].update({"../x": {}}), "outside the gallery"),
        (lambda m: m["previous"].update(file="../manifest-000008.json"), "not a manifest"),
        (lambda m: m.update(generation=-1), "-1 where a count"),
        (lambda m: m.update(generation=True), "True where a count"),
        (lambda m: m.update(next_item=2**62 + 1), "where a count"),
        (lambda m: m["shards"][0].update(rows=2**48 + 1), "where a count"),
        (lambda m: m["shards"][0].update(first_item=-1), "where a count"),
        (lambda m: m.update(dim=0), "vectors of 0 dimensions"),
        (lambda m: m.update(dtype="float64"), "in float64"),
        (lambda m: m.update(created="0001-01-01T00:00:00+14:00"), "before the year 1"),
    ],
)
def test_what_cannot_be_is_refused(change: Callable[[Any], object], words: str) -> None:
    told = to_json(WHOLE)
    change(told)
    with pytest.raises(ValueError, match=words):
        from_json(told)


def test_all_rows_of_a_shard_may_be_deleted_and_ids_end_at_their_limit() -> None:
    told: Any = to_json(WHOLE)
    told["shards"][0]["deleted"]["rows"] = 4
    told["next_item"] = 2**62
    assert (from_json(told).rows, from_json(told).next_item) == (2, 2**62)
