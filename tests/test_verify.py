"""Damage: a changed size is found at opening, a changed byte by opening or by verify."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
from cli_world import assert_refused, run, succeed
from conftest import FINGERPRINT, contents

from reid_index import Gallery, Metric, Reranking, verify_gallery, write_shard
from reid_index.errors import CorruptGallery, FormatTooNew, ReidIndexError
from reid_index.evaluation.calibration import calibrate, write_calibration
from reid_index.files import json_bytes, sha256_file
from reid_index.store.items import item_table
from reid_index.store.vectors import ArrayStream
from reid_index.upkeep.verify import Repaired, repair_gallery, unlisted_files

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
    assert "shard.json says 2 rows, the manifest 3" in damage(folder)


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


# Counts, in a gallery of the present format


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows 0 … 29 and 30 … 39, of which 3 and 31 are deleted; then a graph and a calibration."""
    path = tmp_path_factory.mktemp("verify") / "g"
    rng = np.random.default_rng(3)
    with Gallery.create(path, dim=4, fingerprint=FINGERPRINT, metric="euclidean") as gallery:
        for count in (30, 10):
            items = [{"camera": n % 2, "person": f"p{n // 4}"} for n in range(count)]
            gallery.add(rng.normal(size=(count, 4)), items)
        gallery.delete(items=[3, 31])
        gallery.build_graph(Reranking(k1=3, k2=2))
        write_calibration(gallery, calibrate(gallery, false_match_rate=0.5))
    return path


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    path = Path(shutil.copytree(made, tmp_path / "g"))
    assert verify_gallery(Gallery.open(path)) == []
    return path


BITS = "deleted/000003-000001.bits"


@pytest.mark.parametrize(
    ("bits", "words"),
    [
        (b"\x02\x04", f"{BITS}: it deletes rows beyond the last of 10"),
        (b"\x06\x00", f"{BITS}: it deletes 2 rows, the manifest says 1"),
        (b"\x02", f"{BITS}: it has 1 bytes, which are not those of 10 rows"),
    ],
)
def test_deletions_that_do_not_fit_are_found(copy: Path, bits: bytes, words: str) -> None:
    (copy / BITS).write_bytes(bits)
    recommit(copy)
    assert f"{copy}/{words}" in damage(copy)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"max_norm": 0.5}, "the longest vector has length 0.5, it has"),
        ({"normalised": True}, "all vectors have length 1, and one has not"),
        ({"dtype": "float16"}, "vectors.h5 holds global as float32, not float16"),
        ({"metric": "cosine"}, "shard.json has another metric than the manifest"),
        ({"fingerprint": {"name": "x", "version": "1"}}, "has another fingerprint than"),
        ({"dim": 5}, "vectors.h5 holds no global array of shape (10, 5)"),
        ({"rows": 9}, "shard.json says 9 rows, the manifest 10"),
    ],
)
def test_a_header_that_claims_something_else_is_found(
    copy: Path, change: dict[str, Any], words: str
) -> None:
    edit_json(copy / "shards/000002/shard.json", **change)
    recommit(copy)
    assert words in damage(copy)


def test_parts_that_are_not_finite_or_visible_are_found(tmp_path: Path) -> None:
    rows = np.eye(3, 4, dtype=np.float32)
    write_shard(
        tmp_path / "s",
        arrays={
            "global": ArrayStream.of(rows),
            "parts": ArrayStream.of(np.ones((3, 2, 4), np.float32)),
            "visible": ArrayStream.of(np.ones((3, 2), np.uint8)),
        },
        items=[item_table(None, rows=3)],
        fingerprint=FINGERPRINT,
        metric=Metric.COSINE,
    )
    gallery = Gallery.create(tmp_path / "g", dim=4, fingerprint=FINGERPRINT)
    gallery.add_shards([tmp_path / "s"])
    assert verify_gallery(gallery) == []
    path = gallery.path / "shards/000001/vectors.h5"
    for name, value in (("visible", 2), ("parts", np.inf)):
        with h5py.File(path, "r+") as file:
            file[name][2, 1] = value
        recommit(gallery.path)
        assert f"in {name}" in damage(gallery.path)
        with h5py.File(path, "r+") as file:
            file[name][2, 1] = 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda m: m["columns"].pop("person"),
            "'person' is string, in the manifest missing",
        ),
        (lambda m: m["columns"].update(camera="x"), "'camera' is int32, in the manifest x"),
        (lambda m: m["shards"][1].update(first_item=29), "item ids are not those from 29 on"),
        (lambda m: m.update(next_item=39), "an item id is beyond the next one to be given"),
        (lambda m: m["attached"][0].update(deleted=1), "not those of 39 rows"),
        (lambda m: m["attached"][0].update(deleted=3), "made when 3 rows were deleted, and 2 are"),
        (
            lambda m: m["attached"][0].update(covers=["shards/000001"], deleted=1),
            "not those of 29 rows",
        ),
        (
            lambda m: m["attached"][1].update(covers=["shards/000009"]),
            "made from shards/000009, which is not there; `reid calibrate` makes it again",
        ),
        (lambda m: m["attached"][1].update(deleted=0), "it says 38 items, there were 40"),
        (lambda m: m["shards"][0].update(deleted=None), "it has 1 rows deleted, a later one 0"),
        (
            lambda m: m.update(
                previous=None, history=[past(4, m["created"]), past(4, m["created"])]
            ),
            "its history is numbered [4, 4, 5]",
        ),
    ],
)
def test_counts_that_do_not_fit_each_other_are_found(
    copy: Path, change: "Change", words: str
) -> None:
    recommit(copy, change)
    assert words in damage(copy)


