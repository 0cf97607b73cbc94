"""What an erasure leaves and what it does not: every kind of leftover, planted, is found."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cli_world import run
from conftest import FINGERPRINT
from numpy.typing import NDArray

from reid_index import Gallery, Reranking
from reid_index.erasure import traces
from reid_index.erasure.receipt import Receipt, read_receipt
from reid_index.erasure.traces import bytes_below, find_traces
from reid_index.errors import UsageError
from reid_index.evaluation.calibration import calibrate, write_calibration
from reid_index.metric import Metric
from reid_index.reranking.graph import make_graph, write_graph
from reid_index.search import index_build
from reid_index.search.index_build import build_index
from reid_index.store import shard
from reid_index.store.items import conform
from reid_index.store.manifest import Event
from reid_index.store.writer import writing

FIRST, SECOND, DIM = 300, 100, 32
ERASED = [range(14, 21), [*range(350, 357)]]
"""The rows of the persons 0002 and 0050, one in each shard."""

GROUP = (20, 21)
"""Rows of one picture: of 0002, who is erased, and of another."""

PLACES = {"0002": "shards/000001", "0050": "shards/000002"}
RERANKING = Reranking(k1=5, k2=3)


def item_of(row: int) -> dict[str, Any]:
    person = f"{row // 7:04d}"
    name = "group" if row in GROUP else f"{person}_frame{row:05d}"
    return {
        "source": f"cam{row % 3 if row not in GROUP else 0}/{name}.jpg",
        "box": [row, 0.1, 10, 20] if row in GROUP else None,
        "camera": row % 3,
        "person": person,
        "track": str(row // 3),
        "note": f"seen by Zoë {person}" if row % 7 == 0 else "nobody",
        "attr.coat": ["red", "dark blue"][row % 2] if person != "0002" else "light green",
        "tags": [f"tag of {person}", "all"],
    }


@dataclass(frozen=True)
class World:
    """A gallery with everything attached, before an erasure, after it, and compacted; all vectors,
    as stored."""

    folder: Path
    receipt: Receipt
    vectors: NDArray[np.float32]


@pytest.fixture(scope="module", autouse=True)
def _untuned() -> Iterator[None]:
    """Indexes are small and not tuned here, which takes longer than all the rest."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_build, "tune", lambda *_, **__: ((), 1.0))
        patch.setattr(index_build, "LEAST_ROWS", 300)
        yield


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    vectors = np.random.default_rng(5).normal(size=(FIRST + SECOND, DIM)).astype(np.float32)
    items = [item_of(row) for row in range(len(vectors))]
    with Gallery.create(folder / "before", dim=DIM, fingerprint=FINGERPRINT) as gallery:
        gallery.add(vectors[:FIRST], items[:FIRST], root="/data/one")
        gallery.add(vectors[FIRST:], items[FIRST:], root="/data/two")
        gallery.build_index("ivf-sq8")
        gallery.build_graph(RERANKING)
        write_calibration(gallery, calibrate(gallery))
        stored = gallery.vectors(range(len(gallery)))
    shutil.copytree(folder / "before", folder / "deleted")
    with Gallery.open(folder / "deleted") as gallery:
        where = "person IN ('0002', '0050')"
        assert gallery.delete(where=where, receipt=folder / "receipt.json") == 14
    shutil.copytree(folder / "deleted", folder / "compacted")
    with Gallery.open(folder / "compacted") as gallery:
        assert gallery.compact().remade == ("index", "graph", "calibration")
    return World(folder, read_receipt(folder / "receipt.json"), stored)


@pytest.fixture
def gallery(world: World, tmp_path: Path) -> Path:
    """A copy of the compacted one."""
    return Path(shutil.copytree(world.folder / "compacted", tmp_path / "gallery"))


def found(gallery: Path, receipt: Receipt) -> list[str]:
    """The lines, relative to the gallery; none of them has anything erased in it."""
    lines = find_traces(gallery, receipt).lines
    for line in lines:
        assert line.startswith(f"{gallery}/")
        assert "\n" not in line
        assert not any(word in line.removeprefix(str(gallery)) for word in ("0050", "Zo", "frame"))
    return [line.removeprefix(f"{gallery}/") for line in lines]


