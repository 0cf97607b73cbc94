"""What fuzzing begins with: small real files of every kind that this project reads, made anew in a
temporary folder."""

import csv
import hashlib
import io
import json
from pathlib import Path
from random import Random
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from reid_index import Fingerprint, Gallery, Metric
from reid_index.files import json_bytes
from reid_index.matcher import ALIGNED, COATTENTION, Matcher
from reid_index.store.frames import SegmentFrames
from reid_index.store.shard import write_shard
from reid_index.store.vectors import ArrayStream

ROWS, DIM = 40, 8
FINGERPRINT = Fingerprint(name="external:fuzz", version="1", mean=(0.5, 0.5), scale=1 / 255)
PARQUET: tuple[dict[str, Any], ...] = (
    {"compression": "zstd"},
    {"compression": "none", "store_schema": False},
    {"compression": "snappy", "store_schema": False, "data_page_version": "2.0"},
    {"compression": "none", "use_dictionary": False, "row_group_size": 11},
)
"""Ways to write one table."""


def vectors(rows: int = ROWS, dim: int = DIM) -> NDArray[np.float32]:
    """Vectors of length 1, the same each time."""
    drawn = np.random.default_rng(0).normal(size=(rows, dim)).astype(np.float32)
    return np.asarray(drawn / np.linalg.norm(drawn, axis=1, keepdims=True), np.float32)


