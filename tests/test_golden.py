"""A gallery of format version 1, written once (data/make_golden.py): it must stay readable."""

import hashlib
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reid_index import Fingerprint, Gallery, Metric, verify_gallery

GOLDEN = Path(__file__).parent / "data" / "format_v1"

SHA256 = {
    "CURRENT": "b88b1caaec2aaf3d64835a48ed5d60123d3d4ba2d9b1704359dd2b5b74b9208b",
    "manifest-000000.json": "3d3b93d38fd897402e8920d5417a0a84ebfe80a0dd3baa9201b447564ca9f7bc",
    "manifest-000001.json": "bce124c8de06b82989a1842091cb72416ccd8b6e122eb6ef925ff4b5c9033215",
    "manifest-000002.json": "18c8f802fa26c69a5977c0826210aae60380d87d7c78181ff3f8fd35e982657f",
    "shards/000001/items.parquet": (
        "f76d9851a48c507c7ef8fb3594dcc20d8a049988f2f52373e80cc10999af0b44"
    ),
    "shards/000001/shard.json": "33520e45cfe82a6ac1af0a71e30fdafd05d1f4d807cc8483fb1deeb2fde8d0df",
    "shards/000001/vectors.h5": "b6ac01b5582eca283d238c57dd8d9349bb11c94e001f09eb7510a7ca01c73586",
    "shards/000002/items.parquet": (
        "fd27e919a33f402c55338d7c7a214698bd9cf9162d5293ff87cb3fa8391a7987"
    ),
    "shards/000002/shard.json": "5761284aa53a4e3f589c7d0e34c8f7c7e0551121b34f3747c613376181184791",
    "shards/000002/vectors.h5": "7791e5f05bc72b333bbfede33bea081a995eb38036f49c8b5efb1f611f621642",
}

DIRECTIONS = [[0, 0, 2, 4], [-4, -3, 3, 4], [-2, -2, 3, -1], [-2, 3, -2, -1], [1, 0, -4, -4]]

ITEMS: list[dict[str, Any]] = [
    {
        "item": 0,
        "source": "a/0001.png",
        "camera": 1,
        "person": "ann",
        "start": datetime(2024, 5, 1, 12, 0, 0, 250_000, tzinfo=UTC),
        "end": datetime(2024, 5, 1, 12, 0, 1, tzinfo=UTC),
        "box": [1, 2.5, 30, 60],
        "attr.hat": "yes",
        "attr.hat.confidence": 0.75,
        "in_store": True,
        "tags": ["bag", "cap"],
    },
    {
        "item": 1,
        "source": "a/0002.png",
        "camera": 2,
        "person": "Zoë",
        "track": "t7",
        "attr.hat": "no",
        "in_store": False,
        "tags": [],
    },
    {"item": 2},
    {
        "item": 10,
        "video": "v.mp4",
        "start_s": 1.5,
        "end_s": 2.0,
        "frame_first": 45,
        "frame_last": 60,
        "age": 33,
    },
    {"item": 12, "camera": 2},
]


@pytest.fixture
def golden() -> Gallery:
    return Gallery.open(GOLDEN)


def test_no_byte_has_changed() -> None:
    found = {
        str(path.relative_to(GOLDEN)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in GOLDEN.rglob("*")
        if path.is_file() and path.name != "lock"
    }
    assert found == SHA256


def test_it_is_whole(golden: Gallery) -> None:
    assert verify_gallery(golden) == []


def test_its_properties(golden: Gallery) -> None:
    assert (golden.manifest.generation, golden.manifest.next_item) == (2, 13)
    assert (golden.metric, golden.dim, golden.manifest.dtype) == (Metric.COSINE, 4, "float32")
    assert golden.manifest.recipe == {"extractor": "golden", "batch": 8}
    assert golden.fingerprint == Fingerprint(
        name="golden",
        version="1",
        weights_sha256="0" * 64,
        height=256,
        width=128,
        interpolation="bilinear",
        color_order="RGB",
        scale=1 / 255,
        mean=(0.5, 0.25, 0.125),
        std=(0.5, 0.5, 0.25),
        flip=True,
        pooling="mean",
    )


def test_its_items(golden: Gallery) -> None:
    known = [
        {name: value for name, value in item.items() if value is not None}
        for item in golden.items.to_pylist()
    ]
    assert known == ITEMS
    assert [golden.root_of(row) for row in range(5)] == ["/golden/crops"] * 3 + [""] * 2


def test_its_vectors(golden: Gallery) -> None:
    lengths = np.linalg.norm(DIRECTIONS, axis=1, keepdims=True)
    assert golden.vectors(range(5)).tolist() == (DIRECTIONS / lengths).astype(np.float32).tolist()


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (
            None,
            {
                0: 0.8981462121009827,
                1: 0.3872983455657959,
                2: -0.04303313419222832,
                10: -0.25819891691207886,
                12: -0.8581163287162781,
            },
        ),
        ("camera = 2", {1: 0.3872983455657959, 12: -0.8581163287162781}),
        ("\"attr.hat\" = 'yes'", {0: 0.8981462121009827}),
        ("start < '2024-05-01T12:00:01'", {0: 0.8981462121009827}),
        ("age > 30", {10: -0.25819891691207886}),
    ],
)
def test_its_answers(golden: Gallery, where: str | None, expected: dict[int, float]) -> None:
    matches = golden.search([1, 2, 3, 4], where=where).matches
    assert [match.item for match in matches] == list(expected)
    similarities = [match.similarity for match in matches]
    np.testing.assert_allclose(similarities, list(expected.values()), rtol=0, atol=1e-7)


def test_rows_can_be_added_to_it(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN, tmp_path / "g")
    gallery = Gallery.open(tmp_path / "g")
    gallery.add([[1, 2, 3, 4]], [{"camera": 7, "age": 5}])
    assert [match.item for match in gallery.search([1, 2, 3, 4], k=2).matches] == [13, 0]
    assert verify_gallery(Gallery.open(tmp_path / "g")) == []