def test_after_compaction_nothing_is_left(world: World) -> None:
    assert found(world.folder / "compacted", world.receipt) == []


def test_before_it_everything_is_found_where_it_is(world: World) -> None:
    lines = found(world.folder / "deleted", world.receipt)
    columns = [f"column '{name}'" for name in ("item", "source", "person", "tags")]
    for name in (*columns, "columns 'source' and 'box'"):
        for folder, rows in zip(PLACES.values(), ERASED, strict=True):
            first = rows[0] % FIRST
            mine = [line for line in lines if f"{folder}/items.parquet: {name}, " in line]
            assert mine[0].endswith(f"row {first}: an erased value")
            assert len(mine) == 4
    assert "shards/000001/items.parquet: column 'note', row 14: an erased value" in lines
    assert "shards/000001/items.parquet: 3 more places: an erased value" in lines
    for folder, rows in zip(PLACES.values(), ERASED, strict=True):
        row = rows[0] % FIRST
        start = h5py.File(world.folder / "deleted" / folder / "vectors.h5")[
            "global"
        ].id.get_offset()
        begin, end = start + row * DIM * 4, start + (row + 7) * DIM * 4 - 1
        place = f"{folder}/vectors.h5: data set 'global', row {row}: an erased vector or text"
        assert place in lines
        pieces = f"bytes {begin:,} to {end:,}: pieces of an erased vector"
        assert f"{folder}/vectors.h5: {pieces}" in lines
    assert [line for line in lines if line.startswith("attached")] == [
        f"attached/{name}: was made from shards that still hold erased items"
        for name in ("000003-index", "000004-graph", "000005-calibration")
    ]


def test_a_shard_without_erased_rows_has_no_traces(world: World, tmp_path: Path) -> None:
    shutil.copytree(world.folder / "before", tmp_path / "g")
    with Gallery.open(tmp_path / "g") as gallery:
        gallery.delete(where="person = '0050'", receipt=tmp_path / "r")
    lines = found(tmp_path / "g", read_receipt(tmp_path / "r"))
    assert not [line for line in lines if line.startswith("shards/000001")]
    assert [line for line in lines if line.startswith("shards/000002")]


@pytest.mark.parametrize("name", ["shards/000099", ".hidden/.000002.tmp"])
def test_a_former_shard_is_found_wherever_it_is(gallery: Path, world: World, name: str) -> None:
    shutil.copytree(world.folder / "before" / "shards/000002", gallery / name)
    lines = found(gallery, world.receipt)
    assert {line.split(":")[0] for line in lines} == {
        f"{name}/items.parquet",
        f"{name}/vectors.h5",
    }


def test_a_shard_behind_a_link_is_found(gallery: Path, world: World) -> None:
    (gallery / "shards/old").symlink_to(world.folder / "before/shards/000001")
    (gallery / "shards/loop").symlink_to(gallery)
    assert {line.split(":")[0] for line in found(gallery, world.receipt)} == {
        "shards/old/items.parquet",
        "shards/old/vectors.h5",
    }


