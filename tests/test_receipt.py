"""Receipts: what they name and what not, that nothing in them is in clear, files that are none."""

import base64
import hashlib
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import FINGERPRINT
from numpy.typing import NDArray

from reid_index import open_shard, write_shard
from reid_index.erasure.receipt import Receipt, is_erased, make_receipt, read_receipt, write_receipt
from reid_index.erasure.sought import Finder, Hasher
from reid_index.errors import BadSource, FormatTooNew, ReidIndexError, UsageError
from reid_index.files import json_bytes
from reid_index.metric import Metric
from reid_index.store.items import item_table
from reid_index.store.vectors import ArrayStream

GROUP, MINE, THEIRS = "a/group photo.jpg", [0.1, 2.0, 30.0, 40.0], [50.0, 2.0, 30.0, 40.0]
ITEMS = [
    {"source": GROUP, "box": MINE, "person": "Zebra", "note": "walks a dog"},
    {"source": "a/erased one.jpg", "person": "Zebra", "note": "walks a dog", "track": "7"},
    {"source": "a/erased two.jpg", "person": "Zebra", "tags": ["hat, very tall", "coat"]},
    {"source": GROUP, "box": THEIRS, "person": "Okapi", "tags": ["coat"], "track": "7"},
    {"source": "b.jpg", "person": "Okapi", "note": "see 'a/erased two.jpg'"},
]
GONE = np.array([True, True, True, False, False])


@pytest.fixture
def shard(tmp_path: Path, rng: np.random.Generator) -> Callable[..., Any]:
    """Write and open a shard of ITEMS; vectors of length 1 unless given."""

    def make(vectors: NDArray[Any] | None = None, **properties: Any) -> Any:
        vectors = rng.normal(size=(5, 40)) if vectors is None else vectors
        items = item_table([{"item": 10 + row, **one} for row, one in enumerate(ITEMS)], rows=5)
        path = tmp_path / f"shard{len(list(tmp_path.iterdir()))}"
        write_shard(
            path,
            arrays={"global": ArrayStream.of(vectors)},
            items=[items],
            fingerprint=FINGERPRINT,
            metric=Metric.INNER_PRODUCT,
            root="/data/crops",
            **properties,
        )
        return open_shard(path)

    return make


def receipt_of(*shards: Any) -> Receipt:
    return make_receipt(
        shards,
        gone=[GONE] * len(shards),
        kept=[~GONE] * len(shards),
        gallery="5a" * 16,
        generation=3,
    )


def digest(receipt: Receipt, kind: str, value: str | bytes) -> bytes:
    content = value if isinstance(value, bytes) else value.encode()
    return hashlib.sha256(receipt.salt + kind.encode() + b"\0" + content).digest()[:16]


def test_it_names_what_no_staying_item_has(shard: Callable[..., Any]) -> None:
    receipt = receipt_of(shard())
    expected = {
        "item": ["10", "11", "12"],
        "source": ["a/erased one.jpg", "a/erased two.jpg"],
        ":path": ["/data/crops/a/erased one.jpg", "/data/crops/a/erased two.jpg"],
        ":name": ["erased one.jpg", "erased two.jpg"],
        ":crop": [
            b"/data/crops/a/group photo.jpg\0" + struct.pack("<4f", *MINE),
            b"/data/crops/a/erased one.jpg\0",
            b"/data/crops/a/erased two.jpg\0",
        ],
        "person": ["Zebra"],
        "note": ["walks a dog"],
        "tags": ["hat, very tall"],
        "track": [],
        "video": [],
    }
    assert {kind: sorted(cells) for kind, cells in receipt.cells.items()} == {
        kind: sorted(digest(receipt, kind, value) for value in values)
        for kind, values in expected.items()
    }
    assert receipt.shared == {":name": 1, ":path": 1, "source": 1, "tags": 1, "track": 1}
    assert (receipt.items, receipt.last_item, receipt.generation) == (3, 14, 3)


