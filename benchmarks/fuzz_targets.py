"""What is fuzzed: for each reader of this project, files to begin with and one damaged reading."""

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from random import Random

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmarks import fuzz_worlds as worlds
from benchmarks.fuzz_mutate import bytes_of, expression, json_of, text_of
from reid_index.errors import ReidIndexError
from reid_index.files import json_bytes

Case = Callable[[Random], object]


@dataclass(frozen=True)
class Target:
    """A reader. make: fills a folder with what `start` needs. start: what one case does there; it
    damages something by the generator and reads it. needs: packages. share: of cases, where most
    have 1."""

    name: str
    make: Callable[[Path], None]
    start: Callable[[Path], Case]
    needs: tuple[str, ...] = ()
    share: float = 1.0

    @property
    def missing(self) -> list[str]:
        """The packages that are not there."""
        return [name for name in self.needs if find_spec(name) is None]


def _nothing(folder: Path) -> None:
    pass


def _some_bytes_or_json(content: bytes, rng: Random) -> bytes:
    """A JSON file damaged: mostly so that it stays JSON."""
    return json_of(json.loads(content), rng) if rng.random() < 0.8 else bytes_of(content, rng)


# Expressions


def _where(folder: Path) -> Case:
    from reid_index.filters.columns import Columns
    from reid_index.filters.where import compile_where
    from reid_index.store.items import conform

    table = conform(worlds.items())
    columns = Columns(table)

    def case(rng: Random) -> None:
        text = expression(table.column_names, rng)
        if rng.random() < 0.4:
            text = text_of(text, rng)
        if rng.random() < 0.1:
            text = bytes_of(text.encode(errors="replace"), rng).decode(errors="surrogateescape")
        where = compile_where(text)
        plain, prepared = where.mask(table), columns.mask(where)
        assert plain.dtype == bool
        assert np.array_equal(plain, prepared)

    return case


# Shards and galleries


def _read_shard(folder: Path) -> None:
    from reid_index.store.shard import open_shard

    shard = open_shard(folder)
    assert len(shard.columns) >= 13
    for array in shard.arrays.values():
        array.tobytes()
    for piece in shard.pieces("global"):
        piece.tobytes()
    shard.items.to_pylist()


def _header(folder: Path) -> Case:
    path = folder / "shard" / "shard.json"
    content = path.read_bytes()

    def case(rng: Random) -> None:
        path.write_bytes(_some_bytes_or_json(content, rng))
        _read_shard(path.parent)

    return case


def _items(folder: Path) -> Case:
    from reid_index.store.items import conform

    path = folder / "shard" / "items.parquet"
    files = [path.read_bytes(), *worlds.parquet(conform(worlds.items()))]

    def case(rng: Random) -> None:
        if rng.random() < 0.2:
            content = worlds.parquet(worlds.any_table(rng), worlds.PARQUET[:1])[0]
        else:
            content = bytes_of(rng.choice(files), rng, others=files)
        path.write_bytes(content)
        _read_shard(path.parent)

    return case


def _vectors(folder: Path) -> Case:
    path = folder / "shard" / "vectors.h5"
    files = [path.read_bytes(), *worlds.hdf5_files(folder)]

    def case(rng: Random) -> None:
        path.write_bytes(bytes_of(rng.choice((files[0], *files)), rng, others=files))
        _read_shard(path.parent)

    return case


def _use_gallery(path: Path, _rng: Random) -> None:
    from reid_index import Gallery, Reranking
    from reid_index.evaluation.calibration import read_calibration
    from reid_index.upkeep.verify import verify_gallery

    with Gallery.open(path) as gallery:
        gallery.search(worlds.vectors()[0], k=3, where="camera != 1")
        gallery.search(worlds.vectors()[1], k=3, rerank=Reranking(k1=5, k2=2))
        gallery.items.to_pylist()
        assert len(gallery.history()) > 0
        calibration = read_calibration(gallery)
        if calibration is not None:
            json.dumps(calibration.to_json())
        gallery.has_added("second")
        verify_gallery(gallery)


