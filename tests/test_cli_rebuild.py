"""`reid rebuild`: as if the other model had built the gallery, whatever happens meanwhile."""

import json
import os
import shutil
import subprocess
import threading
import time

import numpy as np
import pytest
from cli_world import ENVIRONMENT, REID, assert_refused, real, run, succeed, tree
from PIL import Image

import cli.rebuild
from cli.world import draw_world
from extractors.extractor import Embedding, Extractor
from extractors.harvest import harvest
from extractors.pictures import find_pictures
from extractors.stripes import StripesExtractor
from reid_index import Fingerprint, Gallery, Metric, verify_gallery
from reid_index.store.commit import writer_lock

KILL = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"

IN_EXTRACTION = """
import functools, extractors.harvest as harvest
harvest.Pace = functools.partial(harvest.Pace, part_rows=4)
write, calls = harvest.write_shard, []
def write_shard(*arguments, **options):
    calls.append(1)
    if len(calls) == 3:
        {kill}
    write(*arguments, **options)
harvest.write_shard = write_shard
from cli.main import main
main()
"""
AFTER_COMMIT = """
import reid_index.upkeep.rebuild
def retire(gallery, present):
    {kill}
reid_index.upkeep.rebuild.retire = retire
from cli.main import main
main()
"""


class MeanColour(Extractor):
    """The model that galleries were built with before."""

    fingerprint = Fingerprint(name="mean-colour", version="1")
    dim = 3

    def prepare(self, crop):
        return crop.mean(axis=(0, 1), dtype=np.float64).astype(np.float32)

    def embed(self, batch):
        return Embedding(global_=batch)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """18 crops of 4 drawn people, with Market-style names."""
    folder = tmp_path_factory.mktemp("world") / "crops"
    assert draw_world(folder, people=4, cameras=3, crops_per_camera=2, seed=1) == 18
    return folder


@pytest.fixture
def crops(drawn, tmp_path):
    """The same, to do with them as a test likes."""
    return shutil.copytree(drawn, tmp_path / "crops")


def add(path, *sources, **look):
    """Add pictures to a gallery by the former model, which makes it where there is none."""
    source = find_pictures(sources, **look)
    model = MeanColour()
    parts = path.with_name(f"parts-of-{len(list(path.parent.iterdir()))}")
    taken = harvest(source, model, parts, metric=Metric.COSINE)
    if not path.exists():
        Gallery.create(path, dim=3, fingerprint=model.fingerprint)
    with Gallery.open(path) as gallery:
        gallery.add_shards(taken.parts)
    return path


@pytest.fixture
def path(crops, tmp_path):
    """A gallery of them by another model."""
    return add(tmp_path / "g", crops)


def rebuild(path, *options):
    return run("rebuild", path, "--extractor", "stripes", *options)


def vectors_of(path):
    """The bytes of the only shard's vectors."""
    [file] = path.glob("shards/*/vectors.h5")
    return file.read_bytes()


def items(path):
    return Gallery.open(path).items


def assert_as_built(path, *sources, **options):
    """The gallery holds, bit for bit, what one that is built of the sources now does."""
    anew = path.with_name("anew")
    named = [f"--{name}={value}" for name, value in options.items()]
    succeed("build", "--extractor", "stripes", *sources, "--out", anew, *named)
    assert vectors_of(path) == vectors_of(anew)
    ours, theirs = Gallery.open(path), Gallery.open(anew)
    assert ours.items.equals(theirs.items)
    assert ours.roots == theirs.roots
    assert ours.fingerprint == theirs.fingerprint
    assert ours.manifest.recipe == theirs.manifest.recipe
    assert ours.dim == theirs.dim
    assert verify_gallery(ours) == []
    assert not path.with_name(f"{path.name}.rebuilding").exists()


# What comes out


def test_it_becomes_the_gallery_that_the_other_model_builds(crops, path):
    result = rebuild(path)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == (f"{path}:\nitems    18\nremoved  nothing\nshards   1 before, 1 now\n")
    assert_as_built(path, crops)
    query = sorted(crops.iterdir())[5]
    found = succeed("query", path, query, "--top", "1", "--format", "jsonl")
    assert json.loads(found.stdout)["source"] == query.name


@pytest.mark.parametrize("options", [{"metric": "euclidean"}, {"dtype": "float16"}])
def test_metric_and_dtype_can_be_others(crops, path, options):
    [(name, value)] = options.items()
    assert rebuild(path, f"--{name}", value).exit_code == 0
    assert_as_built(path, crops, **options)


