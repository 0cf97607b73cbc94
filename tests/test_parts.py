"""Parts in shards and galleries, and the matcher that belongs to them: what is written, carried on,
and refused."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pytest
from conftest import FINGERPRINT, contents
from numpy.typing import NDArray

from reid_index import (
    ArrayStream,
    Fingerprint,
    Gallery,
    Matcher,
    Metric,
    Shard,
    open_shard,
    verify_gallery,
    write_shard,
)
from reid_index.errors import (
    BadShard,
    CorruptGallery,
    DimensionMismatch,
    FormatTooNew,
    NotFiniteError,
    UsageError,
)
from reid_index.files import json_bytes

ALIGNED = Matcher(name="aligned", weight=0.5)
Make = Callable[..., Gallery]


def drawn(rows: int, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Vectors (n, 3) and parts (n, 2, 4)."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(rows, 3)).astype(np.float32)
    return vectors, rng.normal(size=(rows, 2, 4)).astype(np.float32)


def write(path: Path, rows: int = 5, seed: int = 0, **options: Any) -> Path:
    """A shard with parts and a matcher; arrays: further or other ones."""
    vectors, parts = drawn(rows, seed)
    arrays = {"global": vectors, "parts": parts} | options.pop("arrays", {})
    write_shard(
        path,
        arrays={name: ArrayStream.of(one) for name, one in arrays.items() if one is not None},
        items=[options.pop("items", pa.table({"camera": [1] * rows}))],
        **{
            "fingerprint": FINGERPRINT,
            "metric": Metric.COSINE,
            "matcher": ALIGNED,
            **options,
        },
    )
    return path


def shards_of(gallery: Gallery) -> list[Shard]:
    return [open_shard(gallery.path / folder) for folder in gallery.manifest.folders]


def parts_of(gallery: Gallery) -> list[Any]:
    return [part for shard in shards_of(gallery) for part in shard.arrays["parts"].tolist()]


def json_of(path: Path) -> Any:
    return json.loads(path.read_bytes())


def test_a_shard_says_its_matcher_and_that_readers_must_know_of_it(tmp_path: Path) -> None:
    folder = write(tmp_path / "s")
    assert open_shard(folder).header.matcher == ALIGNED
    np.testing.assert_array_equal(open_shard(folder).arrays["parts"], drawn(5)[1])
    told = json_of(folder / "shard.json")
    assert told["matcher"] == {"name": "aligned", "weight": 0.5}
    assert told["requires"] == ["matcher"]


def test_without_one_nothing_is_required(tmp_path: Path) -> None:
    folder = write(tmp_path / "s", matcher=None)
    told = json_of(folder / "shard.json")
    assert (told["matcher"], told["requires"]) == (None, [])
    assert open_shard(folder).header.matcher is None


@pytest.mark.parametrize(
    ("options", "error", "named"),
    [
        ({"arrays": {"parts": None}}, BadShard, "it has no parts, and its matcher"),
        ({"arrays": {"parts": np.ones((5, 4))}}, BadShard, r"parts have the shape \(5, 4\)"),
        ({"arrays": {"parts": np.ones((5, 0, 4))}}, BadShard, r"\(5, 0, 4\), and \(rows, P, Dp\)"),
        ({"arrays": {"parts": np.ones((4, 2, 4))}}, BadShard, "parts has 4 rows beside 5"),
        ({"arrays": {"visible": np.ones((5, 2))}}, BadShard, r"knows no hidden ones \(visible\)"),
        ({"arrays": {"parts": np.full((5, 2, 4), np.nan)}}, NotFiniteError, "parts holds NaN"),
        ({"metric": Metric.EUCLIDEAN}, UsageError, "compared by euclidean: choose cosine"),
        ({"metric": Metric.INNER_PRODUCT}, UsageError, "compared by inner_product: choose"),
        (
            {"arrays": {"parts": np.full((5, 2, 4), 1e6)}, "dtype": "float16"},
            NotFiniteError,
            "too large for float16",
        ),
    ],
)
def test_a_matcher_needs_parts_that_it_can_compare(
    tmp_path: Path, options: dict[str, Any], error: type[Exception], named: str
) -> None:
    with pytest.raises(error, match=named):
        write(tmp_path / "s", **options)
    assert list(tmp_path.iterdir()) == []


def edited(folder: Path, edit: Callable[[Any], Any]) -> Path:
    """The shard with a changed shard.json."""
    path = folder / "shard.json"
    path.write_bytes(json_bytes(edit(json_of(path))))
    return folder


@pytest.mark.parametrize(
    ("changes", "error", "named"),
    [
        ({"matcher": None}, BadShard, "it requires a matcher and has none"),
        ({"matcher": 7}, BadShard, "the matcher is 7, not an object"),
        ({"matcher": {"name": "aligned", "weight": "1"}}, BadShard, "weight is '1', not a finite"),
        ({"metric": "euclidean"}, BadShard, "choose cosine"),
        (
            {"matcher": {"name": "moons", "weight": 1}},
            FormatTooNew,
            "'moons', which this reid-inde",
        ),
        ({"matcher": {"name": "aligned", "weight": 1, "of": 1}}, FormatTooNew, "upgrade"),
        ({"requires": ["matcher", "moons"]}, FormatTooNew, r"know of \['moons'\]"),
    ],
)
def test_a_damaged_or_newer_matcher_is_refused(
    tmp_path: Path, changes: dict[str, Any], error: type[Exception], named: str
) -> None:
    folder = edited(write(tmp_path / "s"), lambda told: told | changes)
    with pytest.raises(error, match=named) as caught:
        open_shard(folder)
    assert str(caught.value).startswith(f"{folder}/shard.json")


def test_a_matcher_without_parts_is_refused(tmp_path: Path) -> None:
    """Somebody wrote one into the shard.json of a shard that has none."""
    told = {"matcher": ALIGNED.to_json(), "requires": ["matcher"]}
    bare = write(tmp_path / "s", matcher=None, arrays={"parts": None})
    with pytest.raises(BadShard, match="it has no parts, and its matcher"):
        _ = open_shard(edited(bare, lambda old: old | told)).arrays


@pytest.fixture
def gallery(make_gallery: Make, tmp_path: Path) -> Gallery:
    """Three shards with parts: 5 rows, 4, 3."""
    made = make_gallery(matcher=ALIGNED)
    made.add_shards([write(tmp_path / "s")])
    for rows, seed in ((4, 1), (3, 2)):
        vectors, parts = drawn(rows, seed)
        made.add(vectors, [{"camera": seed}] * rows, parts=parts)
    return made


def all_parts() -> list[Any]:
    return [
        part for rows, seed in ((5, 0), (4, 1), (3, 2)) for part in drawn(rows, seed)[1].tolist()
    ]


def assert_carried(gallery: Gallery, matcher: Matcher | None = ALIGNED) -> None:
    again = Gallery.open(gallery.path)
    assert (again.matcher, again.manifest.matcher) == (matcher, matcher)
    assert [shard.header.matcher for shard in shards_of(again)] == [matcher] * len(shards_of(again))
    told = json_of(again.path / again.manifest.file_name)
    assert ("matcher" in told["requires"]) is (matcher is not None)
    assert told["matcher"] == (None if matcher is None else matcher.to_json())
    assert verify_gallery(again) == []


def test_a_gallery_carries_its_matcher_through_all_that_changes_it(gallery: Gallery) -> None:
    assert_carried(gallery)
    assert parts_of(gallery) == all_parts()
    assert gallery.delete(items=[1, 6]) == 2
    assert_carried(gallery)
    told = json_of(gallery.path / gallery.manifest.file_name)
    assert told["requires"] == ["deletions", "matcher"]
    gallery.compact()
    assert_carried(gallery)
    kept = [part for item, part in enumerate(all_parts()) if item not in (1, 6)]
    assert parts_of(gallery) == kept
    gallery.attach("calibration", fill, generation=gallery.manifest.generation)
    assert_carried(gallery)
    gallery.rebuild([gallery.path / name for name in gallery.manifest.folders], recipe={"a": 1})
    assert_carried(gallery)
    assert parts_of(gallery) == kept


def fill(folder: Path) -> None:
    (folder / "notes.txt").write_text("anything")


def test_an_empty_gallery_has_one_too(make_gallery: Make) -> None:
    made = make_gallery(matcher=ALIGNED)
    assert_carried(made)
    assert made.add(np.empty((0, 3)), parts=np.empty((0, 2, 4))) is False


@pytest.mark.parametrize("matcher", [None, Matcher(name="aligned", weight=2.0)])
def test_rebuilding_takes_the_matcher_of_the_new_shards(
    gallery: Gallery, tmp_path: Path, matcher: Matcher | None
) -> None:
    items = pa.table({"item": np.arange(12)})
    other = Fingerprint(name="external:other", version="1")
    new = write(tmp_path / "new", 12, 7, items=items, fingerprint=other, matcher=matcher)
    gallery.rebuild([new], recipe={})
    assert_carried(gallery, matcher)
    assert parts_of(gallery) == drawn(12, 7)[1].tolist()


def test_rebuilding_from_shards_of_two_matchers_is_refused(
    gallery: Gallery, tmp_path: Path
) -> None:
    one = write(tmp_path / "one", 6, items=pa.table({"item": np.arange(6)}))
    items = pa.table({"item": np.arange(6, 12)})
    other = write(tmp_path / "other", 6, items=items, matcher=None)
    with pytest.raises(BadShard, match=r"not of one .*, or of one matcher"):
        gallery.rebuild([one, other], recipe={})


@pytest.mark.parametrize(
    ("of_shard", "of_gallery", "named"),
    [
        (None, ALIGNED, "compared by vectors alone, the gallery by aligned parts, weight 0.5"),
        (ALIGNED, None, "compared by aligned parts, weight 0.5, the gallery by vectors alone"),
        (Matcher(name="aligned"), ALIGNED, "weight 1, the gallery by aligned parts, weight 0.5"),
    ],
)
def test_a_shard_of_another_matcher_is_not_added(
    make_gallery: Make,
    tmp_path: Path,
    of_shard: Matcher | None,
    of_gallery: Matcher | None,
    named: str,
) -> None:
    made = make_gallery(matcher=of_gallery)
    before = contents(made.path)
    with pytest.raises(BadShard, match=f"{named}: write it again"):
        made.add_shards([write(tmp_path / "s", matcher=of_shard)])
    assert contents(made.path) == before


@pytest.mark.parametrize(
    ("parts", "error", "named"),
    [
        (None, UsageError, "by aligned parts, weight 0.5, too: add vectors with their parts"),
        (np.ones((2, 4)), DimensionMismatch, r"shape \(2, 4\) for 2 vectors: \(2, P, Dp\)"),
        (np.ones((3, 2, 4)), DimensionMismatch, r"shape \(3, 2, 4\) for 2 vectors"),
        (np.ones((2, 3, 4)), BadShard, r"'parts': \(3, 4\).*'parts': \(2, 4\).*must have the same"),
        (np.ones((2, 0, 4)), BadShard, r"\(rows, P, Dp\) is needed"),
        (np.full((2, 2, 4), np.inf), NotFiniteError, "parts holds NaN, Inf"),
        ([[[1, 2, 3, 4], [1]], []], UsageError, "parts are numbers"),
        (np.full((2, 2, 4), "a"), UsageError, "real numbers"),
        (np.ones((2, 2, 4), complex), UsageError, "real numbers"),
    ],
)
def test_rows_without_fitting_parts_are_not_added(
    gallery: Gallery, parts: Any, error: type[Exception], named: str
) -> None:
    before = contents(gallery.path)
    with pytest.raises(error, match=named):
        gallery.add(np.ones((2, 3)), parts=parts)
    assert contents(gallery.path) == before


def test_parts_for_a_gallery_without_matcher_are_refused(make_gallery: Make) -> None:
    with pytest.raises(UsageError, match="parts say nothing: leave them out, or make a gallery"):
        make_gallery().add(np.ones((2, 3)), parts=np.ones((2, 2, 4)))


@pytest.mark.parametrize("metric", ["euclidean", "inner_product"])
def test_a_matcher_needs_a_cosine_gallery(make_gallery: Make, tmp_path: Path, metric: str) -> None:
    with pytest.raises(UsageError, match=f"compared by {metric}: choose cosine"):
        make_gallery(matcher=ALIGNED, metric=metric)
    assert list(tmp_path.iterdir()) == []


def rewritten(gallery: Gallery, edit: Callable[[Any], Any]) -> Path:
    """The gallery with a changed manifest, and a CURRENT that fits it."""
    path = gallery.path / gallery.manifest.file_name
    content = json_bytes(edit(json_of(path)))
    path.write_bytes(content)
    current = json_of(gallery.path / "CURRENT")
    current["sha256"] = hashlib.sha256(content).hexdigest()
    (gallery.path / "CURRENT").write_bytes(json_bytes(current))
    return gallery.path


@pytest.mark.parametrize(
    ("changes", "error", "named"),
    [
        ({"matcher": None}, CorruptGallery, "it requires a matcher and has none"),
        ({"matcher": []}, CorruptGallery, "the matcher is"),
        ({"matcher": {"name": "aligned", "weight": -1}}, CorruptGallery, "weight is -1"),
        ({"metric": "euclidean"}, CorruptGallery, "choose cosine"),
        ({"matcher": {"name": "moons", "weight": 1}}, FormatTooNew, "the matcher 'moons'"),
    ],
)
def test_a_manifest_with_a_damaged_or_newer_matcher_is_refused(
    gallery: Gallery, changes: dict[str, Any], error: type[Exception], named: str
) -> None:
    with pytest.raises(error, match=named) as caught:
        Gallery.open(rewritten(gallery, lambda told: told | changes))
    assert str(caught.value).startswith(f"{gallery.path}/manifest-")


def test_verify_compares_the_manifests_matcher_with_the_shards(gallery: Gallery) -> None:
    def heavier(told: Any) -> Any:
        return told | {"matcher": {"name": "aligned", "weight": 3}}

    lines = verify_gallery(Gallery.open(rewritten(gallery, heavier)))
    assert len(lines) == 3
    assert all(line.endswith("another matcher than the manifest") for line in lines)


def test_verify_finds_a_shard_without_parts_and_parts_of_two_shapes(
    gallery: Gallery, tmp_path: Path
) -> None:
    """What no write of this project makes, with sums that fit it."""
    folders = gallery.manifest.folders
    for folder, shape in ((folders[0], None), (folders[1], (4, 3, 4))):
        with h5py.File(gallery.path / folder / "vectors.h5", "r+") as file:
            del file["parts"]
            if shape is not None:
                file.create_dataset("parts", data=np.ones(shape, np.float32))

    def described(told: Any) -> Any:
        for shard in told["shards"]:
            path = gallery.path / shard["folder"] / "vectors.h5"
            shard["files"]["vectors.h5"] = {
                "bytes": path.stat().st_size,
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            }
        return told

    lines = verify_gallery(Gallery.open(rewritten(gallery, described)))
    assert any("it has no parts, and its matcher" in line for line in lines)
    assert any("parts of different shapes, [(2, 4), (3, 4)]" in line for line in lines)
