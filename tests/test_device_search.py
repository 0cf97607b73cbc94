"""Searching a gallery on GPUs: which are named, what is copied and when, and what becomes of their
failures. Torch's CPU device stands for them, as whatever GPU was asked for."""

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch

from reid_index import Gallery, Result
from reid_index.errors import DeviceFailed, DeviceTooSmall, MissingExtra, UsageError
from reid_index.search import device_rows
from reid_index.search.device_kept import named_devices
from reid_index.search.device_rows import DeviceRows

ROWS, DIM = 300, 8
FELL_BACK = "the GPU did not answer, the processor did: "


@dataclass
class Gpus:
    """Two GPUs. loads: what was put on which; errors: raised by the next loads."""

    loads: list[Sequence[str]] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Gpus:
    there, load = Gpus(), DeviceRows.load.__func__  # type: ignore[attr-defined]

    def load_here(cls: type, blocks: Any, *, devices: Sequence[str], **options: Any) -> DeviceRows:
        there.loads.append(devices)
        time.sleep(0.02)  # so that threads meet here
        if there.errors:
            raise there.errors.pop(0)
        loaded: DeviceRows = load(cls, blocks, devices=["cpu"] * len(devices), **options)
        return loaded

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(DeviceRows, "load", classmethod(load_here))
    return there


@pytest.fixture
def gallery(make_gallery: Callable[..., Gallery], rng: np.random.Generator) -> Gallery:
    made = make_gallery(dim=DIM)
    made.add(rng.normal(size=(ROWS, DIM)), [{"camera": row % 3} for row in range(ROWS)])
    return made


def same(found: Result, expected: Result) -> bool:
    return [(match.item, match.similarity) for match in found.matches] == [
        (match.item, match.similarity) for match in expected.matches
    ]


def test_rows_are_copied_once_and_let_go_for_other_gpus(gallery: Gallery, gpus: Gpus) -> None:
    expected = gallery.search(np.ones(DIM), where="camera = 1")
    for device in ("cuda", "cuda:0", "cuda:0,cuda:1", "cuda:0,cuda:1", "cuda"):
        found = gallery.search(np.ones(DIM), where="camera = 1", device=device)
        assert same(found, expected)
        assert (found.fallback, found.exact) == (None, True)
        assert found.plan.startswith("100 allowed rows compared on cpu")
    assert gpus.loads == [("cuda:0",), ("cuda:0", "cuda:1"), ("cuda:0",)]