def past(generation: int, created: str) -> dict[str, Any]:
    return {"generation": generation, "created": created, "what": "add", "rows": 1, "items": 1}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"positives": 1}, "it says 1); `reid calibrate` makes it again"),
        ({"items": 39}, "it says 39 items, there were 38"),
        ({"usable": 39}, "of 39 usable of 38 items"),
        ({"rows": 39}, "it is of 39 of 38 usable"),
        ({"generation": 6}, "generation 6"),
        ({"metric": "cosine"}, "it is of cosine, the gallery of euclidean"),
    ],
)
def test_a_calibration_that_counts_otherwise_is_found(
    copy: Path, change: dict[str, Any], words: str
) -> None:
    edit_json(copy / "attached/000005-calibration/calibration.json", **change)
    recommit(copy)
    assert words in damage(copy)


def test_current_is_read_again(copy: Path) -> None:
    with Gallery.open(copy) as gallery:
        (copy / "CURRENT").write_bytes((copy / "CURRENT").read_bytes() + b" ")
        (line,) = verify_gallery(gallery)
    assert line.startswith(f"{copy}/CURRENT: its bytes have changed")


# What no generation lists


def test_what_lies_in_the_folder_beside_it_is_told(copy: Path) -> None:
    for name in (".CURRENT.tmp", "shards/.000006.tmp/x", "attached/000006-graph/x", "notes.txt"):
        (copy / name).parent.mkdir(exist_ok=True)
        (copy / name).write_text("x")
    (copy / "shards/000001/more.txt").write_text("x")
    (copy / "manifest-000006.json").write_text("x")
    left = "left over from an interrupted write; the next write removes it"
    unknown = "not a file of this gallery; nothing reads it"
    with Gallery.open(copy) as gallery:
        assert verify_gallery(gallery) == []
        assert unlisted_files(gallery) == [
            f"{copy}/.CURRENT.tmp: {left}",
            f"{copy}/attached/000006-graph: {left}",
            f"{copy}/manifest-000006.json: {left}",
            f"{copy}/notes.txt: {unknown}",
            f"{copy}/shards/.000006.tmp: {left}",
            f"{copy}/shards/000001/more.txt: {unknown}",
        ]


@pytest.mark.parametrize("compacted", [False, True])
def test_what_a_reader_keeps_is_told_with_its_damage(copy: Path, compacted: bool) -> None:
    with Gallery.open(copy) as gallery, Gallery.open(copy):
        if compacted:
            gallery.compact()
        else:
            gallery.build_graph(Reranking(k1=3, k2=2))
        graph = copy / "attached/000004-graph"
        assert verify_gallery(gallery) == []
        kept = [line for line in unlisted_files(gallery) if str(graph) in line]
        assert kept == [f"{graph}: kept for a reader of generation 5"]
        (graph / "graph.json").write_text("x")
        assert verify_gallery(gallery) == []
        _, line = (line for line in unlisted_files(gallery) if str(graph) in line)
        assert line == (
            f"{graph}/graph.json: 1 bytes, the manifest says 60; the present generation does not "
            "need it"
        )
    with Gallery.open(copy) as gallery:
        line = next(line for line in unlisted_files(gallery) if str(graph) in line)
        assert line == f"{graph}: of generation 5; a later write removes it"


# Repair


