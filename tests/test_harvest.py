"""From pictures to shards: the same rows however the work is cut up, interrupted or resumed."""

import multiprocessing
import os
import shutil
import signal
import threading
import time
import weakref
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from PIL import Image

from extractors.extractor import Crop, Embedding, Extractor
from extractors.harvest import Harvest, Pace, harvest
from extractors.pictures import Person, Picture, Source, find_pictures
from reid_index.errors import UnreadableImage, UsageError
from reid_index.fingerprint import Fingerprint
from reid_index.matcher import Matcher
from reid_index.metric import Metric
from reid_index.store.items import stack
from reid_index.store.shard import open_shard


class MeanColour(Extractor):
    """The mean R, G and B of a crop; remembers what went through it.

    stop_at: raises error when more crops than that are embedded.
    """

    def __init__(
        self,
        *,
        version: str = "1",
        stop_at: int | None = None,
        error: BaseException | None = None,
        seconds: float = 0.0,
    ) -> None:
        self.batches: list[int] = []
        self.prepared = self.alive = self.most_alive = 0
        self._version, self._stop_at, self._error = version, stop_at, error
        self._seconds = seconds
        self._lock = threading.RLock()

    @property
    def fingerprint(self) -> Fingerprint:
        return Fingerprint(name="mean-colour", version=self._version)

    @property
    def dim(self) -> int:
        return 3

    def prepare(self, crop: Crop) -> NDArray[Any]:
        prepared = crop.mean(axis=(0, 1), dtype=np.float64).astype(np.float32)
        with self._lock:
            self.prepared += 1
            self.alive += 1
            self.most_alive = max(self.most_alive, self.alive)
        weakref.finalize(prepared, self._freed)
        return prepared

    def embed(self, batch: NDArray[Any]) -> Embedding:
        if self._stop_at is not None and sum(self.batches) + len(batch) > self._stop_at:
            assert self._error is not None
            raise self._error
        self.batches.append(len(batch))
        time.sleep(self._seconds)
        return Embedding(global_=batch)

    def _freed(self) -> None:
        with self._lock:
            self.alive -= 1


class Bands(MeanColour):
    """Two parts of one colour, of which only red ones are to be seen; where a batch hides none it
    says so by saying nothing."""

    matcher = Matcher(name="visibility")

    def embed(self, batch: NDArray[Any]) -> Embedding:
        visible = np.stack([batch[:, 0] > 50, batch[:, 0] > 150], axis=1).astype(np.uint8)
        return Embedding(
            global_=batch,
            parts=np.stack([batch, batch], axis=1),
            visible=None if visible.all() else visible,
        )


class Described(MeanColour):
    """Adds all that an Embedding may hold: two parts (the colour, and 0), and a tone."""

    def embed(self, batch: NDArray[Any]) -> Embedding:
        light = batch[:, 0] >= 10
        return replace(
            super().embed(batch),
            parts=np.stack([batch, np.zeros_like(batch)], axis=1),
            visible=np.stack([light, ~light], axis=1).astype(np.uint8),
            attributes={
                "attr.tone": ["light" if one else None for one in light],
                "attr.tone.confidence": [0.5 if one else None for one in light],
                "attr.tone.origin": ["mean-colour"] * len(batch),
            },
        )


def colour(number: int) -> tuple[int, int, int]:
    return (number, 2 * number, 255 - number)


def paint(folder: Path, numbers: Iterable[int]) -> Path:
    """Pictures 000.png, 001.png, …, each of a colour of its own."""
    folder.mkdir(exist_ok=True)
    for number in numbers:
        Image.new("RGB", (4, 3), colour(number)).save(folder / f"{number:03d}.png")
    return folder


def run(source: Source, extractor: Extractor, folder: Path, **options: Any) -> Harvest:
    settings = {"batch_size": 4, "workers": 2, "part_rows": 8}
    pace = Pace(**{name: options.pop(name, value) for name, value in settings.items()})
    return harvest(source, extractor, folder, metric=Metric.EUCLIDEAN, pace=pace, **options)


def vectors(taken: Harvest) -> list[list[float]]:
    return [row for part in taken.parts for row in open_shard(part).vectors.tolist()]


def items(taken: Harvest, name: str) -> list[Any]:
    return stack([open_shard(part).items for part in taken.parts])[name].to_pylist()