def test_a_filter_is_sent_once(
    gallery: Gallery, gpus: Gpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent, allow = [], DeviceRows.allow

    def counted(self: DeviceRows, rows: Any) -> device_rows.Chosen:
        sent.append(None if rows is None else len(rows))
        return allow(self, rows)

    monkeypatch.setattr(DeviceRows, "allow", counted)
    for _ in range(3):
        for where, k in (("camera = 1", 5), ("camera IN (0, 2)", 5), ("camera = 1", 9)):
            found = gallery.search(np.ones(DIM), k=k, where=where, device="cuda")
            assert same(found, gallery.search(np.ones(DIM), k=k, where=where))
    assert sent == [100, 200]
    gallery.search(np.ones(DIM), device="cuda")
    assert sent == [100, 200, None]


def test_threads_load_once(gallery: Gallery, gpus: Gpus) -> None:
    with ThreadPoolExecutor(4) as pool:
        asked = [
            pool.submit(
                gallery.search, np.ones(DIM), k=5, device="cuda", where=f"camera = {at % 3}"
            )
            for at in range(8)
        ]
        for at, one in enumerate(asked):
            assert same(one.result(), gallery.search(np.ones(DIM), k=5, where=f"camera = {at % 3}"))
    assert gpus.loads == [("cuda:0",)]


def test_a_gpu_that_is_too_small_or_broken_is_not_loaded_again(
    gallery: Gallery, gpus: Gpus
) -> None:
    gpus.errors = [DeviceTooSmall("300 rows need more"), DeviceFailed("it burns")]
    expected = gallery.search(np.ones(DIM))
    for device, reason in [("cuda", "300 rows need more"), ("cuda:1", "it burns")] * 2:
        found = gallery.search(np.ones(DIM), device=device)
        assert same(found, expected)
        assert (found.plan, found.fallback) == (expected.plan, FELL_BACK + reason)
    assert gpus.loads == [("cuda:0",), ("cuda:1",)]


def test_a_gpu_that_fails_in_a_query_is_given_up(
    gallery: Gallery, gpus: Gpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, errors = device_rows.best, list[Exception]()

    def failing(*arguments: Any, **options: Any) -> Any:
        if errors:
            raise errors.pop(0)
        return whole(*arguments, **options)

    monkeypatch.setattr(device_rows, "best", failing)
    monkeypatch.setattr(device_rows, "every", failing)

    def fallbacks() -> list[str | None]:
        """With its path chosen, an index asked for, all rows compared; of a batch; alone."""
        some = [
            gallery.search(np.ones(DIM), device="cuda", recall=recall, k=k)
            for recall, k in ((None, 20), (0.5, 20), (None, ROWS - 1))
        ]
        some += gallery.search_many(np.ones((2, DIM)), device="cuda")
        return [one.fallback for one in some] + [
            one.fallback for one in gallery.nearest(np.ones(DIM), device="cuda")
        ]

    assert fallbacks() == [None] * 6
    # Memory that does not suffice for one query may do for the next.
    errors.append(torch.OutOfMemoryError("Tried to allocate 2 GiB"))
    assert fallbacks() == [f"{FELL_BACK}out of memory on the device: Tried to allocate 2 GiB"] + (
        [None] * 5
    )
    kept = gallery._generation._kept_rows
    assert kept._rows is not None
    errors.append(RuntimeError("CUDA error: device lost"))
    assert fallbacks() == [f"{FELL_BACK}the device failed: CUDA error: device lost"] * 6
    assert kept._rows is None
    assert gpus.loads == [("cuda:0",)]
    assert gallery.search(np.ones(DIM), device="cuda:1").fallback is None
    assert fallbacks() == [f"{FELL_BACK}the device failed: CUDA error: device lost"] * 6


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("nonsense", "not 'nonsense'"),
        ("cuda:", "not 'cuda:'"),
        ("cuda:x", "not 'cuda:x'"),
        ("cuda:-1", "not 'cuda:-1'"),
        ("cuda:²", "not 'cuda:²'"),
        ("cuda:0\n", r"not 'cuda:0\\n'"),
        ("cuda:0,", "not 'cuda:0,'"),
        ("cpu,cuda:0", "not 'cpu,cuda:0'"),
        ("mps", "not 'mps'"),
        ("", "not ''"),
        ("cuda:0,cuda:0", "names a GPU twice"),
        ("cuda,cuda:00", "names a GPU twice"),
        ("cuda:2", "torch finds 2 CUDA devices here, not 'cuda:2'"),
        (None, "not a NoneType"),
        (0, "not a int"),
        (torch.device("cpu"), "not a device"),
    ],
)
def test_devices_that_are_none_are_refused_at_once(
    gallery: Gallery, gpus: Gpus, device: Any, message: str
) -> None:
    searches: list[Callable[..., Any]] = [gallery.search, gallery.search_many, gallery.nearest]
    for search in searches:
        for where in (None, "camera = 9"):
            with pytest.raises(UsageError, match=message) as caught:
                search(np.ones((1, DIM)), where=where, device=device)
            assert len(str(caught.value).splitlines()) == 1
    assert gpus.loads == []


def test_devices_are_refused_in_an_empty_gallery_too(make_gallery: Callable[..., Gallery]) -> None:
    with pytest.raises(UsageError, match="not 'abacus'"):
        make_gallery(dim=DIM).search(np.ones(DIM), device="abacus")


def test_only_gpus_need_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    code = """
import sys
from reid_index.search.device_kept import named_devices
from reid_index.errors import UsageError
assert named_devices("cpu") == ()
try:
    named_devices("cuda:")
except UsageError:
    sys.exit("torch" in sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert named_devices("cpu") == ()
    with pytest.raises(MissingExtra, match="pip install torch"):
        named_devices("cuda")