def _manifest(folder: Path) -> Case:
    gallery = folder / "g"
    current = gallery / "CURRENT"
    manifest = gallery / json.loads(current.read_bytes())["manifest"]
    sound = {path: path.read_bytes() for path in (current, manifest)}

    def case(rng: Random) -> None:
        for path, content in sound.items():
            path.write_bytes(content)
        if rng.random() < 0.2:
            current.write_bytes(_some_bytes_or_json(sound[current], rng))
        else:
            manifest.write_bytes(_some_bytes_or_json(sound[manifest], rng))
            if rng.random() < 0.95:
                worlds.sign_manifest(gallery)
        _use_gallery(gallery, rng)

    return case


def _gallery(folder: Path) -> Case:
    return _any_file(folder, _use_gallery)


def _any_file(folder: Path, use: Callable[[Path, Random], object]) -> Case:
    """Any one file of a gallery, mostly with the sums made to fit."""
    gallery = folder / "g"
    sound = {path: path.read_bytes() for path in gallery.rglob("*") if path.is_file()}
    files = sorted(path for path, content in sound.items() if content)

    def case(rng: Random) -> None:
        for path, content in sound.items():
            path.write_bytes(content)
        path = rng.choice(files)
        is_json = path.suffix == ".json" or path.name == "CURRENT"
        damage = _some_bytes_or_json if is_json else bytes_of
        path.write_bytes(damage(sound[path], rng))
        if rng.random() < 0.9 and path.name != "CURRENT":
            (worlds.sign_manifest if "manifest" in path.name else worlds.sign)(gallery)
        use(gallery, rng)

    return case


def _use_coattention(path: Path, rng: Random) -> None:
    from reid_index import Gallery
    from reid_index.search.video_result import VideoResult
    from reid_index.upkeep.verify import verify_gallery

    target = worlds.segment_frames(3)
    with Gallery.open(path) as gallery:
        for options in ({"exact": True, "where": "camera != 1"}, {"k": 2, "shortlist": 4}):
            found = gallery.search_videos(worlds.vectors()[:3], index=target.index, **options)
            assert isinstance(found, VideoResult)
            assert all(np.isfinite(candidate.score) for candidate in found.candidates)
        gallery.items.to_pylist()
        _use_damaged_query(
            lambda query, index: gallery.search_videos(query, index=index),
            worlds.vectors()[:3],
            target.index,
            rng,
        )
        verify_gallery(gallery)


def _use_aligned(path: Path, rng: Random) -> None:
    from reid_index import Gallery
    from reid_index.upkeep.verify import verify_gallery

    parts = worlds.vectors(4).reshape(2, 2, worlds.DIM)
    with Gallery.open(path) as gallery:
        for shortlist in (None, 5):
            gallery.search(worlds.vectors()[0], k=3, parts=parts[0], shortlist=shortlist)
        gallery.search_videos(worlds.vectors()[:2], k=3)
        _use_damaged_query(
            lambda query, its_parts: gallery.search(query, parts=its_parts),
            worlds.vectors()[:2],
            parts,
            rng,
        )
        verify_gallery(gallery)


def _use_damaged_query(
    ask: Callable[[NDArray[np.float32], NDArray[np.float32]], object],
    query: NDArray[np.float32],
    beside: NDArray[np.float32],
    rng: Random,
) -> None:
    """A query of which one array is not as it should be; the gallery is sound enough to get here,
    so that a refusal is the query's."""
    some = [query.copy(), beside.copy()]
    at = rng.randrange(2)
    how = rng.randrange(5)
    if how == 0:
        some[at].flat[0] = rng.choice((np.nan, np.inf, -np.inf, 3e38))
    elif how == 1:
        some[at] = some[at][..., : rng.randrange(some[at].shape[-1])]
    elif how == 2:
        some[at] = some[at][: rng.randrange(len(some[at]))]
    elif how == 3:
        some[at] = some[at] * np.float32(rng.choice((0, 1e-30, 1e30)))
    else:
        some[at] = some[at][None] if rng.random() < 0.5 else some[at].ravel()
    with suppress(ReidIndexError):
        ask(*some)


def _coattention(folder: Path) -> Case:
    return _any_file(folder, _use_coattention)


def _aligned(folder: Path) -> Case:
    return _any_file(folder, _use_aligned)