def test_boxes_cut_the_same_pixels_though_they_are_kept_in_single_precision(
    tmp_path, rng, monkeypatch
):
    (tmp_path / "pictures").mkdir()
    pixels = rng.integers(256, size=(40, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "pictures" / "a.png")
    # 0.1 + 2.9 is 3, and more than that where both are of single precision.
    boxes = tmp_path / "boxes.csv"
    boxes.write_text("file,x,y,w,h\na.png,0.1,5,2.9,20\na.png,4,5,10,20\n")
    path = add(tmp_path / "g", tmp_path / "pictures", boxes=boxes)
    assert rebuild(path).exit_code == 0
    assert_as_built(path, tmp_path / "pictures", boxes=boxes)


def test_a_gallery_of_vectors_that_names_pictures_can_be_rebuilt(crops, tmp_path):
    names = sorted(one.name for one in crops.iterdir())
    np.save(crops / "vectors.npy", np.eye(18, dtype=np.float32))
    (crops / "items.csv").write_text("source\n" + "\n".join(names))
    path = tmp_path / "g"
    source = ["--items", crops / "items.csv", "--extractor", "external:x"]
    succeed("build", "--extractor", "stripes", crops / "vectors.npy", *source, "--out", path)
    assert rebuild(path).exit_code == 0
    assert_as_built(path, *(crops / name for name in names), layout="folder")


def test_real_crops_are_embedded_by_a_network(tmp_path):
    weights = real("models", "osnet_x0_25_msmt17.onnx")
    (tmp_path / "in").mkdir()
    for crop in sorted(real("market1501", "bounding_box_train").glob("*.jpg"))[:400:10]:
        shutil.copy(crop, tmp_path / "in")
    path = tmp_path / "g"
    succeed("build", "--extractor", "stripes", tmp_path / "in", "--out", path)
    onnx = ["--extractor", "onnx", "--weights", weights]
    succeed("rebuild", path, *onnx)
    succeed("build", "--extractor", "stripes", tmp_path / "in", "--out", tmp_path / "anew", *onnx)
    ours, theirs = Gallery.open(path), Gallery.open(tmp_path / "anew")
    np.testing.assert_allclose(ours.vectors(range(40)), theirs.vectors(range(40)), atol=1e-6)
    assert ours.items.equals(theirs.items)
    assert ours.fingerprint == theirs.fingerprint
    assert ours.manifest.recipe == theirs.manifest.recipe
    target = tmp_path / "in" / items(path)["source"][7].as_py()
    found = succeed("query", path, target, "--top", "1", "--format", "jsonl")
    assert json.loads(found.stdout)["item"] == 7


# Meanwhile


def test_what_is_added_and_deleted_meanwhile_counts(crops, path, tmp_path, monkeypatch):
    """Once while pictures are read, and once between the last look and the writer's lock."""
    late, later = (crops.parent / name for name in ("late", "later"))
    for folder, name in ((late, "0009_c1s1_000001_01.jpg"), (later, "0009_c2s1_000001_01.jpg")):
        folder.mkdir()
        shutil.copy(sorted(crops.iterdir())[0], folder / name)
    extract, commit = cli.rebuild.extract, Gallery.rebuild
    extracted, commits = [], []

    def meanwhile(source, *arguments, **options):
        extracted.append(source.count)
        taken = extract(source, *arguments, **options)
        if len(extracted) == 1:
            assert Gallery.open(path).fingerprint.name == "mean-colour"
            add(path, late)
            with Gallery.open(path) as gallery:
                gallery.delete(items=[3])
        return taken

    def just_before(gallery, *arguments, **options):
        commits.append(1)
        if len(commits) == 1:
            add(path, later)
            with Gallery.open(path) as other:
                other.delete(items=[5])
        return commit(gallery, *arguments, **options)

    monkeypatch.setattr(cli.rebuild, "extract", meanwhile)
    monkeypatch.setattr(Gallery, "rebuild", just_before)
    result = rebuild(path, "--drop-missing")
    assert result.exit_code == 0, result.stderr
    assert extracted == [18, 1, 1]
    assert len(commits) == 2
    rebuilt = Gallery.open(path)
    assert rebuilt.items["item"].to_pylist() == [*(n for n in range(20) if n not in (3, 5))]
    assert verify_gallery(rebuilt) == []
    names = [*sorted(crops.iterdir()), *late.iterdir(), *later.iterdir()]
    shown = [names[item] for item in rebuilt.items["item"].to_pylist()]
    expected = StripesExtractor().extract([np.asarray(Image.open(one)) for one in shown]).global_
    np.testing.assert_allclose(rebuilt.vectors(range(18)), expected, atol=1e-6)
    assert [rebuilt.root_of(row) for row in (0, 16, 17)] == [str(crops), str(late), str(later)]


def test_a_reader_goes_on_with_the_former_vectors_and_is_named(path):
    with Gallery.open(path) as reader:
        before = reader.vectors(range(18))
        result = rebuild(path)
        assert result.exit_code == 1
        assert "items    18\n" in result.stdout
        assert result.stderr.startswith(f"erasure pending: generation 1 is held by {os.getpid()} (")
        again = rebuild(path)
        assert again.exit_code == 1
        assert "of this extractor already\nerasure pending: generation 1" in again.stderr
        np.testing.assert_array_equal(reader.vectors(range(18)), before)
    assert Gallery.open(path).fingerprint == StripesExtractor().fingerprint
    assert not path.with_name("g.rebuilding").exists()
    assert (path / "manifest-000001.json").exists()
    assert succeed("compact", path)
    assert not (path / "manifest-000001.json").exists()


def test_it_waits_a_while_for_another_writer(crops, path, monkeypatch):
    monkeypatch.setattr(cli.rebuild, "_PAUSE", 0.01)
    commit, begun = Gallery.rebuild, threading.Event()

    def tell(gallery, *arguments, **options):
        begun.set()
        return commit(gallery, *arguments, **options)

    monkeypatch.setattr(Gallery, "rebuild", tell)

    def write():
        with writer_lock(path):
            locked.set()
            begun.wait(5)
            time.sleep(0.05)

    locked = threading.Event()
    other = threading.Thread(target=write)
    other.start()
    assert locked.wait(5)
    result = rebuild(path)
    other.join()
    assert result.exit_code == 0, result.stderr
    assert_as_built(path, crops)


def test_it_does_not_wait_for_ever_and_keeps_what_is_done(crops, path, monkeypatch):
    monkeypatch.setattr(cli.rebuild, "_PATIENCE", 0.0)
    with writer_lock(path):
        result = rebuild(path)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "another process is writing to it" in result.stderr
    again = rebuild(path)
    assert again.stderr == "18 crops were there from an earlier run\n"
    assert_as_built(path, crops)


# Interrupted


def killed(script, path):
    """A rebuild in a process that is killed, where the script says so."""
    command = [REID[0], "-c", script.format(kill=KILL), "rebuild", path, "--extractor", "stripes"]
    done = subprocess.run([*command, "--batch-size=4"], env=ENVIRONMENT, capture_output=True)
    assert done.returncode == -9


def test_a_rebuild_that_was_killed_goes_on_though_the_gallery_has_changed(crops, path):
    before = tree(path)
    killed(IN_EXTRACTION, path)
    assert tree(path) == before
    names = sorted(crops.iterdir())
    with Gallery.open(path) as gallery:
        gallery.delete(items=[0, 17])
    for name in (names[0], names[17]):
        name.unlink()
    result = rebuild(path)
    assert (result.exit_code, result.stderr) == (0, "8 crops were there from an earlier run\n")
    assert items(path)["source"].to_pylist() == [name.name for name in names[1:-1]]
    assert items(path)["item"].to_pylist() == list(range(1, 17))
    anew = path.with_name("anew")
    succeed("build", "--extractor", "stripes", crops, "--out", anew)
    assert vectors_of(path) == vectors_of(anew)
    assert not path.with_name("g.rebuilding").exists()


def test_a_rebuild_that_was_killed_behind_its_commit_is_not_done_again(crops, path):
    killed(AFTER_COMMIT, path)
    left = path.with_name("g.rebuilding")
    assert left.exists()
    assert (path / "shards" / "000001").exists()
    rebuilt = (path / "CURRENT").read_bytes()
    with Gallery.open(path) as reader:
        result = rebuild(path)
        assert (result.exit_code, result.stdout) == (0, "")
        assert len(reader) == 18
    assert result.stderr == (
        f"{left}: removed what an earlier run had left\n"
        f"{path}: its vectors are of this extractor already\n"
    )
    assert (path / "CURRENT").read_bytes() == rebuilt
    assert not (path / "shards" / "000001").exists()
    assert_as_built(path, crops)


def test_only_parts_whose_pictures_changed_are_extracted_again(crops, path, monkeypatch):
    killed(IN_EXTRACTION, path)
    names = sorted(crops.iterdir())
    Image.new("RGB", (20, 40), (200, 10, 10)).save(names[1])
    names[4].rename(crops.parent / "away.jpg")  # gone, after it was extracted
    result = rebuild(path)
    assert result.stderr == "4 crops were there from an earlier run\n"
    (crops.parent / "away.jpg").rename(names[4])
    assert_as_built(path, crops)


def test_an_unfinished_rebuild_by_another_model_is_not_mixed_in(crops, path):
    killed(IN_EXTRACTION, path)
    left = path.with_name("g.rebuilding")
    before = tree(left)
    result = rebuild(path, "--dtype", "float16")
    assert_refused(result, code=2, text="holds an unfinished rebuild with another dtype; run that")
    assert tree(left) == before
    shutil.rmtree(left)
    assert rebuild(path, "--dtype", "float16").exit_code == 0
    assert_as_built(path, crops, dtype="float16")


# Pictures that cannot be read


def test_missing_pictures_are_named_and_what_is_done_is_kept(crops, path):
    before = tree(path)
    names = sorted(crops.iterdir())
    names[2].rename(crops.parent / "away.jpg")
    names[9].write_bytes(b"no picture")
    result = rebuild(path)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.splitlines()[-1] == (
        f"reid: {path}: no picture of 2 items can be read "
        f"(2: {names[2].name}, 9: {names[9].name}): put them there and run this "
        "again, which keeps what is done; or leave these items out by "
        "--drop-missing"
    )
    assert tree(path) == before
    (crops.parent / "away.jpg").rename(names[2])
    again = rebuild(path)
    assert again.exit_code == 1
    assert again.stderr.startswith("16 crops were there from an earlier run\n")
    assert f": no picture of 1 item can be read (9: {names[9].name})" in again.stderr
    dropped = rebuild(path, "--drop-missing")
    assert dropped.exit_code == 0
    assert "17 crops were there from an earlier run\n" in dropped.stderr
    assert "left out  1 item without a readable picture\n" in dropped.stdout
    assert items(path)["item"].to_pylist() == [item for item in range(18) if item != 9]
    names[9].unlink()
    anew = path.with_name("anew")
    succeed("build", "--extractor", "stripes", crops, "--out", anew)
    assert vectors_of(path) == vectors_of(anew)


def test_pictures_that_moved_are_found_by_root(crops, path):
    moved = crops.rename(crops.parent / "elsewhere")
    result = rebuild(path)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "not one of the pictures of its 18 items can be read; --root says" in result.stderr
    assert not path.with_name("g.rebuilding").exists()
    assert rebuild(path, "--root", moved).exit_code == 0
    assert Gallery.open(path).roots == (str(moved),)
    anew = path.with_name("anew")
    succeed("build", "--extractor", "stripes", moved, "--out", anew)
    assert vectors_of(path) == vectors_of(anew)


def test_a_gallery_of_that_extractor_learns_where_its_pictures_are_now(crops, path):
    assert rebuild(path).exit_code == 0
    before = vectors_of(path)
    moved = crops.rename(crops.parent / "elsewhere")
    result = rebuild(path, "--root", moved)
    assert result.exit_code == 0, result.stderr
    assert "its vectors are of this extractor already" in result.stderr
    with Gallery.open(path) as gallery:
        assert gallery.roots == (str(moved),)
        assert verify_gallery(gallery) == []
    assert vectors_of(path) == before
    generation = Gallery.open(path).manifest.generation
    assert rebuild(path, "--root", moved).exit_code == 0  # there is nothing to be done now
    assert Gallery.open(path).manifest.generation == generation
    assert f"{moved}: left out 18: in the gallery already" in succeed("add", path, moved).stderr


def test_damaged_vectors_are_not_taken_along(crops, path):
    assert rebuild(path).exit_code == 0
    with Gallery.open(path) as gallery:
        file = gallery.path / gallery.manifest.folders[0] / "vectors.h5"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    result = rebuild(path, "--root", crops.rename(crops.parent / "elsewhere"))
    assert result.exit_code == 1
    assert "vectors.h5: its bytes have changed" in result.stderr


def test_several_roots_are_found_below_one(drawn, tmp_path):
    """They keep their places in what they have in common."""
    names = sorted(drawn.iterdir())
    for number, name in enumerate(names):
        folder = tmp_path / "then" / f"day{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(name, folder)
    for number in range(2):
        add(tmp_path / "g", tmp_path / "then" / f"day{number}")
    (tmp_path / "then").rename(tmp_path / "now")
    path = tmp_path / "g"
    assert rebuild(path, "--root", tmp_path / "now").exit_code == 0
    rebuilt = Gallery.open(path)
    assert rebuilt.roots == tuple(str(tmp_path / "now" / f"day{number}") for number in range(2))
    shown = [np.asarray(Image.open(name)) for name in names[::2] + names[1::2]]
    expected = StripesExtractor().extract(shown).global_
    np.testing.assert_allclose(rebuilt.vectors(range(18)), expected, atol=1e-6)


def test_pictures_outside_their_root_are_not_read(crops, tmp_path):
    names = sorted(crops.iterdir())
    (tmp_path / "secret.jpg").write_bytes(names[0].read_bytes())
    rows = [{"source": name.name} for name in names[:3]]
    rows[1]["source"] = "../secret.jpg"
    names[2].unlink()
    names[2].symlink_to(tmp_path / "secret.jpg")
    model = MeanColour()
    with Gallery.create(tmp_path / "g", dim=3, fingerprint=model.fingerprint) as gallery:
        gallery.add(np.eye(3), rows, root=str(crops))
    path = tmp_path / "g"
    result = rebuild(path)
    assert result.exit_code == 1
    assert f": no picture of 2 items can be read (1: ../secret.jpg, 2: {names[2].name})" in (
        result.stderr
    )
    assert result.stderr.count(f"outside {crops}") == 2
    assert rebuild(path, "--drop-missing").exit_code == 0
    assert items(path)["item"].to_pylist() == [0]


# Refused


@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        (["--extractor", "external:mine"], 2, "there is no extractor 'external:mine'"),
        (["--extractor", "onnx"], 2, "needs its model file: --weights FILE"),
        (["--extractor", "stripes", "--weights", "x.onnx"], 2, "takes no weights"),
        (["--extractor", "stripes", "--device", "cuda"], 2, "runs on the CPU only"),
        (["--extractor", "stripes", "--input-size", "8x8"], 2, "not take an input size alone"),
        (["--extractor", "stripes", "--strict", "--drop-missing"], 2, "clash"),
    ],
)
def test_options_that_make_no_sense_are_refused_at_once(path, options, code, text):
    before = tree(path.parent)
    assert_refused(run("rebuild", path, *options), code=code, text=text)
    assert tree(path.parent) == before