def every_byte(taken: Harvest) -> dict[str, bytes]:
    return {
        f"{part.name}/{file.name}": file.read_bytes()
        for part in taken.parts
        for file in part.iterdir()
    }


@pytest.mark.parametrize(
    ("batch_size", "workers", "part_rows"),
    [(1, 1, 1), (4, 2, 8), (7, 3, 5), (32, 8, 2048), (3, 1, 100)],
)
def test_rows_come_in_order(batch_size: int, workers: int, part_rows: int, tmp_path: Path) -> None:
    source = find_pictures([paint(tmp_path / "in", range(30))])
    extractor = MeanColour()
    done: list[int] = []
    taken = run(
        source,
        extractor,
        tmp_path / "out",
        batch_size=batch_size,
        workers=workers,
        part_rows=part_rows,
        progress=done.append,
    )
    assert (taken.rows, taken.skipped, taken.resumed) == (30, 0, 0)
    assert vectors(taken) == [list(colour(number)) for number in range(30)]
    assert items(taken, "source") == [f"{number:03d}.png" for number in range(30)]
    full, rest = divmod(30, batch_size)
    assert extractor.batches == [batch_size] * full + [rest] * (rest > 0)
    assert sum(done) == 30
    sizes = [open_shard(part).header.rows for part in taken.parts]
    assert all(part_rows <= size < part_rows + batch_size for size in sizes[:-1])
    assert {open_shard(part).header.root for part in taken.parts} == {str(source.root)}
    assert {open_shard(part).header.fingerprint for part in taken.parts} == {extractor.fingerprint}


def test_all_of_an_embedding_reaches_the_shard(tmp_path: Path) -> None:
    source = find_pictures([paint(tmp_path / "in", range(20))])
    taken = run(source, Described(), tmp_path / "out", dtype="float16")
    shards = [open_shard(part) for part in taken.parts]
    joined = {
        name: np.concatenate([shard.arrays[name] for shard in shards])
        for name in ("global", "parts", "visible")
    }
    expected = np.array([colour(number) for number in range(20)])
    assert [array.dtype.name for array in joined.values()] == ["float16", "float16", "uint8"]
    np.testing.assert_array_equal(joined["global"], expected)
    np.testing.assert_array_equal(joined["parts"], np.stack([expected, 0 * expected], axis=1))
    assert joined["visible"].tolist() == [[0, 1]] * 10 + [[1, 0]] * 10
    assert items(taken, "attr.tone") == [None] * 10 + ["light"] * 10
    assert items(taken, "attr.tone.confidence") == [None] * 10 + [0.5] * 10
    # The first part knows no tone at all, so it does not say either whether tones are sets.
    assert "attr.tone" not in shards[0].items.column_names
    known = sum(shard.header.rows for shard in shards if "attr.tone" in shard.items.column_names)
    origins = [None] * (20 - known) + ["mean-colour"] * known
    assert items(taken, "attr.tone.origin") == origins


@pytest.mark.parametrize("numbers", [range(40, 60), range(60, 220, 8), range(200, 220)])
def test_batches_that_hide_nothing_stand_beside_those_that_do(
    numbers: Iterable[int], tmp_path: Path
) -> None:
    """Whether the first of a shard does so or the last."""
    source = find_pictures([paint(tmp_path / "in", numbers)])
    taken = harvest(
        source,
        Bands(),
        tmp_path / "out",
        metric=Metric.COSINE,
        pace=Pace(batch_size=3, workers=1, part_rows=7),
    )
    shards = [open_shard(part) for part in taken.parts]
    assert {shard.header.matcher for shard in shards} == {Bands.matcher}
    found = [row for shard in shards for row in shard.arrays["visible"].tolist()]
    assert found == [[number > 50, number > 150] for number in numbers]


def test_columns_of_the_source_reach_the_items(tmp_path: Path) -> None:
    paint(tmp_path, range(3))
    path = tmp_path / "list.csv"
    path.write_text(
        "file,person,camera,start,attr.hat,zone\n"
        "000.png,0002,3,2024-05-06T07:08:09Z,red,7\n001.png,,,,,\n002.png,0003,,,,8\n"
    )
    taken = run(find_pictures([path]), MeanColour(), tmp_path / "out")
    assert items(taken, "person") == ["0002", None, "0003"]
    assert items(taken, "camera") == [3, None, None]
    assert items(taken, "attr.hat") == ["red", None, None]
    assert items(taken, "zone") == [7, None, 8]
    assert items(taken, "start")[0].isoformat() == "2024-05-06T07:08:09+00:00"