def _overlay(folder: Path) -> Case:
    """An overlay, as Parquet, its sum made to fit; and what somebody has said."""
    from reid_index import Gallery
    from reid_index.store.overlays import said_of
    from reid_index.upkeep.verify import verify_gallery

    gallery = folder / "g"
    paths = sorted((gallery / "overlays").iterdir())
    sound = {path: path.read_bytes() for path in (*paths, *gallery.glob("*.json"))}
    current = (gallery / "CURRENT").read_bytes()
    files = [*(sound[path] for path in paths), *worlds.parquet(worlds.said())]

    def case(rng: Random) -> None:
        for path, content in sound.items():
            path.write_bytes(content)
        (gallery / "CURRENT").write_bytes(current)
        if rng.random() < 0.3:
            table, other = worlds.said(), worlds.any_table(rng)
            at = rng.randrange(table.num_columns)
            name = rng.choice(
                (table.column_names[at], "attr.x", "attr.x.origin", "attr.upper.origin")
            )
            table = table.set_column(at, name, other.column(rng.randrange(other.num_columns)))
            said_of(table)
            return
        if rng.random() < 0.2:
            content = worlds.parquet(worlds.any_table(rng), worlds.PARQUET[:1])[0]
        else:
            content = bytes_of(rng.choice(files), rng, others=files)
        rng.choice(paths).write_bytes(content)
        worlds.sign(gallery)
        with Gallery.open(gallery) as opened:
            opened.items.to_pylist()
            opened.search(worlds.vectors()[0], k=3, where="attr.colors = 'a'")
            verify_gallery(opened)

    return case


# Attachments


def _make_graph(folder: Path) -> None:
    from reid_index.reranking.graph import make_graph, write_graph
    from reid_index.reranking.rerank import Reranking

    graph = make_graph(
        worlds.vectors(), items=np.arange(worlds.ROWS), reranking=Reranking(k1=5, k2=2)
    )
    write_graph(folder, graph)


def _graph(folder: Path) -> Case:
    from reid_index.reranking.graph import read_graph
    from reid_index.reranking.rerank import Reranking
    from reid_index.reranking.rerank_query import QueryReranking

    sound = {name: (folder / name).read_bytes() for name in ("graph.json", "graph.h5")}
    numbers = np.arange(worlds.ROWS)

    def case(rng: Random) -> None:
        for name, content in sound.items():
            (folder / name).write_bytes(content)
        if rng.random() < 0.2:
            (folder / "graph.json").write_bytes(_some_bytes_or_json(sound["graph.json"], rng))
        else:
            (folder / "graph.h5").write_bytes(bytes_of(sound["graph.h5"], rng))
        graph = read_graph(folder, rows=worlds.ROWS)
        reranking = Reranking(k1=5, k2=2)
        if graph.fits(reranking):
            ready = QueryReranking(
                vectors=worlds.vectors(), items=numbers, graph=graph, reranking=reranking
            )
            ready.rerank(worlds.vectors()[0]).best(5, numbers, None)

    return case


_KINDS = ("ivf", "ivf-sq8", "ivf-pq", "hnsw", "hnsw-sq8")
_INDEXED = 300


def _make_index(folder: Path) -> None:
    from reid_index import Metric
    from reid_index.search.index import Effort, IndexFacts, Tuned, new_index, write_index

    effort = Effort(
        value=4,
        probe=2,
        fetch=2,
        agreement=0.5,
        rows_single=10.0,
        rows_batch=5.0,
        recall=0.9,
        accepted=0.8,
    )
    parameters = {"cells": 8, "codes": 2, "links": 8, "queue": 40}
    for kind in _KINDS:
        opened = new_index(kind, dim=worlds.DIM, metric=Metric.COSINE, parameters=parameters)
        if not opened.is_trained:
            opened.train(worlds.vectors(_INDEXED))
        opened.add(worlds.vectors(_INDEXED))
        facts = IndexFacts(
            kind=kind,
            rows=_INDEXED,
            dim=worlds.DIM,
            metric=Metric.COSINE,
            parameters=parameters,
            tuned=(Tuned(share=0.5, k=10, wanted=0.9, effort=effort),),
            batch_scan=0.5,
            build_seconds=1.0,
            tune_seconds=1.0,
            versions={"faiss": "1"},
        )
        (folder / kind).mkdir()
        write_index(folder / kind, opened, facts)