def items(rows: int = ROWS) -> pa.Table:
    """Items with a column of every type that can be filtered on."""
    at = range(rows)
    return pa.table(
        {
            "source": [f"day/{row:03d}.jpg" for row in at],
            "video": ["hall.mp4" if row % 2 else None for row in at],
            "camera": pa.array([row % 4 for row in at], pa.int32()),
            "person": [str(row // 4) for row in at],
            "track": [str(row // 2) for row in at],
            "start": [f"2024-05-01T12:{row % 60:02d}:00Z" for row in at],
            "start_s": [row / 4 for row in at],
            "frame_first": list(at),
            "frame_last": [row + 3 for row in at],
            "box": [[1.0, 2.0, 3.0, float(row + 1)] if row % 3 else None for row in at],
            "attr.upper": [("red", "blue", None)[row % 3] for row in at],
            "attr.upper.confidence": [row / rows for row in at],
            "tags": [["a", "b", None][: row % 4] if row % 5 else None for row in at],
            "indoors": [row % 2 == 0 if row % 7 else None for row in at],
            "weight": [float("nan") if row % 9 == 0 else row / 3 for row in at],
        }
    )


def said(rows: int = ROWS) -> pa.Table:
    """Attributes of the items of `make_gallery`, of every kind."""
    at = range(rows)
    return pa.table(
        {
            "item": list(at),
            "attr.upper": [("red", None, "green")[row % 3] for row in at],
            "attr.upper.confidence": pa.array([row / rows for row in at], pa.float32()),
            "attr.colors": [["a", "b", "c"][: row % 3] for row in at],
        }
    )


def any_table(rng: Random) -> pa.Table:
    """A sound table whose columns have types that they should not have."""
    rows = ROWS
    numbers = pa.array([rng.choice((0, 1, 7, None)) for _ in range(rows)], pa.int64())
    made: list[pa.Array] = [
        *(numbers.cast(kind) for kind in (pa.uint64(), pa.int8(), pa.float16(), pa.bool_())),
        *(numbers.cast(kind) for kind in (pa.timestamp("ns"), pa.time64("us"), pa.duration("s"))),
        *(numbers.cast(kind) for kind in (pa.date64(), pa.decimal128(30, 2), pa.string())),
        numbers.cast(pa.string()).cast(pa.binary()),
        numbers.cast(pa.string()).dictionary_encode(),
        pa.array([[1.0, 2.0, 3.0, 4.0]] * rows, pa.list_(pa.float32(), 4)),
        pa.array([[rng.random()] * rng.randrange(6) for _ in range(rows)]),
        pa.array([{"a": 1}] * rows),
        pa.array([[["x"]]] * rows),
        pa.array([[("k", 1)]] * rows, pa.map_(pa.string(), pa.int64())),
        pa.nulls(rows),
    ]
    names = rng.sample([*items().column_names, "item", "attr.x", "y.confidence"], 6)
    return pa.table({name: rng.choice(made) for name in names})


def parquet(table: pa.Table, ways: tuple[dict[str, Any], ...] = PARQUET) -> list[bytes]:
    """The table's file in each of the ways."""
    files = []
    for way in ways:
        buffer = io.BytesIO()
        pq.write_table(table, buffer, **way)
        files.append(buffer.getvalue())
    return files


def make_shard(folder: Path) -> None:
    """A shard with every array."""
    arrays: dict[str, NDArray[Any]] = {
        "global": vectors(),
        "parts": vectors(ROWS * 2).reshape(ROWS, 2, DIM),
        "visible": np.ones((ROWS, 2), np.uint8),
    }
    write_shard(
        folder / "shard",
        arrays={name: ArrayStream.of(array) for name, array in arrays.items()},
        items=[items()],
        fingerprint=FINGERPRINT,
        metric=Metric.COSINE,
        root="/nowhere",
    )


def make_gallery(folder: Path) -> None:
    """A gallery of two shards, a row of one deleted, two overlays, with graph and calibration."""
    from reid_index.evaluation.calibration import calibrate, write_calibration
    from reid_index.reranking.rerank import Reranking

    gallery = Gallery.create(folder / "g", dim=DIM, fingerprint=FINGERPRINT)
    gallery.add(vectors()[:25], items().slice(0, 25), key="first")
    gallery.add(vectors()[25:], items().slice(25))
    gallery.set_attributes(said(), origin="model m 1 0123456789ab")
    gallery.set_attributes(said().slice(0, 9), origin="person")
    gallery.delete(items=[3])
    write_calibration(gallery, calibrate(gallery, false_match_rate=0.1))
    # Compiles what searches take, which is kept and then costs no case its time: with a graph that
    # is made for the query, and with one that is kept.
    gallery.search(vectors()[1], k=3, rerank=Reranking(k1=5, k2=2))
    gallery.build_graph(Reranking(k1=5, k2=2))
    gallery.search(vectors()[0], k=3, where="camera != 1")
    gallery.search(vectors()[1], k=3, rerank=Reranking(k1=5, k2=2))
    gallery.close()


KEY = 3
"""Numbers in a key and an index vector; values have DIM."""


def segment_frames(rows: int = ROWS) -> SegmentFrames:
    """Frames of segments that have one to four, the same each time."""
    rng = np.random.default_rng(1)
    offset = np.concatenate([[0], np.cumsum(np.arange(rows) % 4 + 1)])

    def drawn(*shape: int) -> NDArray[np.float32]:
        return rng.normal(size=shape).astype(np.float32)

    frames = int(offset[-1])
    return SegmentFrames(
        index=drawn(rows, KEY), key=drawn(frames, KEY), value=drawn(frames, DIM), offset=offset
    )


def make_coattention(folder: Path) -> None:
    """A gallery of segments with frames, in two shards, a row of one deleted."""
    matcher = Matcher(name=COATTENTION, head=(-0.5,) * DIM, bias=1.0)
    frames, table = segment_frames(), items()
    texts = [[f"{n}@{n / 8}:1,2,3,4" for n in range(row % 4 + 1)] for row in range(ROWS)]
    table = table.append_column("frames", pa.array(texts, pa.list_(pa.string())))
    recipe = {"segments": {"length": 4, "stride": 2}}
    made = {"dim": DIM, "fingerprint": FINGERPRINT, "matcher": matcher, "recipe": recipe}
    with Gallery.create(folder / "g", **made) as gallery:
        for rows in (np.arange(25), np.arange(25, ROWS)):
            gallery.add(vectors()[rows], table.take(pa.array(rows)), frames=frames.take(rows))
        gallery.delete(items=[3])
        # As above.
        gallery.search_videos(vectors()[:3], index=frames.index[:3])


def make_aligned(folder: Path) -> None:
    """A gallery of crops with parts, in two shards, a row of one deleted."""
    parts = vectors(ROWS * 2).reshape(ROWS, 2, DIM)
    made = {"dim": DIM, "fingerprint": FINGERPRINT, "matcher": Matcher(name=ALIGNED, weight=0.5)}
    with Gallery.create(folder / "g", **made) as gallery:
        for some in (slice(0, 25), slice(25, ROWS)):
            table = items().slice(some.start, some.stop - some.start)
            gallery.add(vectors()[some], table, parts=parts[some])
        gallery.delete(items=[3])
        # As above.
        gallery.search(vectors()[0], parts=parts[0], k=3)


def sign(gallery: Path) -> None:
    """Have the manifest tell the sizes and sha256 of the files as they are now, and CURRENT that
    of the manifest, so that what is behind the checksums is reached."""
    name = json.loads((gallery / "CURRENT").read_bytes())["manifest"]
    manifest = json.loads((gallery / name).read_bytes())
    for listed in (*manifest["shards"], *manifest["attached"]):
        for file, entry in listed["files"].items():
            _tell(entry, gallery / listed["folder"] / file)
        if isinstance(listed.get("deleted"), dict):
            _tell(listed["deleted"], gallery / listed["deleted"]["file"])
    for overlay in manifest["overlays"]:
        _tell(overlay, gallery / overlay["file"])
    (gallery / name).write_bytes(json_bytes(manifest))
    sign_manifest(gallery)


def sign_manifest(gallery: Path) -> None:
    """Have CURRENT tell the sha256 of the manifest as it is now."""
    current = json.loads((gallery / "CURRENT").read_bytes())
    current["sha256"] = hashlib.sha256((gallery / current["manifest"]).read_bytes()).hexdigest()
    (gallery / "CURRENT").write_bytes(json_bytes(current))


def _tell(entry: dict[str, Any], path: Path) -> None:
    content = path.read_bytes()
    entry["bytes"], entry["sha256"] = len(content), hashlib.sha256(content).hexdigest()


def hdf5_files(folder: Path) -> list[bytes]:
    """Vectors in HDF5 as h5py writes them in several ways."""
    ways: tuple[dict[str, Any], ...] = (
        {},
        {"chunks": (8, 4), "compression": "gzip"},
        {"dtype": ">f2"},
        {"maxshape": (None, DIM)},
    )
    files = []
    for number, way in enumerate(ways):
        path = folder / f"{number}.h5"
        libver = "latest" if number % 2 else "earliest"
        with h5py.File(path, "w", libver=libver) as file:
            file.create_dataset("global", data=vectors(), **way)
            file.create_dataset("visible", data=np.ones((ROWS, 2), np.uint8))
            file["soft"] = h5py.SoftLink("/global")
            file.create_group("more").attrs["word"] = "text"
        files.append(path.read_bytes())
    return files


def pictures() -> list[bytes]:
    """A small picture in every format that is decoded, with metadata, frames and palettes."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (24, 16, 3), np.uint8)
    image = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[274] = 6
    exif[271] = "maker"
    ways: tuple[tuple[Image.Image, str, dict[str, Any]], ...] = (
        (image, "JPEG", {"exif": exif, "quality": 70}),
        (image, "JPEG", {"progressive": True}),
        (image.convert("CMYK"), "JPEG", {}),
        (image, "PNG", {"exif": exif}),
        (image.convert("P"), "PNG", {"transparency": 3}),
        (Image.fromarray(rng.integers(0, 65535, (24, 16), np.uint16)), "PNG", {}),
        (image.convert("RGBA"), "WEBP", {"lossless": True, "exif": exif}),
        (image, "WEBP", {"save_all": True, "append_images": [image, image]}),
        (image, "BMP", {}),
        (image.convert("P"), "BMP", {}),
        (image.convert("P"), "GIF", {"save_all": True, "append_images": [image.convert("P")]}),
        (image, "TIFF", {"compression": "tiff_lzw", "exif": exif}),
        (image, "TIFF", {"compression": "tiff_deflate"}),
        (image.convert("1"), "TIFF", {"compression": "group4"}),
        (image, "PPM", {}),
    )
    files = []
    for one, kind, options in ways:
        buffer = io.BytesIO()
        one.save(buffer, kind, **options)
        files.append(buffer.getvalue())
    return files


CARD = {
    **{"height": 32, "width": 16, "color_order": "BGR", "scale": 1 / 255, "dim": 3},
    **{"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3], "interpolation": "bicubic"},
}


def onnx_model() -> bytes:
    """A network of a convolution and an average, as ONNX."""
    from onnx import TensorProto, helper, numpy_helper

    weights = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["c"], ["r"]),
            helper.make_node("GlobalAveragePool", ["r"], ["p"]),
            helper.make_node("Flatten", ["p"], ["y"]),
        ],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", 3, 32, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B", 4])],
        [numpy_helper.from_array(weights, "w")],
    )
    opsets = [helper.make_opsetid("", 17)]
    model: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
    return model


def box_files() -> list[bytes]:
    """Boxes as COCO JSON, MOTChallenge text and CSV."""
    coco = {
        "images": [{"id": at, "file_name": f"{at:06d}.jpg"} for at in range(1, 4)],
        "categories": [{"id": 1, "name": "person"}, {"id": 2, "name": "dog"}],
        "annotations": [
            *({"image_id": at, "bbox": [at, 2, 3.5, 4], "category_id": 1} for at in range(1, 4)),
            {"image_id": 1, "bbox": [1, 2, 3, 4], "category_id": 1, "track_id": 7, "iscrowd": 0},
        ],
    }
    mot = "".join(f"{at},{at},{at}.5,2,30,60,1,1,0.9\n" for at in range(1, 4))
    table = (
        "file,x,y,w,h,track,frame,person,camera\n000001.jpg,1,2,3,4,t,1,p,2\na/b.jpg,1,2,3,4,,,,"
    )
    return [json.dumps(coco).encode(), mot.encode(), table.encode()]


def list_files(folder: Path) -> list[bytes]:
    """Lists of pictures with item columns, and of pairs of items, as CSV and Parquet."""
    files = []
    listed = items(6).drop_columns(["source", "tags", "box"])
    listed = listed.append_column("file", pa.array([f"day/{at % 3:03d}.jpg" for at in range(6)]))
    for name in ("x", "y", "w", "h"):
        listed = listed.append_column(name, pa.array([1.5] * 6))
    pairs = pa.table({"a": [0, 1, 2], "b": [4, 5, 6], "same": [1, 0, 1]})
    for table in (listed, pairs):
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(table.column_names)
        writer.writerows(zip(*table.to_pydict().values(), strict=True))
        files += [text.getvalue().encode(), parquet(table)[0]]
    return files