def test_galleries_that_know_of_no_pictures_are_refused(tmp_path):
    np.save(tmp_path / "v.npy", np.eye(3, dtype=np.float32))
    path = tmp_path / "g"
    succeed("build", tmp_path / "v.npy", "--extractor", "external:x", "--out", path)
    before = tree(tmp_path)
    assert_refused(rebuild(path), code=1, text="made of vectors, and knows of no pictures")
    assert_refused(rebuild(tmp_path / "none"), code=1, text="there is no such folder")
    with Gallery.create(tmp_path / "empty", dim=3, fingerprint=MeanColour().fingerprint):
        pass
    assert_refused(rebuild(tmp_path / "empty"), code=1, text="it holds no items")
    shutil.rmtree(tmp_path / "empty")
    assert tree(tmp_path) == before


def test_the_folder_beside_it_may_be_somebody_elses(path):
    other = path.with_name("g.rebuilding")
    other.mkdir()
    (other / "thesis.txt").write_text("mine")
    result = rebuild(path)
    assert_refused(result, code=1, text="g.rebuilding is needed for rebuilding and holds something")
    assert (other / "thesis.txt").read_text() == "mine"


def test_what_the_new_model_tells_of_the_items_is_left_to_be_asked_for(crops, path, tmp_path):
    torch = pytest.importorskip("torch")
    from training_world import FED

    from extractors.systems import Plan, make_system
    from extractors.trained import Model, write_model

    torch.manual_seed(0)
    words = (("hat", ("no", "yes")),)
    made = {"system": "fls", "backbone": "resnet18_x0_125", "dim": 8, "regions": 3}
    plan = Plan(**made, words=words, told_from="weighted")
    weights = tmp_path / "fls.safetensors"
    write_model(weights, Model(make_system(plan, classes=2).eval(), plan, FED, {}))
    done = succeed("rebuild", path, "--extractor", "trained", "--weights", weights)
    assert (
        f"tells of them, hat, is added by `reid attributes {path} --from {weights}`" in done.stderr
    )
    with Gallery.open(path) as gallery:
        assert "attr.hat" not in gallery.items.column_names
    succeed("attributes", path, "--from", weights)
    with Gallery.open(path) as gallery:
        assert gallery.items["attr.hat"].null_count == 0