def _index_json(folder: Path) -> Case:
    return _index(folder, "index.json")


def _index_faiss(folder: Path) -> Case:
    return _index(folder, "index.faiss")


def _index(folder: Path, name: str) -> Case:
    from reid_index import Metric
    from reid_index.search.index import open_index

    vectors = worlds.vectors(_INDEXED)
    sound = {kind: (folder / kind / name).read_bytes() for kind in _KINDS}

    def case(rng: Random) -> None:
        kind = rng.choice(_KINDS)
        damage = _some_bytes_or_json if name == "index.json" else bytes_of
        path = folder / kind / name
        # A new file each time: one that is mapped must not change.
        path.unlink()
        path.write_bytes(damage(sound[kind], rng))
        index = open_index(
            path.parent,
            rows=_INDEXED,
            dim=worlds.DIM,
            metric=Metric.COSINE,
            take=lambda rows: vectors[rows],
        )
        effort = index.effort(share=1.0, recall=0.9, k=5)
        if effort is not None:
            found = index.search(vectors[:3], 5 * effort.fetch, effort=effort.value)
            assert found.max() < _INDEXED

    return case


def _make_receipt(folder: Path) -> None:
    from reid_index import Gallery

    gallery = Gallery.create(folder / "g", dim=worlds.DIM, fingerprint=worlds.FINGERPRINT)
    gallery.add(worlds.vectors(), worlds.items())
    gallery.delete(where="camera = 2", receipt=folder / "receipt.json")
    gallery.close()


def _summed(made: bytes) -> bytes:
    """A receipt with the checksum of what it says, so that this is looked at, too."""
    try:
        said = json.loads(made)
        rest = {name: value for name, value in said.items() if name != "sha256"}
        return json_bytes({**rest, "sha256": hashlib.sha256(json_bytes(rest)).hexdigest()})
    except (AttributeError, RecursionError, ValueError):
        return made


def _receipt(folder: Path) -> Case:
    from reid_index.erasure.receipt import is_erased, read_receipt

    path = folder / "receipt.json"
    content = path.read_bytes()

    def case(rng: Random) -> None:
        made = _some_bytes_or_json(content, rng)
        path.write_bytes(_summed(made) if rng.random() < 0.8 else made)
        is_erased([read_receipt(path)], "/nowhere/day/002.jpg")

    return case


# Sources


def _images(folder: Path) -> Case:
    from extractors.images import decode_image

    files = worlds.pictures()

    def case(rng: Random) -> None:
        crop = decode_image(bytes_of(rng.choice(files), rng, others=files), name="picture")
        assert crop.ndim == 3
        assert crop.shape[2] == 3

    return case


def _card(folder: Path) -> Case:
    from extractors.preprocess import read_card

    path = folder / "m.json"
    crop = np.random.default_rng(0).integers(0, 255, (20, 10, 3), np.uint8)

    def case(rng: Random) -> None:
        path.write_bytes(_some_bytes_or_json(json.dumps(worlds.CARD).encode(), rng))
        card = read_card(path)
        if card.height * card.width <= 2**16:
            assert np.isfinite(card.apply(crop)).all()

    return case


def _make_onnx(folder: Path) -> None:
    (folder / "sound.onnx").write_bytes(worlds.onnx_model())
    (folder / "m.json").write_bytes(json.dumps(worlds.CARD).encode())


def _onnx(folder: Path) -> Case:
    from extractors.onnx import OnnxExtractor

    content = (folder / "sound.onnx").read_bytes()
    crop = np.zeros((20, 10, 3), np.uint8)

    def case(rng: Random) -> None:
        (folder / "m.onnx").write_bytes(bytes_of(content, rng))
        OnnxExtractor(folder / "m.onnx").extract([crop])

    return case


def _boxes(folder: Path) -> Case:
    from extractors.boxes import boxes_by_source, read_boxes

    files = worlds.box_files()
    (folder / "img1").mkdir(exist_ok=True)
    for at in range(1, 4):
        (folder / "img1" / f"{at:06d}.jpg").touch()

    def case(rng: Random) -> None:
        content = rng.choice(files)
        path = folder / rng.choice(("boxes.txt", "boxes.json"))
        path.write_bytes(
            _some_bytes_or_json(content, rng) if content is files[0] else bytes_of(content, rng)
        )
        boxes_by_source(read_boxes(path, pictures=folder))

    return case


