"""Damage: a changed size is found at opening, a changed byte by opening or by verify."""

import json
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest

from reid_index import Gallery, verify_gallery
from reid_index.errors import CorruptGallery, FormatTooNew, ReidIndexError
from reid_index.files import sha256_file

GOLDEN = Path(__file__).parent / "data" / "format_v1"
LISTED = [
    f"shards/{shard}/{name}"
    for shard in ("000001", "000002")
    for name in ("vectors.h5", "items.parquet", "shard.json")
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A whole gallery of two shards and 5 rows."""
    return Path(shutil.copytree(GOLDEN, tmp_path / "g"))


def damage(folder: Path) -> str:
    """What opening, or else verify, says."""
    try:
        problems = verify_gallery(Gallery.open(folder))
    except ReidIndexError as error:
        problems = [str(error)]
    assert all("\n" not in problem for problem in problems)
    return " | ".join(problems)


@pytest.mark.parametrize("name", ["CURRENT", "manifest-000002.json"])
def test_any_flipped_bit_of_the_bookkeeping_is_found(folder: Path, name: str) -> None:
    path = folder / name
    whole = path.read_bytes()
    for offset in range(len(whole)):
        for bit in range(8) if name == "CURRENT" else (offset % 8,):
            path.write_bytes(flipped(whole, offset, 1 << bit))
            with pytest.raises((CorruptGallery, FormatTooNew)):
                Gallery.open(folder)
    path.write_bytes(whole)
    assert damage(folder) == ""


@pytest.mark.parametrize("name", LISTED)
def test_a_flipped_byte_of_any_listed_file_is_found(folder: Path, name: str) -> None:
    path = folder / name
    whole = path.read_bytes()
    for offset in [*range(0, len(whole), 97), len(whole) - 1]:
        path.write_bytes(flipped(whole, offset, 0xFF))
        assert damage(folder) == (
            f"{path}: its bytes have changed since it was written (sha256 differs)"
        )


@pytest.mark.parametrize("name", LISTED)
def test_a_changed_size_is_found_at_opening(folder: Path, name: str) -> None:
    path = folder / name
    whole = path.read_bytes()
    for changed in (whole[:-1], whole + b"\n", b""):
        path.write_bytes(changed)
        with pytest.raises(CorruptGallery, match=f"{name} has {len(changed)} bytes"):
            Gallery.open(folder)


@pytest.mark.parametrize("name", [*LISTED, "manifest-000002.json"])
def test_a_missing_file_is_found_at_opening(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(CorruptGallery, match=f"{name} is gone"):
        Gallery.open(folder)


def test_a_file_that_goes_after_opening_is_found(folder: Path) -> None:
    gallery = Gallery.open(folder)
    (folder / LISTED[0]).unlink()
    (folder / LISTED[1]).write_bytes(b"short")
    problems = verify_gallery(gallery)
    assert len(problems) == 2
    assert "cannot be read: No such file" in " ".join(problems)
    assert "5 bytes, the manifest says" in " ".join(problems)


def test_progress_counts_every_byte(folder: Path) -> None:
    seen: list[int] = []
    verify_gallery(Gallery.open(folder), progress=seen.append)
    names = [*LISTED, "manifest-000000.json", "manifest-000001.json"]
    assert sum(seen) == sum((folder / name).stat().st_size for name in names)


@pytest.mark.parametrize("name", ["manifest-000000.json", "manifest-000001.json"])
def test_damage_to_the_history_is_found(folder: Path, name: str) -> None:
    path = folder / name
    whole = path.read_bytes()
    for offset in range(0, len(whole), 7):
        path.write_bytes(flipped(whole, offset, 0xFF))
        assert damage(folder) == (
            f"{path}: its bytes have changed since it was written (sha256 differs)"
        )
    path.write_bytes(whole.replace(b"manifest-000000", b"manifest-000001"))
    assert (damage(folder) == "") == (path.read_bytes() == whole)  # and it ends
    path.unlink()
    assert damage(folder) == f"{path}: cannot be read: No such file or directory"


@pytest.mark.parametrize("name", ["CURRENT", "manifest-000002.json", "shards/000002/shard.json"])
def test_a_newer_format_is_refused(folder: Path, name: str) -> None:
    edit_json(folder / name, format=[2, 0])
    relist(folder)
    with pytest.raises(FormatTooNew, match=f"{name}: format 2 is newer .*upgrade"):
        _ = Gallery.open(folder).items


def test_a_newer_format_is_refused_even_if_nothing_else_can_be_read(folder: Path) -> None:
    (folder / "CURRENT").write_text('{"format": [2, 0], "where": "elsewhere"}')
    with pytest.raises(FormatTooNew, match="format 2 is newer"):
        Gallery.open(folder)


def test_contents_that_do_not_fit_each_other_are_found(folder: Path) -> None:
    edit_json(folder / LISTED[2], rows=2)
    relist(folder)
    with pytest.raises(CorruptGallery, match="says 2 rows, the manifest 3"):
        _ = Gallery.open(folder).items
    assert "vectors.h5 holds no global array of shape" in damage(folder)


def test_vectors_that_are_not_finite_are_found(folder: Path) -> None:
    with h5py.File(folder / LISTED[3], "r+") as file:
        file["global"][1, 2] = np.nan
    relist(folder)
    assert damage(folder) == f"{folder}/shards/000002: vectors.h5 holds NaN or Inf"


@pytest.mark.parametrize(("item", "words"), [(2, "given twice"), (13, "beyond the next one")])
def test_item_ids_that_cannot_be_are_found(folder: Path, item: int, words: str) -> None:
    path = folder / LISTED[4]
    table = pq.read_table(path)
    ids = table["item"].to_pylist()
    pq.write_table(table.set_column(0, "item", [[item, *ids[1:]]]), path)
    relist(folder)
    assert words in damage(folder)


def flipped(whole: bytes, offset: int, mask: int) -> bytes:
    return whole[:offset] + bytes([whole[offset] ^ mask]) + whole[offset + 1 :]


def edit_json(path: Path, **change: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **change}))


def relist(folder: Path) -> None:
    """Make the manifest's sizes and sums, and CURRENT's, fit what is there now."""
    manifest = folder / "manifest-000002.json"
    data = json.loads(manifest.read_bytes())
    for shard in data["shards"]:
        for name, entry in shard["files"].items():
            path = folder / shard["folder"] / name
            entry.update(bytes=path.stat().st_size, sha256=sha256_file(path))
    manifest.write_text(json.dumps(data))
    edit_json(folder / "CURRENT", sha256=sha256_file(manifest))