def spoil(folder: Path, *names: str) -> None:
    for name in names:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(flipped(content, len(content) // 2, 1))


GRAPH, CALIBRATION = (
    "attached/000004-graph/graph.h5",
    "attached/000005-calibration/calibration.json",
)


def test_what_is_damaged_is_made_again(copy: Path) -> None:
    before = np.array(Gallery.open(copy).graph.near.index)  # type: ignore[union-attr]
    shards = contents(copy / "shards")
    spoil(copy, GRAPH, CALIBRATION)
    with Gallery.open(copy) as gallery:
        assert len(verify_gallery(gallery)) == 2
        assert repair_gallery(gallery) == Repaired(("graph", "calibration"), (), whole=True)
        assert verify_gallery(gallery) == []
        assert np.array_equal(gallery.graph.near.index, before)  # type: ignore[union-attr]
        assert repair_gallery(gallery) == Repaired((), (), whole=True)
    assert contents(copy / "shards") == shards


def test_what_is_stale_is_made_again(copy: Path) -> None:
    with Gallery.open(copy) as gallery:
        gallery.delete(items=[0])
        assert repair_gallery(gallery).made == ("graph", "calibration")
        assert not gallery.is_stale("graph")
        assert not gallery.is_stale("calibration")


def test_nothing_is_made_from_damaged_shards(copy: Path) -> None:
    spoil(copy, GRAPH, "shards/000002/vectors.h5")
    before = contents(copy)
    with Gallery.open(copy) as gallery:
        repaired = repair_gallery(gallery)
    why = "left as it is: it would be made from shards that are damaged"
    assert repaired.made == ()
    graph, rows = repaired.left
    assert graph.startswith(f"{copy}/attached/")
    assert graph.endswith(f"-graph: {why}")
    assert rows.startswith(f"{copy}/shards/000002/vectors.h5: its bytes have changed")
    assert not repaired.whole
    assert contents(copy) == before


def test_damaged_history_is_left_and_said(copy: Path) -> None:
    spoil(copy, GRAPH, "manifest-000001.json")
    with Gallery.open(copy) as gallery:
        repaired = repair_gallery(gallery)
    assert (repaired.made, repaired.whole) == (("graph",), False)
    (line,) = repaired.left
    assert line.startswith(f"{copy}/manifest-000001.json: ")


def test_what_cannot_be_made_again_is_left(copy: Path, tmp_path: Path) -> None:
    listed = tmp_path / "pairs.csv"
    listed.write_text("a,b,same\n0,1,1\n0,9,0\n")
    with Gallery.open(copy) as gallery:
        write_calibration(gallery, calibrate(gallery, listed=listed, false_match_rate=1))
        gallery.delete(items=[5])
        repaired = repair_gallery(gallery)
    assert (repaired.made, repaired.whole) == (("graph",), True)
    assert "-calibration: left as it is: it was made from a list of pairs" in repaired.left[0]


def test_what_others_commit_meanwhile_is_not_called_left_over(copy: Path) -> None:
    with Gallery.open(copy) as reader, Gallery.open(copy) as gallery:
        gallery.delete(items=[5])
        notes = unlisted_files(reader)
        assert notes
        assert all("of a later generation" in note for note in notes)
        (copy / "manifest-000099.json").write_text("{}")
        assert any(
            "manifest-000099.json: left over from" in note for note in unlisted_files(reader)
        )


# The command


def test_the_command_repairs_and_says_what(copy: Path) -> None:
    spoil(copy, GRAPH)
    result = run("verify", copy)
    assert result.exit_code == 1
    assert "; `reid graph` makes it again\n" in result.stdout
    assert "--repair makes it again" in result.stderr
    assert succeed("verify", copy, "--repair").stdout == (
        f"{copy}: the graph was made again\n{copy} is whole\n"
    )
    assert succeed("verify", copy, "--repair").stdout.endswith("there was nothing to repair\n")
    spoil(copy, "shards/000001/items.parquet")
    result = run("verify", copy, "--repair")
    assert result.exit_code == 1
    assert result.stdout.startswith(f"{copy}/shards/000001/items.parquet: its bytes have changed")


def test_the_command_proves_an_erasure(copy: Path, tmp_path: Path) -> None:
    receipt = tmp_path / "receipt.json"
    assert_refused(run("verify", copy, "--erased", receipt), code=1, text="receipt.json")
    with Gallery.open(copy) as gallery:
        gallery.delete(items=[7, 8], receipt=receipt)
    result = run("verify", copy, "--erased", receipt)
    assert result.exit_code == 1
    assert "shards/000001/vectors.h5" in result.stdout
    assert "run `reid compact" in result.stderr
    with Gallery.open(copy) as gallery:
        gallery.compact()
    result = succeed("verify", copy, "--erased", receipt)
    assert "nothing is left of the 2 items deleted from generation 5: looked at" in result.stdout
    assert " 13 columns and 36 rows\n" in result.stdout


def flipped(whole: bytes, offset: int, mask: int) -> bytes:
    return whole[:offset] + bytes([whole[offset] ^ mask]) + whole[offset + 1 :]


def edit_json(path: Path, **change: Any) -> None:
    path.write_bytes(json_bytes({**json.loads(path.read_bytes()), **change}))


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


Change = Callable[[dict[str, Any]], object]


def recommit(folder: Path, change: Change = lambda _manifest: None) -> None:
    """Have the present manifest list the files as they are now, change it, and CURRENT name it."""
    current = json.loads((folder / "CURRENT").read_bytes())
    data = json.loads((folder / current["manifest"]).read_bytes())
    for listed in (*data["shards"], *data["attached"]):
        files = [(f"{listed['folder']}/{name}", entry) for name, entry in listed["files"].items()]
        if isinstance(listed["deleted"], dict):
            files.append((listed["deleted"]["file"], listed["deleted"]))
        for name, entry in files:
            path = folder / name
            entry.update(bytes=path.stat().st_size, sha256=sha256_file(path))
    for overlay in data.get("overlays", ()):
        path = folder / overlay["file"]
        overlay.update(bytes=path.stat().st_size, sha256=sha256_file(path))
    change(data)
    (folder / current["manifest"]).write_bytes(json_bytes(data))
    edit_json(folder / "CURRENT", sha256=sha256_file(folder / current["manifest"]))
