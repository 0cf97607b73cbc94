"""Galleries of formats to come: a newer minor version is read and not written, what one must know
of to read it is said, and of a newer major version nothing but its number is looked at."""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import contents
from golden_world import GOLDENS, RATE, item, vector

from reid_index import Gallery, Reranking, verify_gallery
from reid_index.errors import FormatTooNew
from reid_index.evaluation.calibration import calibrate, read_calibration, write_calibration
from reid_index.files import json_bytes
from reid_index.store.shard import FORMAT, open_shard

MINOR = [FORMAT[0], FORMAT[1] + 1]
MAJOR = [FORMAT[0] + 1, 0]
FULL = [g for g in GOLDENS if g.path.exists() and g.fresh and g.k1 and g.index][-1]
"""The latest golden gallery with everything attached."""

JSON_FILES = ("CURRENT", "manifest", "shard.json", "graph.json", "index.json", "calibration.json")
FREE = {"about", "columns", "fingerprint", "parameters", "recipe", "versions"}
"""Objects whose keys are not of the format."""

Json = Any


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A copy of FULL."""
    shutil.copytree(FULL.path, tmp_path / "g")
    return tmp_path / "g"


def rewrite(path: Path, edits: Mapping[str, Callable[[Json], Json]]) -> list[str]:
    """Change the present generation's JSON files, by name, and what tells their sizes and sums;
    which were changed. "manifest" is the present one."""

    def write(file: Path, name: str, value: Json) -> dict[str, Json]:
        content = json_bytes(edits[name](value) if name in edits else value)
        file.write_bytes(content)
        changed.append(name)
        return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}

    changed: list[str] = []
    current = json.loads((path / "CURRENT").read_bytes())
    manifest = json.loads((path / current["manifest"]).read_bytes())
    for listed in (*manifest["shards"], *manifest["attached"]):
        for name in edits.keys() & listed["files"].keys():
            file = path / listed["folder"] / name
            listed["files"][name] = write(file, name, json.loads(file.read_bytes()))
    current["sha256"] = write(path / current["manifest"], "manifest", manifest)["sha256"]
    write(path / "CURRENT", "CURRENT", current)
    return changed


def with_unknown_fields(value: Json) -> Json:
    """One more in every object of the format's."""
    if isinstance(value, list):
        return [with_unknown_fields(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    found = {
        name: {key: with_unknown_fields(entry) for key, entry in field.items()}
        if name == "files"
        else field
        if name in FREE
        else with_unknown_fields(field)
        for name, field in value.items()
    }
    return found | {"moons": [{"of": None}, 1.5]}


def newer_minor(value: Json) -> Json:
    return with_unknown_fields(value) | ({"format": MINOR} if "format" in value else {})


def told(gallery: Gallery) -> Json:
    """What a gallery answers by its rows, graph, index and calibration."""
    query, reranking = vector(5000), Reranking(k1=FULL.k1 or 1, k2=FULL.k2)
    calibration, graph, index = read_calibration(gallery), gallery.graph, gallery.index
    assert calibration is not None
    assert graph is not None
    assert index is not None
    return [
        gallery.items.to_pylist(),
        gallery.search(query, k=9, where="camera = 2").matches,
        gallery.search(query, k=9, rerank=reranking).matches,
        index.search(np.array([query], np.float32), 9, effort=9).tolist(),
        calibration.threshold(RATE),
    ]


def with_a_map(path: Path) -> Callable[[Json], Json]:
    """Adds an attachment of a new kind to a manifest, and a file of it to a shard."""

    def edit(manifest: Json) -> Json:
        shard = manifest["shards"][0]
        entry = {"kind": "map", "folder": "attached/000099-map", "covers": [shard["folder"]]}
        for folder in (entry["folder"], shard["folder"]):
            (path / folder).mkdir(exist_ok=True)
            (path / folder / "map.bin").write_bytes(b"map")
        told = {"map.bin": {"bytes": 3, "sha256": hashlib.sha256(b"map").hexdigest()}}
        shard["files"] |= told
        manifest["attached"].append(entry | {"files": told})
        return newer_minor(manifest)

    return edit


def test_a_newer_minor_version_with_more_of_everything_is_read(path: Path) -> None:
    before = told(Gallery.open(FULL.path))
    edits = dict.fromkeys(JSON_FILES, newer_minor) | {"manifest": with_a_map(path)}
    assert set(rewrite(path, edits)) == set(JSON_FILES)
    gallery = Gallery.open(path)
    assert told(gallery) == before
    assert verify_gallery(gallery) == []


WRITES: dict[str, Callable[[Gallery], object]] = {
    "add": lambda gallery: gallery.add([vector(1)], [item(1)]),
    "build_graph": lambda gallery: gallery.build_graph(Reranking(k1=2, k2=1)),
    "calibrate": lambda gallery: write_calibration(
        gallery, calibrate(gallery, false_match_rate=RATE)
    ),
    "drop the index": lambda gallery: gallery.build_index("flat"),
    "delete": lambda gallery: gallery.delete(where="camera = 2"),
    "compact": lambda gallery: gallery.compact(),
}


@pytest.mark.parametrize("write", WRITES)
def test_a_newer_minor_version_is_not_written_to(path: Path, write: str) -> None:
    """The next manifest would lack what it has and this version does not know of."""
    rewrite(path, {"CURRENT": newer_minor, "manifest": newer_minor})
    before = contents(path)
    with pytest.raises(FormatTooNew, match=r"^/.*/g was written by a newer.* only reads.* upgrade"):
        WRITES[write](Gallery.open(path))
    assert {name: raw for name, raw in contents(path).items() if name != "lock"} == before


def test_a_shard_of_a_newer_minor_version_can_be_added(path: Path, tmp_path: Path) -> None:
    """It is read and written again, as all that are added."""
    rewrite(path, {"shard.json": newer_minor})
    first = open_shard(path / Gallery.open(path).manifest.folders[0])
    gallery = Gallery.create(
        tmp_path / "new", dim=4, fingerprint=first.header.fingerprint, metric=FULL.metric
    )
    gallery.add_shards([first.folder])
    assert gallery.items["source"].equals(first.items["source"])


@pytest.mark.parametrize("name", ["CURRENT", "manifest", "shard.json"])
def test_what_it_must_know_of_to_read_it_is_said(path: Path, name: str) -> None:
    needs = {"format": MINOR, "requires": ["moons"]}
    rewrite(path, {"CURRENT": newer_minor, "manifest": newer_minor, name: lambda old: old | needs})
    with pytest.raises(FormatTooNew, match=r"must know of \['moons'\], .*; upgrade reid-index$"):
        Gallery.open(path).search(vector(1))


@pytest.mark.parametrize(
    ("name", "gone"),
    [
        ("CURRENT", ["manifest-*", "shards", "attached"]),
        ("manifest", ["shards", "attached"]),
        ("shard.json", ["attached"]),
    ],
)
def test_of_a_newer_major_version_nothing_else_is_looked_at(
    path: Path, name: str, gone: list[str]
) -> None:
    """Neither at its other fields nor at other files."""
    rewrite(path, {name: lambda _: {"format": MAJOR, "requires": 7, "manifest": {"rows": -1}}})
    for entry in [entry for pattern in gone for entry in path.glob(pattern)]:
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    words = (
        rf"{name}.*: format {MAJOR[0]} is newer than the {FORMAT[0]} that .*; upgrade reid-index"
    )
    with pytest.raises(FormatTooNew, match=words):
        Gallery.open(path).search(vector(1))


def test_the_current_file_of_a_newer_major_version_may_look_as_it_likes(path: Path) -> None:
    """That of this one has just the bytes that `json_bytes` gives, as no checksum covers it."""
    (path / "CURRENT").write_bytes(b'{"format":[%d,0],"format":[%d,0]}' % (FORMAT[0], MAJOR[0]))
    with pytest.raises(FormatTooNew, match="upgrade"):
        Gallery.open(path)
