"""Rows on a device: candidates against double precision, on torch's CPU device; where there is a
CUDA device, there too."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from device_world import CUDA, DIM, ROWS, WORLDS, assert_best, blocks_of, exact_keys, world
from numpy.typing import NDArray

from benchmarks import device as device_benchmark
from reid_index.errors import (
    DeviceFailed,
    DeviceTooSmall,
    DimensionMismatch,
    MissingExtra,
    NotFiniteError,
    UsageError,
)
from reid_index.filters.allowed import Allowed
from reid_index.metric import Metric
from reid_index.search import device_part, device_rows
from reid_index.search.device_rows import DeviceRows, crossover
from reid_index.search.exact import Block

LEAST = 2**22
"""Bytes beside the rows with which a device still searches: so little that it does so in tiles."""


@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.parametrize("metric", [Metric.INNER_PRODUCT, Metric.EUCLIDEAN])
@pytest.mark.parametrize(
    ("stored", "held"),
    [("float32", "float32"), ("float16", "float16"), ("float32", "float16")],
)
@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_every_way_gives_the_best_rows_within_the_bound(
    name: str, metric: Metric, stored: Any, held: Any, device: str, rng: np.random.Generator
) -> None:
    rows, queries = world(name, rng)
    rows = rows.astype(stored)
    keys = exact_keys(rows, queries, metric)
    devices = [device] * 2
    loaded = DeviceRows.load(blocks_of(rows), devices=devices, metric=metric, dtype=held)
    assert loaded.dtype == held
    some = rng.random(ROWS) < 0.3
    # On the first device all rows, on the second none.
    half = np.arange(ROWS) < ROWS // 2
    for allowed, way in product([None, some, half], ["gather", "dense", None]):
        chosen = None if allowed is None else np.flatnonzero(allowed)
        found = loaded.candidates(queries, 12, rows=chosen, way=way)
        assert_best(found, keys, 12, allowed)
        alone = loaded.candidates(queries[:1], 12, rows=chosen, way=way)
        assert_best(alone, keys[:1], 12, allowed)


@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.parametrize("want", [1, 400, 1499, 4000])
def test_little_memory_means_tiles_not_other_answers(
    want: int, device: str, rng: np.random.Generator
) -> None:
    rows = rng.normal(size=(6000, DIM)).astype(np.float32)
    queries = rng.normal(size=(150, DIM)).astype(np.float32)
    keys = exact_keys(rows, queries, Metric.EUCLIDEAN)
    need = 6000 * (4 * DIM + 12)
    loaded = DeviceRows.load(
        blocks_of(rows), devices=[device], metric=Metric.EUCLIDEAN, memory=need + LEAST
    )
    (part,) = loaded.parts
    assert part.work == LEAST
    assert part.room < 150 * 1500
    allowed = np.zeros(6000, bool)
    allowed[rng.permutation(6000)[:1500]] = True
    for way in ("gather", "dense"):
        found = loaded.candidates(queries, want, rows=np.flatnonzero(allowed), way=way)
        assert_best(found, keys, want, allowed)
    assert_best(loaded.candidates(queries, want), keys, want, None)
    # One query alone: all rows in one tile, which is filled piece by piece.
    most = np.arange(6000) % 7 > 0
    for way in ("gather", "dense"):
        alone = loaded.candidates(queries[:1], want, rows=np.flatnonzero(most), way=way)
        assert_best(alone, keys[:1], want, most)
    assert_best(loaded.candidates(queries[:1], 6000), keys[:1], 6000, None)


@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_a_filter_that_is_ready_gives_the_same(device: str, rng: np.random.Generator) -> None:
    rows, queries = world("random", rng)
    loaded = DeviceRows.load(blocks_of(rows), devices=[device] * 3, metric=Metric.COSINE)
    allowed = np.flatnonzero(rng.random(ROWS) < 0.1)
    ready = loaded.allow(allowed)
    assert ready.count == len(allowed)
    for found, again in zip(
        loaded.candidates(queries, 9, rows=allowed),
        loaded.candidates(queries, 9, rows=ready),
        strict=True,
    ):
        np.testing.assert_array_equal(found, again)


def test_a_filter_is_put_on_the_device_once(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, queries = world("random", rng)
    loaded = DeviceRows.load(blocks_of(rows), devices=["cpu"], metric=Metric.INNER_PRODUCT)
    keys = exact_keys(rows, queries, Metric.INNER_PRODUCT)
    sent = []
    allow = DeviceRows.allow

    def counted(self: DeviceRows, rows: NDArray[np.int64] | None) -> device_rows.Chosen:
        sent.append(rows)
        return allow(self, rows)

    monkeypatch.setattr(DeviceRows, "allow", counted)

    def search(mask: NDArray[np.bool_]) -> int:
        """How many filters it sends."""
        before = len(sent)
        found = loaded.candidates(queries, 12, rows=Allowed(ROWS, mask))
        assert_best(found, keys, 12, mask)
        return len(sent) - before

    masks = [np.arange(ROWS) % 20 == at for at in range(9)]
    assert [search(mask.copy()) for mask in masks[:8] * 2] == [1] * 8 + [0] * 8
    assert search(masks[8]) == 1
    # The oldest has gone, and only it.
    assert [search(masks[at].copy()) for at in (1, 8, 0)] == [0, 0, 1]
    # All but 101 rows: only one filter of 75 has room beside it, and it none beside two.
    most = np.arange(ROWS) > 100
    assert [search(mask) for mask in (most, masks[0], masks[8], masks[0], most)] == [1, 0, 1, 0, 1]
    assert_best(loaded.candidates(queries, 12, rows=Allowed(ROWS)), keys, 12, None)
    assert search(most) == 0


def test_a_device_that_failed_is_not_asked_again(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, queries = world("random", rng)
    loaded = DeviceRows.load(blocks_of(rows), devices=["cpu"], metric=Metric.COSINE)
    errors = [
        torch.OutOfMemoryError("Tried to allocate 2 GiB"),
        RuntimeError("CUDA error: unspecified launch failure"),
    ]
    whole = device_rows.best

    def failing(*arguments: Any, **options: Any) -> Any:
        raise errors.pop(0)

    monkeypatch.setattr(device_rows, "best", failing)
    with pytest.raises(DeviceTooSmall):
        loaded.candidates(queries, 3)
    assert loaded.lost is None
    for _ in range(2):
        with pytest.raises(DeviceFailed, match="the device failed: CUDA error: unspecified"):
            loaded.candidates(queries, 3)
    assert errors == []
    assert loaded.lost == "the device failed: CUDA error: unspecified launch failure"
    monkeypatch.setattr(device_rows, "best", whole)
    with pytest.raises(DeviceFailed):
        loaded.candidates(queries, 3)


@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_few_or_none(device: str, rng: np.random.Generator) -> None:
    rows, queries = world("random", rng)
    loaded = DeviceRows.load(blocks_of(rows), devices=[device] * 2, metric=Metric.COSINE)
    for way in ("gather", "dense"):
        none = loaded.candidates(queries, 5, rows=np.empty(0, np.int64), way=way)
        assert (none.rows.shape, none.keys.shape, none.bound.shape) == ((40, 0), (40, 0), (40,))
        two = loaded.candidates(queries, 5, rows=np.array([3, ROWS - 1]), way=way)
        assert (np.sort(two.rows, axis=1) == [3, ROWS - 1]).all()
    assert loaded.candidates(queries[:0], 5).rows.shape == (0, 5)


def test_what_is_loaded(rng: np.random.Generator) -> None:
    rows, _ = world("random", rng)
    loaded = DeviceRows.load(blocks_of(rows), devices=["cpu", "cpu"], metric=Metric.COSINE)
    assert (len(loaded), loaded.dim, loaded.devices) == (ROWS, DIM, ("cpu", "cpu"))
    assert (loaded.bytes, loaded.dtype, loaded.rounded) == (4 * ROWS * DIM, "float32", 0)
    assert loaded.name == "cpu, cpu in float32"
    held = torch.cat([part.rows for part in loaded.parts])
    np.testing.assert_array_equal(held.numpy(), rows)
    halves = DeviceRows.load(
        blocks_of(rows), devices=["cpu"], metric=Metric.COSINE, dtype="float16"
    )
    apart = np.linalg.norm(rows - rows.astype(np.float16).astype(np.float64), axis=1).max()
    assert halves.rounded == pytest.approx(apart, rel=1e-12)
    assert halves.bytes == 2 * ROWS * DIM


def test_float16_where_float32_does_not_fit(rng: np.random.Generator) -> None:
    rows, _ = world("random", rng)
    blocks = blocks_of(rows)
    need = {2: ROWS * (2 * DIM + 12) + LEAST, 4: ROWS * (4 * DIM + 12) + LEAST}

    def held(memory: int, **options: Any) -> str:
        options = {"devices": ["cpu"], "metric": Metric.COSINE, **options}
        return DeviceRows.load(blocks, memory=memory, **options).dtype

    assert held(need[4]) == "float32"
    assert held(need[4] - 1) == held(need[2]) == "float16"
    with pytest.raises(
        DeviceTooSmall, match=r"1,500 rows of 37 float16 need 4.1 MiB on 'cpu', 4.1 MiB are free"
    ):
        held(need[2] - 1)
    with pytest.raises(DeviceTooSmall, match="float32 need"):
        held(need[4] - 1, dtype="float32")
    assert held(need[4] - 1, devices=["cpu", "cpu"]) == "float32"
    # Too long for float16, whatever the memory.
    blocks = blocks_of(rows * np.float32(1e4))
    with pytest.raises(DeviceTooSmall, match="float32 need"):
        held(need[4] - 1)
    with pytest.raises(UsageError, match="too large for float16"):
        held(need[4], dtype="float16")
    assert issubclass(DeviceTooSmall, MemoryError)
    assert issubclass(DeviceTooSmall, DeviceFailed)


_NO_MEMORY = """
import resource, sys
import numpy as np
from reid_index.search.device_rows import DeviceRows
from reid_index.errors import DeviceTooSmall
from reid_index.search.exact import Block
from reid_index.metric import Metric
rows = np.ones((200_000, 8), np.float32)
queries = np.ones((200, 8), np.float32)
loaded = DeviceRows.load([Block(rows, 3.0)], devices=["cpu"], metric=Metric.COSINE)
loaded.candidates(queries[:1, :], 3)
held = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + 2**25, held + 2**25))
try:
    loaded.candidates(queries, 3)