def test_several_people_and_boxes_outside(tmp_path: Path) -> None:
    picture = np.zeros((4, 6, 3), np.uint8)
    picture[:, :3], picture[:, 3:] = (10, 20, 30), (40, 50, 60)
    Image.fromarray(picture).save(tmp_path / "a.png")
    paint(tmp_path, [7])
    boxes = tmp_path / "boxes.csv"
    boxes.write_text(
        "file,x,y,w,h\na.png,0,0,3,4\na.png,6,0,2,2\na.png,3,-1,9,9\na.png,2,0,2,4\n"
        "gone.png,0,0,1,1\ngone.png,1,1,1,1\n007.png,1,1,1,1\n"
    )
    told: list[str] = []
    taken = run(
        find_pictures([tmp_path], boxes=boxes),
        MeanColour(),
        tmp_path / "out",
        on_skip=lambda error: told.append(str(error)),
    )
    assert vectors(taken) == [[10, 20, 30], [40, 50, 60], [25, 35, 45], list(colour(7))]
    assert items(taken, "source") == ["a.png"] * 3 + ["007.png"]
    assert items(taken, "box") == [[0, 0, 3, 4], [3, -1, 9, 9], [2, 0, 2, 4], [1, 1, 1, 1]]
    assert (taken.rows, taken.skipped) == (4, 3)
    assert told[0] == (
        f"{tmp_path}/a.png: box (6.0, 0.0, 2.0, 2.0) covers no pixel of the 6×4 picture; "
        "correct the box"
    )
    assert told[1:] == [f"{tmp_path}/gone.png: cannot be read: No such file or directory"]


# Pictures that cannot be read


def broken(folder: Path) -> Source:
    paint(folder, range(20))
    (folder / "003.png").write_bytes(b"")
    (folder / "012.png").write_text("no picture")
    return find_pictures([folder])


def test_unreadable_pictures_are_skipped_and_told(tmp_path: Path) -> None:
    source = broken(tmp_path / "in")
    told: list[str] = []
    done: list[int] = []
    taken = run(
        source,
        MeanColour(),
        tmp_path / "out",
        on_skip=lambda error: told.append(str(error)),
        progress=done.append,
    )
    assert (taken.rows, taken.skipped, sum(done)) == (18, 2, 20)
    assert vectors(taken) == [list(colour(n)) for n in range(20) if n not in (3, 12)]
    assert told == [
        f"{source.root}/003.png: the file is empty",
        f"{source.root}/012.png: not a picture that can be read",
    ]


def test_strict_raises_the_first(tmp_path: Path) -> None:
    source = broken(tmp_path / "in")
    with pytest.raises(UnreadableImage, match=r"003\.png: the file is empty"):
        run(source, MeanColour(), tmp_path / "out", strict=True)


def test_strict_raises_what_an_earlier_run_had_skipped(tmp_path: Path) -> None:
    source = broken(tmp_path / "in")
    assert run(source, MeanColour(), tmp_path / "out").skipped == 2
    with pytest.raises(UnreadableImage, match=r"003\.png: the file is empty"):
        run(source, MeanColour(), tmp_path / "out", strict=True)


def test_nothing_readable(tmp_path: Path) -> None:
    for number in range(9):
        (tmp_path / f"{number}.png").touch()
    source = find_pictures([tmp_path])
    taken = run(source, MeanColour(), tmp_path / "out", part_rows=1)
    assert taken == Harvest(parts=(), rows=0, skipped=9, resumed=0)
    assert run(source, MeanColour(), tmp_path / "out", part_rows=1) == taken


def test_name_that_is_not_utf8(tmp_path: Path) -> None:
    folder = paint(tmp_path / "in", [1])
    (folder / os.fsdecode(b"caf\xe9.png")).write_bytes((folder / "001.png").read_bytes())
    told: list[str] = []
    taken = run(
        find_pictures([folder]),
        MeanColour(),
        tmp_path / "out",
        on_skip=lambda error: told.append(str(error)),
    )
    assert (items(taken, "source"), taken.skipped) == (["001.png"], 1)
    assert told[0].endswith("its name is not UTF-8, so no table can hold it; rename it")