def test_fragments_at_any_offset_are_found(
    gallery: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Across the borders of what a thread looks at, too."""
    monkeypatch.setattr(traces, "_BLOCK", 1000)
    monkeypatch.setattr(traces, "_STRIDE", 3000)
    shutil.rmtree(gallery / "attached")  # most of what would be looked at
    vector = world.vectors[15].tobytes()
    text = b"cam0/0002_frame00015.jpg"
    for offset in (0, 937, 2999, 5000):
        noise = np.random.default_rng(offset).bytes(6000)
        (gallery / "stray").write_bytes(noise[:offset] + vector[3:] + noise)
        last = offset + len(vector) - 4
        assert found(gallery, world.receipt) == [
            f"stray: bytes {offset + 61:,} to {last:,}: pieces of an erased vector"
        ]
        (gallery / "stray").write_bytes(noise[:offset] + text + noise)
        assert found(gallery, world.receipt) == [
            f"stray: byte {offset:,}: an erased path, label or text"
        ]
    (gallery / "stray").write_bytes(noise + vector[3:62] + noise + text[:-1] + vector[70:])
    assert found(gallery, world.receipt) == []


def test_texts_in_json_are_found(gallery: Path, world: World) -> None:
    for is_ascii in (True, False):
        text = json.dumps({"recent": ["seen by Zoë 0050"]}, ensure_ascii=is_ascii)
        (gallery / "cache.json").write_text(text)
        assert found(gallery, world.receipt) == [
            "cache.json: byte 13: an erased path, label or text"
        ]


def test_names_of_files_are_looked_at(gallery: Path, world: World) -> None:
    (gallery / "thumbs").mkdir()
    (gallery / "thumbs" / "0002_frame00015.jpg").write_bytes(b"")
    (line,) = found(gallery, world.receipt)
    assert line.startswith("thumbs: the name of a file in it is that of an erased picture")


def test_a_value_that_only_a_dictionary_has_is_found(gallery: Path, world: World) -> None:
    """As filtering without coding again would leave it."""
    for column, texts in (("person", ["0000", "0050", "0007"]), ("tags", ["all", "tag of 0050"])):
        places = pa.array([0, len(texts) - 1 if column == "person" else 0], pa.int32())
        coded = pa.DictionaryArray.from_arrays(places, texts)
        path = gallery / "spare.parquet"
        pq.write_table(pa.table({column: coded}), path, write_statistics=False, compression="zstd")
        lines = [line for line in found(gallery, world.receipt) if ": byte" not in line]
        assert lines == [
            f"spare.parquet: column '{column}', value 1 of its dictionary: an erased value that no "
            "row has any more"
        ]


def test_a_box_may_be_anything_in_files_of_others(gallery: Path, world: World) -> None:
    """Only boxes are looked at: of lists of another length, texts and numbers nothing is said."""
    source, box = item_of(20)["source"], item_of(20)["box"]
    for boxes in ([box, box[:2]], ["20", None], [1.0, 2.0], [[None] * 4, None]):
        pq.write_table(pa.table({"source": [source] * 2, "box": boxes}), gallery / "spare")
        assert found(gallery, world.receipt) == []
    path = f"/data/one/{source}"
    pq.write_table(pa.table({"source": [path] * 2, "box": [None, box]}), gallery / "spare")
    assert found(gallery, world.receipt) == [
        "spare: columns 'source' and 'box', row 1: an erased value"
    ]


def test_statistics_are_looked_at(gallery: Path, world: World) -> None:
    path = gallery / "spare.parquet"
    pq.write_table(pa.table({"person": ["0049", "0051"]}), path)
    assert found(gallery, world.receipt) == []
    content = path.read_bytes()
    pages = content.rindex(b"0051", 0, content.index(b"0049", 60)) + 4
    path.write_bytes(content[:pages] + content[pages:].replace(b"0049", b"0050"))
    assert pq.read_table(path)["person"].to_pylist() == ["0049", "0051"]
    assert found(gallery, world.receipt) == [
        "spare.parquet: statistics of column 'person', row group 0: an erased value"
    ]


@pytest.mark.parametrize("kind", ["<f4", ">f8", "<f2"])
def test_vectors_in_any_data_set_are_found(gallery: Path, world: World, kind: str) -> None:
    rows = world.vectors[[100, 15, 353, 200]].astype(kind)
    rows[0] = 0
    with h5py.File(gallery / "spare", "w") as file:
        file.create_dataset("a/b", data=rows, chunks=(3, DIM), compression="gzip")
    expected = [] if kind == "<f2" else [1, 2]  # rounded, it is another vector
    assert found(gallery, world.receipt) == [
        f"spare: data set 'a/b', row {row}: an erased vector or text" for row in expected
    ]


def test_texts_in_compressed_data_sets_are_found(gallery: Path, world: World) -> None:
    texts = np.array([b"nothing here", b"cam0/0002_frame00015.jpg"] * 2, "S40")
    with h5py.File(gallery / "spare", "w") as file:
        file.create_dataset("names", data=texts, chunks=(4,), compression="gzip")
    assert found(gallery, world.receipt) == [
        f"spare: data set 'names', row {row}: an erased vector or text" for row in (1, 3)
    ]


@pytest.mark.parametrize("name", ["items.parquet", "vectors.h5"])
def test_what_cannot_be_decoded_is_told(gallery: Path, world: World, name: str) -> None:
    whole = (gallery / "shards" / next((gallery / "shards").iterdir()) / name).read_bytes()
    (gallery / "stray").write_bytes(whole[: len(whole) // 2])
    (line,) = found(gallery, world.receipt)
    assert line.startswith("stray: cannot be decoded, so it may hold anything: ")


def attach(gallery: Path, kind: str, write: Callable[[Path], None]) -> str:
    """Attach as if it had been made from the present rows; its folder."""
    with Gallery.open(gallery) as opened:
        opened.attach(kind, write, generation=opened.manifest.generation)
        return f"attached/{opened.manifest.generation:06d}-{kind}"


def rows_of(gallery: Path) -> NDArray[np.float32]:
    with Gallery.open(gallery) as opened:
        return opened.vectors(range(len(opened)))


def test_a_former_index_and_graph_are_found(gallery: Path, world: World) -> None:
    for kind, former in (("index", "000003-index"), ("graph", "000004-graph")):
        source = world.folder / "before/attached" / former
        folder = attach(
            gallery, kind, lambda to, source=source: shutil.copytree(source, to, dirs_exist_ok=True)
        )
        (line,) = [line for line in found(gallery, world.receipt) if line.startswith(folder)]
        assert "400 rows" in line if kind == "index" else "not those of 386 rows" in line


@pytest.mark.parametrize("kind", ["ivf-sq8", "ivf-pq", "hnsw", "hnsw-sq8"])
def test_an_index_entry_of_another_vector_is_found(gallery: Path, world: World, kind: str) -> None:
    rows = rows_of(gallery)
    clean = build_index([rows], kind, metric=Metric.COSINE)
    attach(gallery, "index", clean.write)
    assert found(gallery, world.receipt) == []
    rows[200] = -world.vectors[15]  # not itself, which hnsw would hold in clear
    built = build_index([rows], kind, metric=Metric.COSINE)
    folder = attach(gallery, "index", built.write)
    assert found(gallery, world.receipt) == [
        f"{folder}: 1 entries of the index are not of their row's vector, that of row 200 first"
    ]


def test_an_index_that_holds_an_erased_vector_in_clear_is_found(
    gallery: Path, world: World
) -> None:
    rows = rows_of(gallery)
    rows[200] = world.vectors[15]
    folder = attach(gallery, "index", build_index([rows], "hnsw", metric=Metric.COSINE).write)
    lines = found(gallery, world.receipt)
    assert lines[0].startswith(f"{folder}/index.faiss: bytes ")


def test_distances_to_an_erased_vector_are_found(gallery: Path, world: World) -> None:
    rows = rows_of(gallery)
    true = make_graph(rows, items=np.arange(len(rows)), reranking=RERANKING)
    near = int(true.near.index[250, 1])
    rows[near] = world.vectors[15]
    graph = make_graph(rows, items=np.arange(len(rows)), reranking=RERANKING)
    folder = attach(gallery, "graph", lambda to: write_graph(to, graph))
    lines = found(gallery, world.receipt)
    assert lines[0].startswith(f"{folder}: the lists of ")
    assert lines[0].endswith(" rows hold distances that no present rows have")
    for changed, words in (
        (true.near.farthest * np.float32(1.001), "farthest distances"),
        (true.near.farthest * np.float32(0.999), "farthest distances"),
    ):
        altered = replace(true, near=replace(true.near, farthest=changed))
        folder = attach(gallery, "graph", lambda to, graph=altered: write_graph(to, graph))
        assert [words in line for line in found(gallery, world.receipt)] == [True]
    holders = replace(true.holders, index=np.roll(true.holders.index, 1))
    folder = attach(gallery, "graph", lambda to: write_graph(to, replace(true, holders=holders)))
    assert found(gallery, world.receipt) == [
        f"{folder}: sets and their holders do not fit each other"
    ]


def test_what_was_made_from_former_shards_is_found(gallery: Path, world: World) -> None:
    with writing(gallery) as writer:
        former = tuple(
            replace(entry, covers=("shards/000001", "shards/000002"))
            if entry.kind == "calibration"
            else entry
            for entry in writer.present.attached
        )
        writer.commit(Event(what="attach", kind="calibration"), attached=former)
    (line,) = found(gallery, world.receipt)
    assert line.endswith(
        "-calibration: was made from shards that are gone, so maybe from erased items"
    )


def test_what_is_not_attached_any_more_is_found(gallery: Path, world: World) -> None:
    shutil.copytree(
        world.folder / "before/attached/000004-graph", gallery / "attached/000004-graph"
    )
    assert [line.split(":")[0] for line in found(gallery, world.receipt)] == [
        "attached/000004-graph"
    ]


def test_what_was_added_later_may_have_the_same_texts(gallery: Path, world: World) -> None:
    """A colour, the number of a track, the same name below another root."""
    rng = np.random.default_rng(9)
    again = {**item_of(15), "person": "another", "note": "seen by Zoë 0050 again"}
    with Gallery.open(gallery) as opened:
        opened.add(rng.normal(size=(1, DIM)), [again], root="/data/three")
    assert found(gallery, world.receipt) == []


@pytest.mark.parametrize(
    ("place", "item"),
    [
        ("column 'source'", {"source": item_of(15)["source"]}),
        ("column 'person'", {"person": item_of(15)["person"]}),
        ("columns 'source' and 'box'", {name: item_of(20)[name] for name in ("source", "box")}),
        ("data set 'global'", {}),
    ],
)
def test_who_comes_back_is_found_and_named(
    gallery: Path, world: World, place: str, item: dict[str, Any]
) -> None:
    vectors = np.random.default_rng(3).normal(size=(3, DIM))
    if not item:
        vectors[1] = world.vectors[15]
    fair = {"source": item_of(20)["source"], "box": [20, 0.2, 10, 20]}
    with Gallery.open(gallery) as opened:
        opened.add(vectors, [{"camera": 1}, item, fair], root="/data/one")
        id_ = opened.manifest.next_item - 2
    assert any(f"{place}, row 1" in line for line in found(gallery, world.receipt))
    assert not any("row 2" in line for line in found(gallery, world.receipt))
    assert remedies(gallery, world.receipt) == {"items": (id_,)}
    with Gallery.open(gallery) as opened:
        opened.delete(items=[id_])
    assert remedies(gallery, world.receipt) == {"compact": True}


# What removes it


def remedies(gallery: Path, receipt: Receipt) -> dict[str, Any]:
    """Of what is found, all but the lines."""
    told = vars(find_traces(gallery, receipt))
    return {name: value for name, value in told.items() if value and name != "lines"}


def test_compaction_removes_what_was_deleted_and_what_nobody_needs(
    gallery: Path, world: World
) -> None:
    before = world.folder / "before"
    assert remedies(world.folder / "deleted", world.receipt) == {"compact": True}
    shutil.copytree(before / "shards/000002", gallery / "shards/000099")
    shutil.copytree(before / "shards/000002", gallery / ".000099.tmp")
    shutil.copytree(before / "attached/000004-graph", gallery / "attached/000004-graph")
    (gallery / "shards/old").symlink_to(before / "shards/000001")
    assert remedies(gallery, world.receipt) == {"compact": True}
    with Gallery.open(gallery) as opened:
        opened.compact()
    assert found(gallery, world.receipt) == []
    assert (before / "shards/000001/items.parquet").exists()


def test_a_generation_that_is_held_is_named(world: World, tmp_path: Path) -> None:
    gallery = Path(shutil.copytree(world.folder / "deleted", tmp_path / "gallery"))
    reader = Gallery.open(gallery)
    with Gallery.open(gallery) as opened:
        held = opened.compact().pending
        assert [one.generation for one in held] == [reader.manifest.generation]
        assert remedies(gallery, world.receipt) == {"held": held}
        reader.close()
        assert remedies(gallery, world.receipt) == {"compact": True}
        opened.compact()
    assert found(gallery, world.receipt) == []


def test_strays_are_named_but_not_by_an_erased_name(gallery: Path, world: World) -> None:
    vector = world.vectors[15].tobytes()
    folder = next((gallery / "shards").iterdir())
    (gallery / "thumbs" / "0002_frame00015.jpg").mkdir(parents=True)
    stray = [gallery / "cache", folder / "more", gallery / "thumbs/0002_frame00015.jpg/0002"]
    for path in stray:
        path.write_bytes(vector)
    assert found(gallery, world.receipt) == [
        "cache: bytes 0 to 127: pieces of an erased vector",
        f"{folder.relative_to(gallery)}/more: bytes 0 to 127: pieces of an erased vector",
        "thumbs: the name of a file in it is that of an erased picture, or has its path or a label",
        "thumbs: bytes 0 to 127: pieces of an erased vector",
    ]
    assert remedies(gallery, world.receipt) == {
        "strays": (f"{stray[0]}", f"{stray[1]}", f"a file in {gallery}/thumbs")
    }


def test_attachments_that_are_wrong_are_named(gallery: Path, world: World) -> None:
    rows = rows_of(gallery)
    rows[200] = world.vectors[15]
    attach(gallery, "index", build_index([rows], "hnsw", metric=Metric.COSINE).write)
    assert remedies(gallery, world.receipt) == {"wrong": ("index",)}


def test_the_command_says_what_is_to_be_done(
    gallery: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("verify", gallery, "--erased", world.folder / "receipt.json")
    begin = f"reid: {gallery} still has bytes of the 14 items deleted from generation 5: "
    (gallery / "cache").write_bytes(world.vectors[15].tobytes())
    stray = f"remove what is no part of the gallery, {gallery}/cache"
    result = run(*arguments)
    assert (result.exit_code, result.stderr.splitlines()[-1]) == (1, begin + stray)
    with Gallery.open(gallery) as opened:
        vectors = np.random.default_rng(3).normal(size=(12, DIM))
        opened.add(vectors, [{"person": "0050"}] * 12)
    ids = " ".join(f"--item {item}" for item in range(400, 410))
    back = f"delete the items that have brought some of it back, `reid delete {gallery} {ids}`"
    compact = f"run `reid compact {gallery}`"
    held = traces.Held(2, (os.getpid(),))
    monkeypatch.setattr(traces, "_held", lambda *_: {gallery / "cache": held})
    assert (
        run(*arguments)
        .stderr.splitlines()[-1]
        .startswith(
            f"{begin}{back} and 2 more; end the readers, generation 2 is held by {os.getpid()} ("
        )
    )
    monkeypatch.undo()
    assert run(*arguments).stderr.splitlines()[-1] == (
        f"{begin}{stray}; {back} and 2 more; {compact}"
    )
    for wrong, words in (("index", f"run `reid index {gallery}`"), (None, "no command removes it")):
        one = traces.Traces(lines=("x",), wrong=(wrong,) if wrong else ())
        monkeypatch.setattr(traces, "find_traces", lambda *_, one=one, **__: one)
        assert run(*arguments).stderr.splitlines()[-1].startswith(begin + words)


# What once was said wrongly


def erased(path: Path, items: Any, gone: str, *, root: str = "") -> Receipt:
    """Make a gallery of two shards with those items, half each, erase some and compact it."""
    receipt = path.with_name("receipt.json")
    vectors = np.random.default_rng(1).normal(size=(len(items), 8))
    half = len(items) // 2
    with Gallery.create(path, dim=8, fingerprint=FINGERPRINT) as gallery:
        gallery.add(vectors[:half], items[:half], root=root)
        gallery.add(vectors[half:], items[half:], root=root)
        assert gallery.delete(where=gone, receipt=receipt) > 0
        gallery.compact()
    return read_receipt(receipt)


def test_texts_of_others_do_not_come_with_part_of_a_table(tmp_path: Path) -> None:
    """A part of a table has the dictionaries of all of it."""
    names = pa.array([f"Citizen Number {row}" for row in range(40)]).dictionary_encode()
    receipt = erased(tmp_path / "g", pa.table({"attr.name": names}), "item IN (3, 39)")
    assert found(tmp_path / "g", receipt) == []


def test_compaction_finds_texts_that_older_shards_have_of_no_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = pa.array([f"Citizen Number {row}" for row in range(40)]).dictionary_encode()

    with monkeypatch.context() as patch:
        patch.setattr(shard, "without_unused_texts", lambda table: table)
        with Gallery.create(tmp_path / "g", dim=8, fingerprint=FINGERPRINT) as gallery:
            table = conform(pa.table({"attr.name": names}))
            for part in (table.slice(0, 30), table.slice(30)):
                gallery.add(np.ones((len(part), 8)), part.drop("item"))
    with Gallery.open(tmp_path / "g") as gallery:
        gallery.delete(where="item = 39", receipt=tmp_path / "receipt.json")
        assert gallery.compact().shards_after == 1
    assert found(tmp_path / "g", read_receipt(tmp_path / "receipt.json")) == []


def test_long_texts_are_told_apart(tmp_path: Path) -> None:
    """Of these only the beginning is looked for, which all of them have."""
    items = [{"source": f"b{row}.jpg", "note": "x" * 1100 + f" Zoë {row}"} for row in range(40)]
    receipt = erased(tmp_path / "g", items, "item IN (7, 8)")
    assert found(tmp_path / "g", receipt) == []


def test_words_that_the_gallery_itself_uses_are_no_traces(tmp_path: Path) -> None:
    items = [
        {
            "source": f"/a/{row}.jpg",
            "attr.backpack": "yes",
            "tags": ["backpack" if row < 3 else "hat"],
        }
        for row in range(10)
    ]
    items[1] |= {"source": "/b/vectors.h5", "track": "vectors.h5"}
    receipt = erased(tmp_path / "g", items, "item < 3")
    assert found(tmp_path / "g", receipt) == []


def test_the_name_of_the_extractor_is_no_trace(tmp_path: Path) -> None:
    receipt = erased(tmp_path / "g", [{"note": FINGERPRINT.name}] * 2, "item >= 0")
    assert found(tmp_path / "g", receipt) == []


def test_the_folder_of_later_pictures_is_no_trace(tmp_path: Path) -> None:
    place = "/footage/cam1"
    items = [{"source": f"{row}.jpg", "video": place} for row in range(10)]
    receipt = erased(tmp_path / "g", items, "item >= 0", root=place)
    with Gallery.open(tmp_path / "g") as gallery:
        gallery.add(np.eye(2, 8), [{"source": "11.jpg"}, {"source": "12.jpg"}], root=place)
    assert found(tmp_path / "g", receipt) == []
    planted = tmp_path / "g/notes.json"
    planted.write_text(json.dumps({"root": place}))
    assert found(tmp_path / "g", receipt) == ["notes.json: byte 10: an erased path, label or text"]


def test_a_receipt_proves_nothing_of_another_gallery(
    gallery: Path, world: World, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    with Gallery.create(other, dim=DIM, fingerprint=FINGERPRINT) as one:
        for _ in range(9):
            one.add(np.ones((1, DIM)))
    with pytest.raises(UsageError, match=f"another gallery than {other}"):
        find_traces(other, world.receipt)
    with pytest.raises(UsageError, match="a copy from before that"):
        find_traces(world.folder / "before", world.receipt)
    copied = Path(shutil.copytree(gallery, tmp_path / "copied"))
    assert found(copied, world.receipt) == []


def test_what_an_interrupted_run_may_hold_is_not_proven(gallery: Path, world: World) -> None:
    parts = gallery.with_name("gallery.rebuilding") / "parts"
    parts.mkdir(parents=True)
    result = run("verify", gallery, "--erased", world.folder / "receipt.json")
    assert result.exit_code == 0
    assert f"not proven: {parts.parent} is beside the gallery\n" in result.stdout


def test_progress_tells_every_byte(gallery: Path, world: World) -> None:
    told: list[int] = []
    find_traces(gallery, world.receipt, progress=told.append)
    assert sum(told) == bytes_below(gallery)
    assert bytes_below(gallery) == sum(
        path.stat().st_size for path in gallery.rglob("*") if path.is_file()
    )