except DeviceTooSmall as error:
    print(error)
assert loaded.candidates(queries[:1], 3).rows.shape == (1, 3)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits memory as Linux does")
def test_memory_that_runs_out_in_a_query() -> None:
    done = subprocess.run([sys.executable, "-c", _NO_MEMORY], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert line.startswith("out of memory on the device: ")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
def test_memory_of_a_gpu_that_runs_out_in_a_query(rng: np.random.Generator) -> None:
    rows, queries = world("random", rng)
    loaded = DeviceRows.load(blocks_of(rows), devices=["cuda"], metric=Metric.COSINE)
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info()
    taken = torch.empty(free - 2**22, dtype=torch.uint8, device="cuda")
    many = np.repeat(queries, 200, axis=0)
    with pytest.raises(DeviceTooSmall, match="out of memory"):
        loaded.candidates(many, 700)
    del taken
    assert loaded.candidates(many, 700).rows.shape == (8000, 700)


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (RuntimeError("CUDA error: an illegal memory access was encountered\nmore"), DeviceFailed),
        (RuntimeError("CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`"), DeviceFailed),
        (torch.OutOfMemoryError("Tried to allocate 2 GiB"), DeviceTooSmall),
        (RuntimeError("shapes cannot be multiplied"), RuntimeError),
    ],
)
def test_what_becomes_of_torch_errors(error: Exception, raised: type[Exception]) -> None:
    with pytest.raises(raised) as caught, device_rows._failures():
        raise error
    assert type(caught.value) is raised
    assert len(str(caught.value).splitlines()) == 1