# Interruptions


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("no more")])
def test_an_interrupted_run_goes_on(error: BaseException, tmp_path: Path) -> None:
    source = find_pictures([paint(tmp_path / "in", range(40))])
    whole = run(source, MeanColour(), tmp_path / "whole")
    with pytest.raises(type(error)):
        run(source, MeanColour(stop_at=26, error=error), tmp_path / "out")
    extractor, done = MeanColour(), []
    taken = run(source, extractor, tmp_path / "out", progress=done.append)
    assert taken.resumed == 24
    assert sum(extractor.batches) == extractor.prepared == 40 - taken.resumed
    assert (done[0], sum(done)) == (taken.resumed, 40)
    assert every_byte(taken) == every_byte(whole)
    assert replace(taken, parts=(), resumed=0) == replace(whole, parts=())
    again = MeanColour()
    assert run(source, again, tmp_path / "out").resumed == 40
    assert again.prepared == 0


def test_leftovers_of_a_killed_run_are_replaced(tmp_path: Path) -> None:
    """As if killed after a part got its name, before the journal had it; and amid the next."""
    source = find_pictures([paint(tmp_path / "in", range(20))])
    whole = run(source, MeanColour(), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(source, MeanColour(stop_at=19, error=KeyboardInterrupt()), tmp_path / "out")
    for name in ("part-000003", ".part-000003.tmp"):
        (tmp_path / "out" / name).mkdir()
        (tmp_path / "out" / name / "vectors.h5").write_bytes(b"half")
    (tmp_path / "out" / ".journal.json.tmp").write_bytes(b"{")
    taken = run(source, MeanColour(), tmp_path / "out")
    assert taken.resumed == 16
    assert every_byte(taken) == every_byte(whole)
    assert sorted(entry.name for entry in (tmp_path / "out").iterdir()) == [
        "journal.json",
        *(part.name for part in taken.parts),
    ]


def harvest_until_killed(pictures: Path, out: Path) -> None:
    class Killed(MeanColour):
        def embed(self, batch: NDArray[Any]) -> Embedding:
            if sum(self.batches) >= 24:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().embed(batch)

    run(find_pictures([pictures]), Killed(seconds=0.01), out)


def test_a_killed_run_goes_on(tmp_path: Path) -> None:
    folder = paint(tmp_path / "in", range(40))
    process = multiprocessing.get_context("spawn").Process(
        target=harvest_until_killed, args=(folder, tmp_path / "out")
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    source = find_pictures([folder])
    taken = run(source, MeanColour(), tmp_path / "out")
    # Two batches may have been embedded that were not yet collected.
    assert taken.resumed in (16, 24)
    assert every_byte(taken) == every_byte(run(source, MeanColour(), tmp_path / "whole"))


def replaced(folder: Path) -> None:
    """By a larger file that has the old one's time, as copies often do."""
    path = folder / "010.png"
    stat = path.stat()
    Image.new("RGB", (500, 300), colour(99)).save(path)
    assert path.stat().st_size > stat.st_size
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def touched(folder: Path) -> None:
    """The same bytes at another time: it may be another picture of the same size."""
    os.utime(folder / "010.png", ns=(0, 1))


def added(folder: Path) -> None:
    Image.new("RGB", (4, 3), colour(99)).save(folder / "009b.png")


def removed(folder: Path) -> None:
    (folder / "010.png").unlink()


def appended(folder: Path) -> None:
    paint(folder, range(24, 30))


@pytest.mark.parametrize(
    ("change", "kept"), [(replaced, 8), (touched, 8), (added, 8), (removed, 8), (appended, 24)]
)
def test_parts_whose_pictures_changed_are_done_again(
    change: Any, kept: int, tmp_path: Path
) -> None:
    folder = paint(tmp_path / "in", range(24))
    run(find_pictures([folder]), MeanColour(), tmp_path / "out")
    change(folder)
    source = find_pictures([folder])
    taken = run(source, MeanColour(), tmp_path / "out")
    assert taken.resumed == kept
    assert every_byte(taken) == every_byte(run(source, MeanColour(), tmp_path / "whole"))


def test_parts_whose_columns_changed_are_done_again(tmp_path: Path) -> None:
    paint(tmp_path, range(16))
    path = tmp_path / "list.csv"
    lines = ["file,person", *(f"{number:03d}.png,ann" for number in range(16))]
    path.write_text("\n".join(lines))
    run(find_pictures([path]), MeanColour(), tmp_path / "out")
    lines[-1] = "015.png,bea"
    path.write_text("\n".join(lines))
    taken = run(find_pictures([path]), MeanColour(), tmp_path / "out")
    assert (items(taken, "person"), taken.resumed) == (["ann"] * 15 + ["bea"], 8)


def test_another_run_in_the_folder_is_refused(tmp_path: Path) -> None:
    source = find_pictures([paint(tmp_path / "in", range(3))])
    out = tmp_path / "out"
    run(source, MeanColour(), out)
    before = (out / "journal.json").read_bytes()
    other = replace(source, root=tmp_path)
    with pytest.raises(UsageError, match=f"^{out} holds an unfinished .* another fingerprint; run"):
        run(source, MeanColour(version="2"), out)
    with pytest.raises(UsageError, match="another dtype, root; run"):
        run(other, MeanColour(), out, dtype="float16")
    with pytest.raises(UsageError, match="another metric; run"):
        harvest(source, MeanColour(), out, metric=Metric.COSINE)
    assert (out / "journal.json").read_bytes() == before
    for content in (b"{", b"[]", b'{"parts": [{"name": 1}], "job": {}}', b'{"parts": []}'):
        (out / "journal.json").write_bytes(content)
        with pytest.raises(UsageError, match=f"cannot be read; delete {out} to start anew"):
            run(source, MeanColour(), out)


# Bounds


@pytest.mark.parametrize(("batch_size", "workers"), [(4, 2), (8, 5), (1, 1)])
def test_few_prepared_crops_are_alive_at_once(
    batch_size: int, workers: int, tmp_path: Path
) -> None:
    """With a slow network, decoding runs ahead, and stops: at 2 · batch_size + workers waiting
    pictures, three batches on their way through the network, one done and one being made up."""
    Image.new("RGB", (1, 1)).save(tmp_path / "a.png")
    picture = Picture(tmp_path / "a.png", "a.png", root=tmp_path)
    source = Source(tmp_path, 400, {}, {}, lambda: iter([picture] * 400))
    extractor = MeanColour(seconds=0.001)
    run(source, extractor, tmp_path / "out", batch_size=batch_size, workers=workers, part_rows=64)
    assert extractor.prepared == 400
    assert extractor.most_alive <= 2 * batch_size + workers + 5 * batch_size
    assert extractor.alive == 0


def test_a_crowd_goes_through_in_several_batches(tmp_path: Path) -> None:
    paint(tmp_path, [1])
    people = tuple(Person((x, 0, 1, 1)) for x in range(3))
    picture = Picture(tmp_path / "001.png", "001.png", people, root=tmp_path)
    source = Source(tmp_path, 12, {}, {}, lambda: iter([picture] * 4))
    extractor = MeanColour()
    taken = run(source, extractor, tmp_path / "out", batch_size=4)
    assert (extractor.batches, taken.rows) == ([3, 3, 3, 3], 12)
    assert pa.table(open_shard(taken.parts[0]).items)["box"].to_pylist()[:2] == [
        [0, 0, 1, 1],
        [1, 0, 1, 1],
    ]


def test_an_error_of_prepare_is_raised(tmp_path: Path) -> None:
    class Failing(MeanColour):
        def prepare(self, crop: Crop) -> NDArray[Any]:
            raise RuntimeError("no more")

    source = find_pictures([paint(tmp_path / "in", range(9))])
    with pytest.raises(RuntimeError, match="no more"):
        run(source, Failing(), tmp_path / "out")


def test_a_part_that_is_gone_is_done_again(tmp_path: Path) -> None:
    source = find_pictures([paint(tmp_path / "in", range(20))])
    first = run(source, MeanColour(), tmp_path / "out")
    shutil.rmtree(first.parts[1])
    again = run(source, MeanColour(), tmp_path / "out")
    assert (again.resumed, again.parts) == (8, first.parts)
    assert vectors(again) == [list(colour(number)) for number in range(20)]


def test_people_are_what_is_decoded_ahead(tmp_path: Path) -> None:
    """Pictures of crowds must not fill the memory: prepared crops are counted, not pictures."""
    paint(tmp_path, [1])
    people = tuple(Person((0, 0, 1, 1)) for _ in range(20))
    picture = Picture(tmp_path / "001.png", "001.png", people, root=tmp_path)
    source = Source(tmp_path, 800, {}, {}, lambda: iter([picture] * 40))
    extractor = MeanColour(seconds=0.001)
    run(source, extractor, tmp_path / "out", batch_size=4, workers=2, part_rows=100)
    assert extractor.most_alive <= 8 * 20
