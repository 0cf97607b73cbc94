"""Training: it learns, goes on where it stopped, gives the same again, and keeps what it had."""

import itertools
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from training_world import FED, people, small

from extractors.systems import Plan, make_system
from extractors.systems.system import System
from extractors.training import train as training_module
from extractors.training.schedule import Schedule
from extractors.training.train import Epoch, Training, train
from reid_index import evaluate_distances
from reid_index.errors import BadWeights, TrainingFailed, UsageError

REPOSITORY = Path(__file__).parents[1]
CPU = torch.device("cpu")
CROPS, CLASSES = people(8, crops=4)
TINY_INPUT = Plan(backbone="osnet_x0_25")


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def learn(training: Training, state: Path | None = None, **told) -> System:
    return train(training, CROPS, CLASSES, state=state, device=CPU, **told).system


def weights(system: System) -> dict[str, NDArray[np.float32]]:
    return {name: one.numpy() for name, one in system.state_dict().items()}


def assert_same(a: System, b: System) -> None:
    for (name, one), other in zip(weights(a).items(), weights(b).values(), strict=True):
        np.testing.assert_array_equal(one, other, err_msg=name)


def vectors(system: System, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
    fed = torch.from_numpy(np.stack([FED.normalise(crop) for crop in crops]))
    with torch.inference_mode():
        found = system.embed(fed).numpy()
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def test_people_it_has_never_seen_are_told_apart_better_than_before() -> None:
    crops, classes = people(40, crops=6)
    known = classes < 28
    training = small(epochs=10, persons=8, crops=4)

    def score(system: System) -> float:
        found = vectors(system, crops[~known])
        who = classes[~known]
        cameras = np.tile([1, 2], len(who) // 2)
        half = cameras == 1
        distance = 1 - found[half] @ found[~half].T
        return evaluate_distances(
            distance, who[half], who[~half], cameras[half], cameras[~half]
        ).mAP

    before = score(make_system(training.plan, classes=1).eval())
    told: list[Epoch] = []

    def after(epoch: Epoch, _system: System) -> dict[str, float]:
        told.append(epoch)
        return {}

    done = train(training, crops[known], classes[known], state=None, device=CPU, after=after)
    assert score(done.system) > max(0.85, before + 0.1)
    assert told[-1].losses["identity"] < told[0].losses["identity"]
    assert told[-1].losses["triplet"] < told[0].losses["triplet"]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"ema": 0.9, "precision": "bfloat16"},
        {"losses": replace(small().losses, metric="circle", center=0.0005)},
        {"plan": Plan(system="plain", backbone="osnet_x0_25", dim=8)},
        {"plan": Plan(backbone="resnet18_x0_125", neck=False, pooling="gem")},
    ],
    ids=["plain", "ema, bfloat16", "circle, center", "osnet", "no neck, gem"],
)
def test_it_goes_on_where_it_stopped_and_gives_the_same(tmp_path: Path, changes) -> None:
    training = small(**changes)
    whole = learn(training)
    assert_same(whole, learn(training))
    stopped = tmp_path / "m.state"

    def stop(epoch: Epoch, _system: System) -> dict[str, int]:
        if epoch.number == 3:
            raise KeyboardInterrupt
        return {"epoch": epoch.number}

    with pytest.raises(KeyboardInterrupt):
        learn(training, stopped, after=stop)
    done = train(
        training,
        CROPS,
        CLASSES,
        state=stopped,
        device=CPU,
        after=lambda epoch, _: {"epoch": epoch.number},
    )
    assert [one["epoch"] for one in done.told] == [1, 2, 3]
    assert_same(whole, done.system)


def test_another_seed_gives_other_weights() -> None:
    one, other = learn(small(epochs=1)), learn(small(epochs=1, seed=6))
    first = "backbone.conv1.weight"
    assert not np.array_equal(weights(one)[first], weights(other)[first])


def test_it_touches_no_generator_of_others() -> None:
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    learn(small(epochs=1))
    assert torch.equal(torch.rand(3), expected)