def test_crossover() -> None:
    # 1,024 bytes and 12 for the key, against 2,048 more to gather them.
    assert crossover(queries=1, dim=512, itemsize=2) == pytest.approx(1036 / 3084)
    # 2 · 1,024 · 512 / 200 = 5,243 bytes of time, 12,288 for keys.
    assert crossover(queries=1024, dim=512, itemsize=2) == pytest.approx(17530.88 / 19578.88)
    assert crossover(queries=1024, dim=512, itemsize=4) == pytest.approx(77824 / 81920)
    assert crossover(queries=1, dim=512, itemsize=2, fused=True) == 1


def test_bad_input(rng: np.random.Generator) -> None:
    rows, queries = world("random", rng)
    blocks = blocks_of(rows)
    loaded = DeviceRows.load(blocks, devices=["cpu"], metric=Metric.COSINE)
    with pytest.raises(DimensionMismatch, match=r"\(Q, 37\), got \(40, 36\)"):
        loaded.candidates(queries[:, 1:], 3)
    with pytest.raises(UsageError, match="at least 1, got 0"):
        loaded.candidates(queries, 0)
    for wrong in (np.array([-1, 3]), np.array([3, ROWS])):
        with pytest.raises(UsageError, match="rows are 0 to 1499"):
            loaded.candidates(queries, 3, rows=wrong)
    for bad in (np.nan, np.inf, 1e25):
        queries[3, 4] = bad
        with pytest.raises(NotFiniteError, match="do not fit float32"):
            loaded.candidates(queries, 3)
    for devices, message in (
        (["mps"], "not on 'mps'"),
        (["cuda:x"], "not on 'cuda:x'"),
        (["cuda:64"], "not 'cuda:64'"),
        ([], "at least one"),
    ):
        with pytest.raises(UsageError, match=message):
            DeviceRows.load(blocks, devices=devices, metric=Metric.COSINE)


