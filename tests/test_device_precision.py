"""In which precision rows on a device are multiplied, and what the error of keys is bounded by."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from device_world import CUDA, DIM, assert_best, blocks_of, exact_keys, world
from numpy.typing import NDArray

from reid_index.metric import Metric
from reid_index.search import device_part, device_rows
from reid_index.search.device_rows import DeviceRows
from reid_index.search.exact import Block


@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_the_bound_says_something(device: str, rng: np.random.Generator) -> None:
    rows, queries = world("random", rng)
    longest = np.linalg.norm(rows, axis=1).max() * np.linalg.norm(queries, axis=1)
    load = {"devices": [device], "metric": Metric.INNER_PRODUCT}
    queries, longest = queries[1:], longest[1:]
    single = DeviceRows.load(blocks_of(rows), **load).candidates(queries, 1)
    assert (single.bound < (DIM + 10) * 2.0**-22 * longest).all()
    half = DeviceRows.load(blocks_of(rows), dtype="float16", **load).candidates(queries, 1)
    assert (half.bound < 2.0**-10 * longest).all()
    assert (half.bound > single.bound).all()


@pytest.fixture
def low_precision() -> Iterator[None]:
    """Float32 products may be made in TF32, on a CPU in bfloat16."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    yield
    torch.set_float32_matmul_precision(before)


def product_settings() -> list[object]:
    """What torch allows in float32 products; from 2.9 on by names of its own for each library."""
    libraries = (torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None))
    settings = [getattr(library, "fp32_precision", None) for library in libraries]
    return [torch.get_float32_matmul_precision(), *settings]


@pytest.mark.usefixtures("low_precision")
@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_low_precision_neither_matters_nor_is_forbidden(
    device: str, rng: np.random.Generator
) -> None:
    # Wide enough for the faster, coarser product to be taken where the processor has one.
    rows, queries = (rng.normal(size=(n, 256)).astype(np.float32) for n in (3000, 300))
    keys = exact_keys(rows, queries, Metric.INNER_PRODUCT)
    before = product_settings()
    with torch.autocast(device, dtype=torch.bfloat16):
        loaded = DeviceRows.load(blocks_of(rows), devices=[device], metric=Metric.INNER_PRODUCT)
        found = loaded.candidates(queries, 20)
        assert torch.is_autocast_enabled(device)
    assert_best(found, keys, 20, None)
    assert_best(loaded.candidates(queries, 20), keys, 20, None)
    assert product_settings() == before


@pytest.mark.usefixtures("low_precision")
def test_threads_do_not_undo_each_others_precision(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, queries = world("random", rng)
    loaded = DeviceRows.load(blocks_of(rows), devices=["cpu"], metric=Metric.COSINE)
    outside, inside = product_settings(), []
    first, whole = threading.Event(), device_rows.best

    def slow(*arguments: Any, **options: Any) -> Any:
        # The second comes in after the first and stays for longer.
        second = first.is_set()
        first.set()
        time.sleep(0.2 if second else 0.1)
        inside.append(product_settings())
        return whole(*arguments, **options)

    monkeypatch.setattr(device_rows, "best", slow)
    with ThreadPoolExecutor(2) as pool:
        begun = [pool.submit(loaded.candidates, queries, 3)]
        assert first.wait(10)
        begun.append(pool.submit(loaded.candidates, queries, 3))
        for one in begun:
            one.result()
    assert inside[0] == inside[1] != outside
    assert product_settings() == outside


def test_products_in_half_precision_are_tried_as_they_are_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cpu, product = torch.device("cpu"), torch.mm

    def able(left: Any, right: Any, *, out_dtype: Any, out: Any) -> Any:
        assert not out.is_contiguous()
        return product(left.to(out_dtype), right.to(out_dtype), out=out)

    def only_without_out(left: Any, right: Any, *, out_dtype: Any, out: Any = None) -> Any:
        if out is not None:
            raise RuntimeError("not implemented: mm with out_dtype and out")
        return product(left.to(out_dtype), right.to(out_dtype))

    def elsewhere(left: Any, right: Any, *, out_dtype: Any, out: Any) -> Any:
        return product(left.to(out_dtype), right.to(out_dtype))

    for made, right in ((able, True), (only_without_out, False), (elsewhere, False)):
        monkeypatch.setattr(torch, "mm", made)
        assert device_part._tried_halves(cpu) is right
    assert not device_part.multiplies_halves(cpu)


def cut_off(values: NDArray[np.float64], largest: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values cut, not rounded, to 24 bits below the largest's exponent, as matrix units do."""
    unit = 2.0 ** (np.floor(np.log2(largest)) - 23)
    return np.trunc(values / unit) * unit


def test_the_bound_of_products_in_half_precision(rng: np.random.Generator) -> None:
    """No matrix unit here: one is imitated, which adds four products at a time to a sum and cuts
    off all that lies below its 24 bits."""
    rows = np.abs(rng.normal(size=(200, 512))).astype(np.float16)
    queries = np.abs(rng.normal(size=(20, 512))).astype(np.float32)
    # The first product is 1, each of the others all but reaches its last bit and is cut off.
    rows[0], queries[0] = (2.0**-14 * (2 - 2.0**-9)), (2.0**-11 * (2 - 2.0**-9))
    rows[0, 0] = queries[0, 0] = 1
    halves = queries.astype(np.float16)
    total = np.full((len(queries), len(rows)), 2.0**-60)
    for at in range(0, 512, 4):
        added = halves[:, None, at : at + 4].astype(np.float64) * rows[:, at : at + 4]
        largest = np.maximum(added.max(axis=2), total)
        total = cut_off(total, largest) + cut_off(added, largest[:, :, None]).sum(axis=2)
        total = cut_off(total, total)
    keys = exact_keys(rows, queries, Metric.INNER_PRODUCT)
    norms = np.linalg.norm(queries.astype(np.float64), axis=1)
    for some in (slice(0, 1), slice(0, 200)):
        loaded = DeviceRows.load(
            [Block(rows[some], np.linalg.norm(rows[some].astype(np.float64), axis=1).max())],
            devices=["cpu"],
            metric=Metric.INNER_PRODUCT,
        )
        bound = loaded._bound(queries, norms, halves)
        assert (np.abs(total - keys)[:, some] <= bound[:, None]).all()
    # What rounding, instead of cutting off, may cost would not have covered the first pair.
    assert abs(total - keys)[0, 0] > (512 + 8) * 2.0**-24 * 1.001


@pytest.mark.parametrize("held", ["float32", "float16"])
def test_products_in_half_precision_only_where_queries_fit(
    held: Any, rng: np.random.Generator
) -> None:
    rows, queries = world("random", rng)
    loaded = DeviceRows.load(blocks_of(rows), devices=["cpu"], metric=Metric.COSINE, dtype=held)
    assert not loaded.halves
    able = device_rows.DeviceRows(loaded.parts, loaded.metric, 1, 0, True)

    def halves(queries: NDArray[np.float32]) -> NDArray[np.float16] | None:
        return able._halves(queries, np.linalg.norm(queries.astype(np.float64), axis=1))

    np.testing.assert_array_equal(halves(queries), queries.astype(np.float16))
    assert halves(queries * np.float32(1e6)) is None
    assert halves(queries * np.float32(1e-6)) is None