def test_all_columns_of_text_are_named_and_no_numbers(
    shard: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that looks like a name has none in it; a name in a longer text is its own."""
    story = "on Monday Zoë Example-Zebra walked by, twice"
    for row, one in enumerate(ITEMS):
        numbers = {
            "camera": row,
            "start": f"2024-05-0{row + 1}",
            "start_s": row / 7,
            "frame_first": 1000 + row,
            "weight": 60.5 + row,
            "limping": row == 0,
            "attr.coat.confidence": 0.1 * row,
        }
        texts = {
            "attr.coat": ["red", "a rare red", "red", "blue", "red"][row],
            "story": [story, "", None, "nobody", "nobody"][row],
            "seen": [["by Zoë Example", "all"], [], None, ["all"], ["all", "nobody"]][row],
            "clock": [f"12:0{row}:00", "noon", "noon", "noon", "noon"][row],
        }
        for name, value in {**numbers, **texts}.items():
            monkeypatch.setitem(one, name, value)
    receipt = receipt_of(shard())
    further = {"attr.coat": "a rare red", "story": story, "seen": "by Zoë Example"}
    further["clock"] = "12:00:00"
    standard = {"item", "source", "video", "person", "track", "note", "tags"}
    assert receipt.cells.keys() == standard | {":path", ":name", ":crop"} | further.keys()
    for kind, value in further.items():
        assert receipt.cells[kind] == {digest(receipt, kind, value)}
    finder = Finder(receipt.hasher, pieces=(), needles=receipt.needles)
    for text in further.values():
        assert finder.needles(np.frombuffer(b"." + text.encode() + b".", np.uint8))


def test_texts_are_found_at_any_offset_but_not_staying_ones(shard: Callable[..., Any]) -> None:
    receipt = receipt_of(shard())
    finder = Finder(receipt.hasher, pieces=receipt.pieces, needles=receipt.needles)
    texts = {
        "a/erased one.jpg": True,
        "/data/crops/a/erased one.jpg": True,
        "walks a dog": True,
        "hat, very tall": True,
        "a/erased two.jpg": False,  # a staying item's note has it
        "/data/crops/a/erased two.jpg": True,
        "a/group photo.jpg": False,
        "Zebra": False,  # too short
    }
    for text, is_found in texts.items():
        content = np.frombuffer(b"..." + text.encode() + b"..", np.uint8)
        assert (3 in [at for at, _ in finder.needles(content)]) == is_found, text
    assert (receipt.short, receipt.contained) == (3, 3)  # Zebra, coat, 7; the last two and its path
    assert [line[:20] for line in receipt.remarks()] == [
        "staying items have t",
        "texts of less than 8",
        "texts that are part ",
    ]


def test_texts_are_found_as_json_writes_them(
    shard: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ITEMS[0], "note", 'Zoë said "no"')
    receipt = receipt_of(shard())
    finder = Finder(receipt.hasher, pieces=(), needles=receipt.needles)
    for is_ascii in (True, False):
        written = json.dumps({"note": 'Zoë said "no"'}, ensure_ascii=is_ascii).encode()
        assert [at for at, _ in finder.needles(np.frombuffer(written, np.uint8))] == [10]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_every_piece_of_every_vector_is_found(shard: Callable[..., Any], dtype: str) -> None:
    """40 numbers: 64 bytes and the last 64, which overlap, in float16; 160 bytes in float32."""
    made = shard(dtype=dtype)
    receipt = receipt_of(made)
    finder = Finder(receipt.hasher, pieces=receipt.pieces, needles=receipt.needles)
    stored = np.asarray(made.vectors)
    places = {"float32": [0, 64, 96], "float16": [0, 16]}
    for form in {dtype, "float32"}:
        for row in range(5):
            content = np.frombuffer(b"\7" * 5 + stored[row].astype(form).tobytes(), np.uint8)
            found = [(5 + at, 64) for at in places[form]] if GONE[row] else []
            assert finder.pieces(content) == found
            cut = np.frombuffer(content[5 + 33 :].tobytes(), np.uint8)
            assert finder.pieces(cut) == [(at - 38, 64) for at, _ in found if at >= 38]


def test_vectors_and_pieces_that_staying_rows_have_are_left_out(shard: Callable[..., Any]) -> None:
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(5, 48)).astype(np.float32)
    vectors[3] = vectors[0]  # the same picture twice
    vectors[4, 16:32] = vectors[1, 16:32]
    vectors[2, 32:] = 0
    receipt = receipt_of(shard(vectors))
    (pieces,), (rows,) = receipt.pieces, receipt.rows
    assert (pieces.length, len(pieces.records)) == (64, 2 + 2)
    assert (rows.length, len(rows.records)) == (192, 2)
    assert receipt.shared["vector"] == 1
    assert receipt.plain == 3 + 1 + 1


def test_vectors_that_are_one_piece_are_told_from_their_pieces(shard: Callable[..., Any]) -> None:
    """Of 64 bytes: a plain vector is none of the pieces that are looked for. By many salts, as
    hashes are ascending."""
    vectors = np.random.default_rng(1).normal(size=(5, 16)).astype(np.float32)
    vectors[0] = np.eye(16)[3]
    vectors[3] = vectors[2]
    made = shard(vectors)
    for _ in range(10):
        receipt = receipt_of(made)
        (pieces,), (rows,), hasher = receipt.pieces, receipt.rows, receipt.hasher
        both = hasher.pieces(vectors[:2].view(np.uint8)).records
        assert rows.records.tolist() == both.tolist()
        one = hasher.pieces(vectors[1:2].view(np.uint8)).records
        assert pieces.records.tolist() == one.tolist()


def test_nothing_in_the_file_is_in_clear(shard: Callable[..., Any], tmp_path: Path) -> None:
    made = shard()
    write_receipt(tmp_path / "r.json", receipt_of(made), gallery=tmp_path / "gallery")
    content = (tmp_path / "r.json").read_bytes()
    data = json.loads(content)
    packed = [*data["cells"].values(), data["needles"], *(one["keys"] for one in data["pieces"])]
    content += b"".join(map(base64.b64decode, packed))
    texts = ["Zebra", "erased", "dog", "tall", "Okapi", "crops", "photo"]
    for value in [text.encode() for text in texts] + [row.tobytes()[:8] for row in made.vectors]:
        assert value not in content
    again = receipt_of(made)
    assert not again.cells["person"] & read_receipt(tmp_path / "r.json").cells["person"]


def test_it_is_read_as_it_was_written(shard: Callable[..., Any], tmp_path: Path) -> None:
    receipt = receipt_of(shard(dtype="float16"))
    path = tmp_path / "r.json"
    write_receipt(path, receipt, gallery=tmp_path / "gallery")
    read = read_receipt(path)
    for name, value in vars(receipt).items():
        assert repr(getattr(read, name)) == repr(value) or name == "cells"
    assert read.cells == receipt.cells
    assert read.needles.tobytes() == receipt.needles.tobytes()
    assert path.stat().st_mode & 0o777 == 0o600
    assert sorted(os.listdir(tmp_path)) == ["r.json", "shard0"]


def test_a_receipt_takes_some_hundred_bytes_an_item(tmp_path: Path) -> None:
    rows = 300
    rng = np.random.default_rng(1)
    write_shard(
        tmp_path / "s",
        arrays={"global": ArrayStream.of(rng.normal(size=(rows, 512)).astype(np.float32))},
        items=[
            item_table(
                [{"item": n, "source": f"camera/{n:06d}.jpg", "person": "x"} for n in range(rows)],
                rows=rows,
            )
        ],
        fingerprint=FINGERPRINT,
        metric=Metric.COSINE,
    )
    all_rows = np.ones(rows, np.bool_)
    receipt = make_receipt(
        [open_shard(tmp_path / "s")],
        gone=[all_rows],
        kept=[~all_rows],
        gallery="5a" * 16,
        generation=1,
    )
    write_receipt(tmp_path / "r", receipt, gallery=tmp_path / "g")
    assert (tmp_path / "r").stat().st_size < 800 * rows


def test_pictures_that_must_not_come_back(shard: Callable[..., Any]) -> None:
    receipts = [receipt_of(shard()), receipt_of(shard())]
    assert is_erased(receipts, "/data/crops/a/erased one.jpg")
    assert not is_erased(receipts, "a/erased one.jpg")
    assert not is_erased(receipts, "/data/crops/a/group photo.jpg")
    assert not is_erased([], "/data/crops/a/erased one.jpg")
    assert not is_erased(receipts, "/data/crops/\ud800.jpg")


def test_of_a_picture_with_others_only_the_erased_box_must_not_come_back(
    shard: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    group = f"/data/crops/{GROUP}"
    receipts = [receipt_of(shard())]
    assert is_erased(receipts, group, box=MINE)
    assert is_erased(receipts, group, box=np.array(MINE, np.float32).tolist())
    near = [float(np.nextafter(np.float32(0.1), np.float32(1))), *MINE[1:]]
    for box in (None, THEIRS, near):
        assert not is_erased(receipts, group, box=box)
    assert not is_erased(receipts, "/data/crops/b.jpg", box=MINE)
    assert is_erased(receipts, "/data/crops/a/erased one.jpg", box=THEIRS)
    monkeypatch.setitem(ITEMS[3], "box", MINE)  # a staying item of the very same crop
    receipt = receipt_of(shard())
    assert not is_erased([receipt], group, box=MINE)
    assert receipt.shared[":crop"] == 1


def test_where_receipts_must_not_be(shard: Callable[..., Any], tmp_path: Path) -> None:
    receipt = receipt_of(shard())
    gallery = tmp_path / "gallery"
    (gallery / "shards").mkdir(parents=True)
    (tmp_path / "link").symlink_to(gallery / "shards")
    (tmp_path / "taken").write_text("mine")
    (tmp_path / "nowhere").symlink_to(gallery / "r.json")
    for place, words in (
        ("gallery/r.json", "inside the gallery"),
        ("link/r.json", "inside the gallery"),
        ("taken", "exists already"),
        ("nowhere", "exists already"),
        ("no/r.json", "no folder"),
    ):
        with pytest.raises(UsageError, match=words):
            write_receipt(tmp_path / place, receipt, gallery=gallery)
    assert list(gallery.rglob("*")) == [gallery / "shards"]
    assert (tmp_path / "taken").read_text() == "mine"


def test_files_that_are_no_receipts_are_refused(shard: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    write_receipt(path, receipt_of(shard()), gallery=tmp_path / "gallery")
    whole = json.loads(path.read_bytes())
    for change, words in (
        ({"what": "gallery"}, "another kind of file"),
        ({"salt": "00"}, "salt"),
        ({"items": -1}, "not a"),
        ({"items": True}, "not a"),
        ({"items": 1e300}, "not a"),
        ({"needles": whole["needles"][:-4]}, "cut"),
        ({"needles": base64.b64encode(bytes(24)).decode()}, "8 to 1024 bytes"),
        ({"pieces": [{"bytes": 2**40, "keys": ""}]}, "not a|too long"),
        ({"cells": []}, "not a receipt"),
        ({"created": "yesterday"}, "not a receipt"),
    ):
        path.write_bytes(summed({**whole, **change}))
        with pytest.raises(BadSource, match=words) as raised:
            read_receipt(path)
        assert "\n" not in str(raised.value)
        path.write_text(json.dumps({**whole, **change}))
        with pytest.raises(BadSource, match=f"{words}|its bytes have changed"):
            read_receipt(path)
    for name in whole.keys() - {"format", "what", "sha256"}:
        path.write_bytes(summed({key: value for key, value in whole.items() if key != name}))
        with pytest.raises(BadSource, match=f"'{name}' is missing"):
            read_receipt(path)
    path.write_text(json.dumps({key: value for key, value in whole.items() if key != "sha256"}))
    with pytest.raises(BadSource, match="'sha256' is missing"):
        read_receipt(path)
    path.write_text(json.dumps({**whole, "format": [2, 0]}))
    with pytest.raises(FormatTooNew, match="newer"):
        read_receipt(path)
    with pytest.raises(BadSource, match="cannot be read"):
        read_receipt(tmp_path)


def summed(said: dict[str, Any]) -> bytes:
    """As a receipt that says this would be written."""
    rest = {key: value for key, value in said.items() if key != "sha256"}
    return json_bytes({**rest, "sha256": hashlib.sha256(json_bytes(rest)).hexdigest()})


def test_damage_is_noticed(
    shard: Callable[..., Any], tmp_path: Path, rng: np.random.Generator
) -> None:
    path = tmp_path / "r.json"
    write_receipt(path, receipt_of(shard()), gallery=tmp_path / "gallery")
    whole = path.read_bytes()
    refused = 0
    for _ in range(250):
        content = bytearray(whole)
        content[rng.integers(len(whole))] ^= rng.integers(1, 256)
        path.write_bytes(content[: rng.integers(len(whole))] if rng.random() < 0.1 else content)
        try:
            read_receipt(path)
        except ReidIndexError:
            refused += 1
    assert refused == 250


def test_a_short_text_cannot_be_worked_out_from_its_window() -> None:
    """Many texts share each window: the hash of eight bytes has four."""
    hasher = Hasher(bytes(32))
    windows = {hasher.window(b"%08d" % number) for number in range(0, 10**8, 10**4)}
    assert max(windows) < 2**32
    assert len(windows) > 9000