def test_torch_is_imported_when_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import sys, reid_index.search.device_rows\n"
    code += "sys.exit(bool({'torch', 'triton'} & {*sys.modules}))"
    subprocess.run([sys.executable, "-c", code], check=True)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtra, match="pip install torch"):
        DeviceRows.load([Block(np.eye(3), 1.0)], devices=["cpu"], metric=Metric.COSINE)


_INTERPRETED = """
from dataclasses import replace
import numpy as np
from reid_index.search.device_rows import DeviceRows
from reid_index.search.exact import Block
from reid_index.metric import Metric
rng = np.random.default_rng(5)
rows = rng.normal(size=(130, {dim})).astype(np.{dtype})
query = rng.normal(size=(1, {dim})).astype(np.float32)
keys = query.astype(np.float64) @ rows.astype(np.float64).T
largest = float(np.linalg.norm(rows.astype(np.float64), axis=1).max())
loaded = DeviceRows.load([Block(rows, largest)], devices=["cpu"], metric=Metric.COSINE)
fused = replace(loaded, parts=tuple(replace(part, fused=True) for part in loaded.parts))
allowed = np.sort(rng.permutation(130)[:77])
for chosen in (None, allowed):
    found = fused.candidates(query, 130, rows=chosen)
    assert found.rows.shape == (1, 130 if chosen is None else 77)
    off = np.abs(found.keys[0] - keys[0, found.rows[0]]).max()
    assert off <= found.bound[0], off
    few = fused.candidates(query, 5, rows=chosen)
    assert set(few.rows[0]) == set(found.rows[0][np.argsort(-keys[0, found.rows[0]])[:5]])
"""


@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
@pytest.mark.parametrize(("dim", "dtype"), [(512, "float16"), (700, "float32"), (24, "float16")])
def test_the_fused_product_as_triton_interprets_it(dim: int, dtype: str) -> None:
    code = _INTERPRETED.format(dim=dim, dtype=dtype)
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
@pytest.mark.parametrize("held", ["float32", "float16"])
def test_what_a_gpu_can(held: Any, rng: np.random.Generator) -> None:
    rows, _ = world("random", rng)
    loaded = DeviceRows.load(blocks_of(rows), devices=["cuda"], metric=Metric.COSINE, dtype=held)
    assert loaded.fused == (find_spec("triton") is not None)
    assert loaded.halves == (held == "float16")
    assert device_part.multiplies_halves(torch.device("cuda"))


def test_the_benchmark_runs_and_keeps_what_it_measured(tmp_path: Path) -> None:
    out = tmp_path / "raw.json"
    few = "--device cpu --rows 3000 --dim 32 --batch 16 --rounds 1 --check 3"
    done = CliRunner().invoke(
        device_benchmark.main, [*few.split(), "--out", str(out)], catch_exceptions=False
    )
    assert done.exit_code == 0
    raw = json.loads(out.read_text())
    one = raw["one_query"]
    assert 0.05 < one["bytes"] / (3000 * 32 * 2) < 0.15
    told = one["filter there already"]
    assert told["share_of_bandwidth"] == [
        one["bytes"] / seconds / one["bandwidth"] for seconds in told["seconds"]
    ]
    for measured in raw["recall"].values():
        assert measured == {"recall": [1, 1, 1], "within_bound": True}
    assert "processor" in raw["machine"]


def test_the_benchmark_refuses_too_few_rows() -> None:
    done = CliRunner().invoke(device_benchmark.main, ["--device", "cpu", "--rows", "10"])
    assert done.exit_code == 2
    assert done.stderr.splitlines()[-1].startswith("Error: Invalid value for '--rows': 10 is not")
