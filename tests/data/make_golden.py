"""Wrote format_v1, the gallery that every later version must read. Kept to show how; run it only
for a new format, into a new folder:

    python tests/data/make_golden.py tests/data/format_vN
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np

from reid_index import Fingerprint, Gallery


def make_golden(path: Path) -> None:
    """Two shards of 3 and 2 float32 vectors of 4 dimensions, under cosine."""
    fingerprint = Fingerprint(
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
    gallery = Gallery.create(
        path, dim=4, fingerprint=fingerprint, recipe={"extractor": "golden", "batch": 8}
    )
    rng = np.random.default_rng(1)
    gallery.add(rng.integers(-4, 5, size=(3, 4)), _first_items(), root="/golden/crops")
    gallery.add(rng.integers(-4, 5, size=(2, 4)), _second_items())


def _first_items() -> list[dict[str, Any]]:
    return [
        {
            "source": "a/0001.png",
            "camera": 1,
            "person": "ann",
            "start": "2024-05-01T12:00:00.250Z",
            "end": "2024-05-01T14:00:01+02:00",
            "box": [1, 2.5, 30, 60],
            "attr.hat": "yes",
            "attr.hat.confidence": 0.75,
            "in_store": True,
            "tags": ["bag", "cap"],
        },
        {
            "source": "a/0002.png",
            "camera": 2,
            "person": "Zoë",
            "track": "t7",
            "attr.hat": "no",
            "in_store": False,
            "tags": [],
        },
        {"source": None},
    ]


def _second_items() -> list[dict[str, Any]]:
    return [
        {
            "item": 10,
            "video": "v.mp4",
            "start_s": 1.5,
            "end_s": 2.0,
            "frame_first": 45,
            "frame_last": 60,
            "age": 33,
        },
        {"item": 12, "camera": 2, "age": None},
    ]


if __name__ == "__main__":
    make_golden(Path(sys.argv[1]))