def _lists(folder: Path) -> Case:
    from extractors.pictures import find_pictures, read_items
    from reid_index.evaluation.pairs import read_pairs
    from reid_index.store.items import conform

    files = worlds.list_files(folder)
    known = conform(worlds.items().append_column("item", pa.array(range(worlds.ROWS))))

    def case(rng: Random) -> None:
        at = rng.randrange(len(files))
        path = folder / ("list.parquet" if at % 2 else "list.csv")
        path.write_bytes(bytes_of(files[at], rng, others=files))
        if at < 2:
            source = find_pictures([path])
            for picture in source.pictures():
                assert picture.root == source.root
            read_items(path)
        else:
            read_pairs(path, known)

    return case


def _embeddings(folder: Path) -> Case:
    from extractors.embeddings import holds_vectors, read_vectors

    np.save(folder / "v.npy", worlds.vectors())
    table = worlds.items().append_column("embedding", pa.array(worlds.vectors().tolist()))
    files = [(".npy", (folder / "v.npy").read_bytes())]
    files += [(".h5", content) for content in worlds.hdf5_files(folder)]
    files += [(".parquet", content) for content in worlds.parquet(table)]

    def case(rng: Random) -> None:
        suffix, content = rng.choice((files[0], files[0], *files))
        path = folder / f"case{suffix}"
        path.unlink(missing_ok=True)
        path.write_bytes(bytes_of(content, rng))
        if holds_vectors(path):
            read_vectors(path)[0].sum()

    return case


def _labels(folder: Path) -> Case:
    from scipy.io import savemat

    from extractors.matlab import read_mat

    names = np.array([["a.jpg"], ["b.jpg"]], object)
    content = {"table": np.arange(40.0).reshape(10, 4), "names": names}
    files = []
    for packed in (False, True):
        savemat(folder / "sound.mat", content, do_compression=packed)
        files.append((folder / "sound.mat").read_bytes())

    def case(rng: Random) -> None:
        (folder / "case.mat").write_bytes(bytes_of(rng.choice(files), rng))
        read_mat(folder / "case.mat", "table", "names", layout="two variables")

    return case


def _checkpoint(folder: Path) -> Case:
    import torch

    from extractors.checkpoint import load_state_dict

    state = {"conv.weight": torch.ones(4, 3), "bn.bias": torch.zeros(4)}
    files = []
    for new in (False, True):
        torch.save({"state_dict": state}, folder / "sound.pth", _use_new_zipfile_serialization=new)
        files.append((folder / "sound.pth").read_bytes())

    def case(rng: Random) -> None:
        (folder / "case.pth").write_bytes(bytes_of(rng.choice(files), rng))
        for tensor in load_state_dict(folder / "case.pth").values():
            assert tensor.numel() < 2**40

    return case


TARGETS = (
    Target("where", _nothing, _where),
    # A whole gallery is searched and verified, which takes as long as twenty of the others.
    Target("manifest", worlds.make_gallery, _manifest, share=0.5),
    Target("gallery", worlds.make_gallery, _gallery, share=0.5),
    Target("overlays", worlds.make_gallery, _overlay, share=0.5),
    Target("coattention", worlds.make_coattention, _coattention, share=0.5),
    Target("aligned", worlds.make_aligned, _aligned, share=0.5),
    Target("shard", worlds.make_shard, _header),
    Target("items", worlds.make_shard, _items),
    Target("vectors", worlds.make_shard, _vectors),
    Target("graph", _make_graph, _graph),
    Target("index.json", _make_index, _index_json, ("faiss",)),
    Target("index.faiss", _make_index, _index_faiss, ("faiss",)),
    Target("receipt", _make_receipt, _receipt),
    Target("images", _nothing, _images),
    Target("card", _nothing, _card),
    Target("onnx", _make_onnx, _onnx, ("onnx",)),
    Target("boxes", _nothing, _boxes),
    Target("lists", _nothing, _lists),
    Target("embeddings", _nothing, _embeddings),
    Target("labels", _nothing, _labels),
    Target("checkpoint", _nothing, _checkpoint),
)
