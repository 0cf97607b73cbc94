"""Wrote the golden galleries, which every later version must read. Each was written once, by the
code of its format's time; kept to show how. From the repository's root, with that code in OLD:

    PYTHONPATH=OLD:tests python tests/data/make_golden.py FORMAT tests/data/FOLDER

FORMAT is 1.0, 1.1, …; the folder's name says which of the galleries of a format is meant (see
golden_world.py). Run it for a new format only, into a new folder.
"""

import os
import sys
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # Faiss's graphs depend on the order of additions

import golden_world as world
import numpy as np

from reid_index import Fingerprint, Gallery

FINGERPRINT = Fingerprint(
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
RECIPE = {"extractor": "golden", "batch": 8}


def make_1_0(path: Path) -> None:
    """Two shards of 3 and 2 float32 vectors of 4 dimensions, under cosine."""
    gallery = Gallery.create(path, dim=4, fingerprint=FINGERPRINT, recipe=RECIPE)
    rng = np.random.default_rng(1)
    gallery.add(rng.integers(-4, 5, size=(3, 4)), _first_items(), root="/golden/crops")
    gallery.add(rng.integers(-4, 5, size=(2, 4)), _second_items())


def make_1_1(path: Path) -> None:
    """A graph and a calibration of two shards; if it is to be stale, a third shard after them."""
    gallery = _created(path, metric="cosine", dtype="float32")
    _add(gallery, 0, 14)
    _add(gallery, 14, 24)
    _attach_graph(gallery, k1=4, k2=2)
    _attach_calibration(gallery)
    if path.name.endswith("stale"):
        _add(gallery, 24, 27)


def make_1_2(path: Path) -> None:
    """A calibration, an index and, beside short codes, a graph of two shards; beside a graph of
    Faiss, of the first of them alone."""
    from reid_index.search import index_build

    index_build._LINKS = 4  # an eighth of what is usual: a small folder
    gallery = _created(path, metric="euclidean", dtype="float16")
    kind = path.name.rpartition("_")[2]
    _add(gallery, 0, 1000)
    if kind == "ivf-pq":
        _add(gallery, 1000, 1020)
        _attach_graph(gallery, k1=2, k2=1)
    _attach_calibration(gallery)
    gallery.build_index(kind, recall=0.9)
    if kind == "hnsw":
        _add(gallery, 1000, 1020)


def make_1_3(path: Path) -> None:
    """A gallery with a past: items deleted and compacted away, after which what was attached was
    made again; more added by a key; and of old and new ones some deleted since. The graph is of
    what is left, the calibration of what there was before that, and the index knows nothing of
    the last addition."""
    gallery = _created(path, metric="cosine", dtype="float16")
    _add(gallery, 0, 1000)
    _add(gallery, 1000, 1012, key="the second night")
    _attach_calibration(gallery)
    gallery.build_index("ivf-pq", recall=0.9)
    gallery.delete(where="camera = 2 AND start < '2024-05-01T12:00:02'")
    gallery.compact()
    _add(gallery, 1012, 1020, key="the third night")
    gallery.delete(items=[700, 1015])
    _attach_graph(gallery, k1=1, k2=2)
    gallery.close()


def make_1_4(path: Path) -> None:
    """A gallery whose items are compared by their parts, too: items compacted away, others added
    and deleted since. The calibration is of what there was before these."""
    from reid_index import Matcher

    gallery = _created(
        path, metric="cosine", dtype="float32", matcher=Matcher(name="aligned", weight=0.5)
    )
    for start, stop in ((0, 14), (14, 24)):
        _add_with_parts(gallery, start, stop, key="the second night" if start else None)
    _attach_calibration(gallery)
    gallery.delete(items=[3, 9])
    gallery.compact()
    _add_with_parts(gallery, 24, 29)
    gallery.delete(items=[26])
    gallery.close()


def make_1_5(path: Path) -> None:
    """A gallery of segments, which are compared by their frames, too: items compacted away, others
    added and deleted since. The calibration is of what there was before these."""
    from reid_index import Matcher

    matcher = Matcher(name="coattention", head=world.HEAD, bias=1.5)
    gallery = _created(path, metric="cosine", dtype="float16", matcher=matcher)
    _add_segments(gallery, 0, 14)
    _add_segments(gallery, 14, 24, key="the second night")
    _attach_calibration(gallery)
    gallery.delete(items=[3, 9])
    gallery.compact()
    _add_segments(gallery, 24, 29)
    gallery.delete(items=[26])
    gallery.close()


def make_1_6(path: Path) -> None:
    """A gallery of which something was said later: by a model, before items were compacted away,
    then of others that were added, and by a person; one of these was deleted since."""
    gallery = _created(path, metric="cosine", dtype="float32")
    _add(gallery, 0, 14)
    _add(gallery, 14, 24, key="the second night")
    _attach_calibration(gallery)
    _say(gallery, range(24), world.by_model, origin=world.MODEL)
    gallery.delete(items=[3, 9])
    gallery.compact()
    _add(gallery, 24, 29)
    _say(gallery, range(24, 29), world.by_model, origin=world.MODEL)
    _say(gallery, [number for number in range(29) if number not in (3, 9)], world.by_person)
    gallery.delete(items=[26])
    gallery.close()


def _say(gallery: Gallery, numbers: Any, say: Any, *, origin: str = "person") -> None:
    said = [{"item": n, **say(n)} for n in numbers if say(n) is not None]
    gallery.set_attributes(said, origin=origin)


def _add_segments(gallery: Gallery, start: int, stop: int, **options: Any) -> None:
    from reid_index import SegmentFrames

    made = [world.frames(number) for number in range(start, stop)]
    frames = SegmentFrames(
        index=np.array([index for index, _, _ in made], np.float32),
        key=np.array([key for _, keys, _ in made for key in keys], np.float32),
        value=np.array([value for _, _, values in made for value in values], np.float32),
        offset=np.cumsum([0, *(len(keys) for _, keys, _ in made)]),
    )
    numbers = range(start, stop)
    gallery.add(
        [world.vector(number) for number in numbers],
        [world.item_of_segment(number) for number in numbers],
        frames=frames,
        root=world.ROOT,
        **options,
    )


def _add_with_parts(gallery: Gallery, start: int, stop: int, **options: Any) -> None:
    parts = [world.parts(number) for number in range(start, stop)]
    _add(gallery, start, stop, parts=parts, **options)


def _created(path: Path, *, metric: str, dtype: str, **options: Any) -> Gallery:
    return Gallery.create(
        path, dim=4, fingerprint=FINGERPRINT, recipe=RECIPE, metric=metric, dtype=dtype, **options
    )


def _add(gallery: Gallery, start: int, stop: int, **options: Any) -> None:
    numbers = range(start, stop)
    vectors = [world.vector(number) for number in numbers]
    gallery.add(vectors, [world.item(number) for number in numbers], root=world.ROOT, **options)


def _attach_graph(gallery: Gallery, *, k1: int, k2: int) -> None:
    from reid_index import Reranking

    gallery.build_graph(Reranking(k1=k1, k2=k2))


def _attach_calibration(gallery: Gallery) -> None:
    from reid_index.evaluation.calibration import calibrate, write_calibration

    write_calibration(gallery, calibrate(gallery, false_match_rate=world.RATE))


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


def main(version: str, path: Path) -> None:
    """Write the gallery of that format with the code that is imported, which must be of it."""
    from reid_index.store.shard import FORMAT

    if version != ".".join(map(str, FORMAT)):
        sys.exit(f"the code that is imported writes format {FORMAT}, not {version}")
    make = {
        "1.0": make_1_0,
        "1.1": make_1_1,
        "1.2": make_1_2,
        "1.3": make_1_3,
        "1.4": make_1_4,
        "1.5": make_1_5,
        "1.6": make_1_6,
    }
    make[version](path)
    (path / "lock").unlink()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