def test_averaged_weights_are_between_the_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one kept at 0.5: after each step half of it and half of the new ones."""
    seen: list[torch.Tensor] = []
    step = training_module._Run._step

    def watched(run, *given):
        done = step(run, *given)
        seen.append(run.system.classifier.weight.detach().clone())
        return done

    monkeypatch.setattr(training_module._Run, "_step", watched)
    averaged = learn(small(epochs=2, ema=0.5))
    expected = seen[0]
    for one in seen[1:]:
        expected = 0.5 * expected + 0.5 * one
    torch.testing.assert_close(averaged.classifier.weight, expected)


def test_weights_to_begin_with_are_taken() -> None:
    def start(system: System) -> None:
        torch.nn.init.constant_(system.backbone.conv1.weight, 0.25)

    done = learn(small(epochs=1, rate=1e-12), start=start)
    np.testing.assert_allclose(weights(done)["backbone.conv1.weight"], 0.25, atol=1e-6)


def test_centres_come_to_the_middle_of_their_persons() -> None:
    """And are not pulled to 0 by the decay of weights."""
    training = small(epochs=12, rate=1e-9, augment=replace(small().augment, erase=0.0))
    training = replace(training, losses=replace(training.losses, center=0.0005))
    apart: list[float] = []

    def after(epoch: Epoch, _system: System) -> dict[str, float]:
        apart.append(epoch.losses["center"])
        return {}

    learn(training, after=after)
    assert apart[-1] < 0.1 * apart[0]


# What goes wrong


def test_a_loss_that_is_no_number_stops_it_and_the_last_good_state_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "m.state"
    training = small(epochs=3)
    losses = training_module.Losses.forward
    calls = itertools.count()

    def forward(self, out, classes, maps):
        total, parts = losses(self, out, classes, maps)
        return (total * float("nan") if next(calls) == 5 else total), parts

    with monkeypatch.context() as patch:
        patch.setattr(training_module.Losses, "forward", forward)
        with pytest.raises(
            TrainingFailed, match=r"the loss is nan in epoch 2: .*m\.state has the state before"
        ):
            learn(training, state)
    assert_same(learn(training, state), learn(training))


def test_a_step_that_ruins_the_weights_is_not_kept(tmp_path: Path) -> None:
    state = tmp_path / "m.state"
    for epochs in (1, 2):
        with pytest.raises(
            TrainingFailed, match=r"is (nan|inf|no number) in epoch 1: give a small"
        ):
            learn(small(epochs=epochs, rate=1e35, schedule=Schedule(warmup=0)), state)
        assert not state.exists()


def test_a_state_of_another_training_is_refused(tmp_path: Path) -> None:
    state = tmp_path / "m.state"
    learn(small(epochs=1), state)
    with pytest.raises(UsageError, match="another rate, seed: say the same"):
        learn(small(epochs=1, rate=1e-3, seed=9), state)
    others = CROPS[::-1].copy()
    with pytest.raises(UsageError, match="another crops_sha256: say the same"):
        train(small(epochs=1), others, CLASSES, state=state, device=CPU)
    with pytest.raises(UsageError, match="another init: say the same"):
        learn(small(epochs=1), state, also={"init": "5a"})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"epoch": 99}, "cannot be read as the state"),
        ({"epoch": -1}, "cannot be read as the state"),
        ({"epoch": 0.5}, "cannot be read as the state"),
        ({"format": 2}, "by another version of reid-index"),
        ({"told": 3}, "are not those of this training"),
        ({"system": {}}, "are not those of this training"),
        ({"optimiser": []}, "are not those of this training"),
    ],
)
def test_a_damaged_state_is_refused_in_a_line(tmp_path: Path, change, words: str) -> None:
    path = tmp_path / "m.state"
    learn(small(epochs=1), path)
    torch.save({**torch.load(path, weights_only=True), **change}, path)
    with pytest.raises(BadWeights, match=words) as raised:
        learn(small(epochs=1), path)
    assert "\n" not in str(raised.value)


class Trap:
    """Unpickling it makes a file, as a hostile state would run a command."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_a_state_that_is_none_is_refused_and_not_run(tmp_path: Path) -> None:
    state = tmp_path / "m.state"
    torch.save({"format": 1, "job": Trap(tmp_path / "sprung")}, state)
    with pytest.raises(BadWeights, match="cannot be read as the state of a training"):
        learn(small(), state)
    assert not (tmp_path / "sprung").exists()
    state.write_bytes(b"PK\x03\x04")
    with pytest.raises(BadWeights, match="delete it to begin anew"):
        learn(small(), state)


def test_a_full_disk_keeps_the_former_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from reid_index import files

    state = tmp_path / "m.state"
    training = small(epochs=3)
    write = files.write_file
    calls = itertools.count()

    def full(*given, **options):
        if next(calls) == 1:
            raise OSError(28, "No space left on device", str(given[0]))
        write(*given, **options)

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_file", full)
        with pytest.raises(OSError, match="No space left"):
            learn(training, state)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.state"]
    assert torch.load(state, weights_only=True)["epoch"] == 1
    assert_same(learn(training, state), learn(training))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"epochs": 0}, "one epoch"),
        ({"rate": 0.0}, "rate above 0"),
        ({"ema": 1.0}, "ema"),
        ({"rate": float("inf")}, "rate above 0"),
        ({"seed": -1}, "a seed from 0 up"),
        (
            {"plan": Plan(backbone="osnet_x0_25"), "preprocess": replace(FED, height=8, width=8)},
            "8x8",
        ),
        ({"precision": "int8"}, "no precision 'int8'"),
        ({"persons": 1}, "two persons"),
        ({"persons": 9}, "a batch of 9 persons cannot be had of 8"),
    ],
)
def test_trainings_that_make_no_sense_are_refused(changes, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        learn(small(**changes))


# Several processes

TWO = """
import sys; sys.path.insert(0, "tests")
import torch; torch.set_num_threads(1)
from dataclasses import replace
from training_world import people, small
from extractors.training import train as module
from extractors.training.train import joined
crops, classes = people(8, crops=4)
with joined(torch.device("cpu")) as here:
    training = small(epochs=2)
    training = replace(training, losses=replace(training.losses, center=0.01))
    kept = []
    begin = module._Run.begin.__func__
    module._Run.begin = classmethod(lambda *a, **b: kept.append(begin(*a, **b)) or kept[-1])
    done = module.train(training, crops, classes, state=None, device=torch.device("cpu"))
    state = {**done.system.state_dict(), "centers": kept[0].losses.centers.detach()}
    torch.save(state, f"{sys.argv[1]}/{here.rank}.pt")
"""


def test_two_processes_learn_one_network(tmp_path: Path) -> None:
    (tmp_path / "two.py").write_text(TWO)
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run(
        [sys.executable, *command, str(tmp_path / "two.py"), str(tmp_path)],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        check=True,
        capture_output=True,
        timeout=120,
    )
    one, other = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    for name in one:
        if "running" not in name and "num_batches" not in name:
            torch.testing.assert_close(one[name], other[name], rtol=0, atol=0, msg=name)


def test_more_processes_than_batches_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "50")
    with pytest.raises(UsageError, match=r"an epoch has \d+ batches, too few for 50 processes"):
        learn(small())
