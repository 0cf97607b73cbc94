"""The training itself: epochs of batches, forward, backward, and a state after each epoch."""

import hashlib
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from reid_index.errors import BadWeights, TrainingFailed, UsageError

from ..preprocess import MEAN, STD, Preprocess, preprocess_to_json
from ..systems import OF_REGIONS, OF_SEGMENTS, Plan, make_system
from ..systems.coattention import CoAttention
from ..systems.fls import FLS
from ..systems.system import System
from .augment import Augment, prepare, prepare_both
from .batches import Batches
from .frozen import views_of
from .looks import Looks
from .losses import Losses, LossPlan
from .regions import band_maps, cluster_maps
from .schedule import Schedule
from .state import load_state, save_state
from .tracks import SegmentBatches, Tracks

PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
_WAITING = timedelta(hours=2)
"""That processes wait for the first one, which validates alone."""

_CENTERS = 0.5
"""The rate of centres, in units of their own mean: that of BoT's code."""

_SETTLING = 2048
"""Crops by which a co-attention network settles on what to keep of them."""

_UNSEEN = 0.2
"""Share of a training in which regions are bands: the network sees too little to find them."""

_AHEAD = 2
"""Batches that are prepared while another is learnt from."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """All that decides what comes out of a training, but for the crops.

    persons, crops: P and K of a batch; a system of segments gets P persons with K segments of
    `frames` crops each. views: 0, or the backbone is left as it is, and the rest learns from so
    many views of each crop, changed at random, which are embedded once, before. rate: of Adam, with
    `decay` of the weights added to the gradient. clip: the longest gradient. ema: how much of the
    averaged weights stays at each step, 0 for no average. precision: of most products, one of
    PRECISIONS; sums and weights are float32.
    """

    plan: Plan
    preprocess: Preprocess
    augment: Augment = field(default_factory=Augment)
    losses: LossPlan = field(default_factory=LossPlan)
    schedule: Schedule = field(default_factory=Schedule)
    epochs: int = 60
    persons: int = 16
    crops: int = 4
    frames: int = 1
    views: int = 0
    rate: float = 3.5e-4
    decay: float = 5e-4
    clip: float = 10.0
    ema: float = 0.0
    precision: str = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            known = ", ".join(PRECISIONS)
            raise UsageError(f"there is no precision {self.precision!r}; there are {known}")
        is_sound = self.epochs >= 1 and 0 < self.rate < math.inf and 0 <= self.decay < math.inf
        if not is_sound or not 0 <= self.ema < 1 or self.seed < 0:
            raise UsageError(
                "a training has one epoch at least, a rate above 0, a decay from 0 up, an ema from "
                "0 to below 1, and a seed from 0 up"
            )

        of_segments = self.plan.system in OF_SEGMENTS
        if self.frames < 1 or self.views < 0:
            raise UsageError("a segment has one frame at least, and a crop no view or more")
        if not of_segments and (self.frames > 1 or self.views):
            raise UsageError(
                f"{self.plan.system} learns from crops, with its backbone: frames and views are of "
                f"{', '.join(OF_SEGMENTS)}"
            )
        fed = self.preprocess
        if self.plan.system in OF_REGIONS and (fed.height % 4 or fed.width % 4):
            raise UsageError(
                f"{self.plan.system} tells regions of cells of 4 × 4 pixels: crops of "
                f"{fed.height}x{fed.width} are not to be divided so"
            )
        compares = self.losses.metric != "none" and self.losses.metric_weight > 0
        if self.plan.system == "aligned" and not compares:
            raise UsageError(
                "the stripes of aligned learn by triplets alone, so they would stay random without "
                "a loss that compares: give --loss triplet, circle or triplet+circle"
            )
        if self.plan.system == "haa" and (
            (fed.mean, fed.std, fed.color_order) != (MEAN, STD, "RGB")
            or not math.isclose(fed.scale, 1 / 255)
        ):
            raise UsageError(
                f"haa measures light and blur on its inputs: normalise them by the mean {MEAN} and "
                f"std {STD} of RGB in 0…1"
            )

    def to_json(self) -> dict[str, Any]:
        """As cards and states have it."""
        said = asdict(self)
        said["preprocess"] = preprocess_to_json(self.preprocess)
        said["plan"] = self.plan.to_json()
        said["schedule"]["steps"] = list(self.schedule.steps)
        return said


@dataclass(frozen=True)
class Epoch:
    """What came of one. number: from 1. losses: means by name. seconds: it took. crops: in it."""

    number: int
    losses: dict[str, float]
    seconds: float
    crops: int

    @property
    def rate(self) -> float:
        """Crops a second."""
        return self.crops / self.seconds


@dataclass(frozen=True)
class Outcome:
    """system: on the CPU; with averaged weights, if there are any. told: what was said of each
    epoch."""

    system: System
    told: list[dict[str, Any]]


@dataclass(frozen=True)
class Processes:
    """Several that train one network, as torch's launcher starts them (torchrun); 1 without it."""

    rank: int
    count: int

    @classmethod
    def here(cls) -> "Processes":
        """By the launcher's variables."""
        count = int(os.environ.get("WORLD_SIZE", "1"))
        return cls(int(os.environ.get("RANK", "0")) if count > 1 else 0, count)


def own_device(device: torch.device) -> torch.device:
    """Of several processes of one machine each has a GPU of its own."""
    if device.type == "cuda" and Processes.here().count > 1:
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    return device


@contextmanager
def joined(device: torch.device) -> Iterator[Processes]:
    """Be one of the launcher's processes."""
    here = Processes.here()
    if here.count == 1:
        yield here
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    torch.distributed.init_process_group(
        "nccl" if device.type == "cuda" else "gloo", timeout=_WAITING
    )
    try:
        yield here
    finally:
        torch.distributed.destroy_process_group()


def train(
    training: Training,
    crops: NDArray[np.uint8],
    classes: NDArray[np.int64],
    *,
    state: Path | None,
    device: torch.device,
    tracks: Tracks | None = None,
    looks: Looks | None = None,
    also: Mapping[str, Any] | None = None,
    start: Callable[[System], object] = lambda _system: None,
    after: Callable[[Epoch, System], Mapping[str, Any]] = lambda _epoch, _system: {},
    progress: Callable[[int], object] = lambda _crops: None,
) -> Outcome:
    """Train a system.

    crops: uint8 (N, height, width, 3), RGB. classes: int64 (N,), from 0 on. tracks: of the crops,
    for a system of segments. looks: what is known of them, for one that tells regions or
    attributes. state: a file that says where it stopped; one that is there is gone on with, if it
    is of the same training, the same crops, and the same `also`, JSON that says what else decides
    the weights. start: gets the new system first, to begin from other weights. after: told of each
    epoch, with the system as it is then, and what it says of it, JSON, is kept; of several
    processes only the first one's is.
    The same seed, device and number of processes and threads give the same weights.

    Raises TrainingFailed for a loss that is no number: the state before that epoch stays; what
    `load_state` raises, and OSError where the state cannot be written.
    """
    run = _Run.begin(
        training,
        crops,
        classes,
        state=state,
        device=device,
        tracks=tracks,
        looks=looks or Looks(),
        also=also or {},
        start=start,
    )
    with ThreadPoolExecutor(1, "prepare") as preparer:
        while run.epoch < training.epochs:
            done = run.learn(crops, classes, preparer, progress)
            if run.here.rank == 0:
                run.told.append(dict(after(done, run.result())))
                run.keep()
    return Outcome(run.result(), run.told)


@dataclass
class _Run:
    """A training under way. epoch: how many are done. told: of them."""

    training: Training
    persons: int
    batches: Batches | SegmentBatches
    views: Tensor | None
    looks: Looks
    system: System
    losses: Losses
    wrapped: nn.Module
    average: AveragedModel | None
    optimiser: torch.optim.Optimizer
    centers: torch.optim.Optimizer | None
    scaler: torch.amp.GradScaler
    device: torch.device
    here: Processes
    state: Path | None
    job: dict[str, Any]
    epoch: int = 0
    told: list[dict[str, Any]] = field(default_factory=list)
    maps: NDArray[np.uint8] | None = None

    @classmethod
    def begin(
        cls,
        training: Training,
        crops: NDArray[np.uint8],
        classes: NDArray[np.int64],
        *,
        state: Path | None,
        device: torch.device,
        tracks: Tracks | None,
        looks: Looks,
        also: Mapping[str, Any],
        start: Callable[[System], object],
    ) -> "_Run":
        persons = int(classes.max()) + 1
        looks.check(training.plan, crops=len(crops), persons=persons)
        batches = _batches(training, classes, tracks)
        here = Processes.here()
        if len(batches.epoch(0)) < here.count:
            raise UsageError(
                f"an epoch has {len(batches.epoch(0))} batches, too few for {here.count} processes"
            )
        with torch.random.fork_rng():
            torch.manual_seed(training.seed)
            system = make_system(training.plan, classes=persons)
            losses = Losses(
                training.losses, classes=persons, dims=system.metric_dims, words=looks.words
            )
        start(system)
        _try_out(system, training)
        # Laid out so, the processor's and the GPU's convolutions are fastest.
        system = system.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        losses = losses.to(device)
        views = None
        if training.views:
            views = _embedded(system, crops, training, count=training.views, device=device)
        if isinstance(system, CoAttention):
            if training.views:
                system.freeze()
            known = None if views is None else views[0]
            if known is None:
                rows = np.linspace(0, len(crops) - 1, min(len(crops), _SETTLING)).astype(np.int64)
                known = _embedded(system, crops[rows], training, count=1, device=device)[0]
            system.settle(known.to(device))
        run = cls(
            training=training,
            persons=persons,
            batches=batches,
            views=views,
            looks=looks,
            system=system,
            losses=losses,
            wrapped=_shared(system) if here.count > 1 else system,
            average=_average(system, training.ema) if training.ema else None,
            optimiser=torch.optim.Adam(
                [one for one in system.parameters() if one.requires_grad],
                lr=training.rate,
                weight_decay=training.decay,
                fused=True,  # one pass over all weights instead of one for each tensor
            ),
            # Centres are means of what they are near; decay would pull them to 0.
            centers=torch.optim.SGD(losses.parameters(), lr=_CENTERS)
            if training.losses.center
            else None,
            scaler=torch.amp.GradScaler(device.type, enabled=training.precision == "float16"),
            device=device,
            here=here,
            state=state,
            job={
                **training.to_json(),
                "crops_sha256": _sum(crops, classes, tracks),
                **looks.to_json(),
                "processes": here.count,
                **also,
            },
        )
        if state is not None and state.exists():
            run.load(load_state(state, job=run.job, epochs=training.epochs), of=state)
        return run

    def _parts(self) -> dict[str, Any]:
        parts = {
            "system": self.system,
            "losses": self.losses,
            "optimiser": self.optimiser,
            "scaler": self.scaler,
        }
        if self.centers is not None:
            parts["centers"] = self.centers
        return parts if self.average is None else {**parts, "average": self.average}

    def keep(self) -> None:
        """Write the state, unless it is of no use: see `TrainingFailed`."""
        if not all(torch.isfinite(one).all() for one in self.system.state_dict().values()):
            self._fail("a weight is no number")
        if self.state is not None:
            parts = {name: part.state_dict() for name, part in self._parts().items()}
            save_state(
                self.state, job=self.job, epoch=self.epoch, parts={**parts, "told": self.told}
            )

    def load(self, state: dict[str, Any], *, of: Path) -> None:
        """Raises BadWeights where it is not that of such a run."""
        try:
            for name, part in self._parts().items():
                part.load_state_dict(state[name])
            self.epoch, self.told = state["epoch"], [dict(one) for one in state["told"]]
        except Exception as error:  # each part has errors of its own
            raise BadWeights(
                f"{of}: its tensors are not those of this training ({type(error).__name__}): "
                "delete it to begin anew"
            ) from None

    def result(self) -> System:
        """The system as it is now, or its average, in a copy that later epochs do not change."""
        source: nn.Module = self.system if self.average is None else self.average.module
        state = {name: one.cpu() for name, one in source.state_dict().items()}
        with torch.random.fork_rng():
            copy = make_system(self.training.plan, classes=self.persons)
        copy.load_state_dict(state)
        copy.stage(self.epoch / self.training.epochs)
        return copy.eval()

    def learn(
        self,
        crops: NDArray[np.uint8],
        classes: NDArray[np.int64],
        preparer: ThreadPoolExecutor,
        progress: Callable[[int], object],
    ) -> Epoch:
        """One epoch."""
        batches = self.batches.epoch(self.epoch)
        batches = batches[: len(batches) - len(batches) % self.here.count]
        mine = batches[self.here.rank :: self.here.count]
        begin = time.perf_counter()
        sums: dict[str, float] = {}
        self.wrapped.train()
        self.system.stage(self.epoch / self.training.epochs)
        self.maps = self._regions(crops, classes)
        with torch.random.fork_rng():
            torch.manual_seed(hash((self.training.seed, self.epoch, self.here.rank)) % 2**63)
            for number, (chosen, images, maps) in enumerate(self._prepared(crops, mine, preparer)):
                done = self.epoch + number / len(mine)
                parts = self._step(images, torch.from_numpy(classes[chosen]), maps, done)
                for name, value in parts.items():
                    sums[name] = sums.get(name, 0.0) + value
                progress(len(chosen))
        self.epoch += 1
        means = {name: value / len(mine) for name, value in sums.items()}
        seconds = time.perf_counter() - begin
        return Epoch(self.epoch, means, seconds, sum(map(len, mine)))

    def _regions(
        self, crops: NDArray[np.uint8], classes: NDArray[np.int64]
    ) -> NDArray[np.uint8] | None:
        """Maps of the crops' regions, as far as they are known; None for a system without."""
        if not isinstance(self.system, FLS):
            return None
        height, width = (size // 4 for size in crops.shape[1:3])
        parsed = self.looks.parsed_at(height, width)
        if self.epoch < _UNSEEN * self.training.epochs:
            if parsed is not None:
                return parsed
            return band_maps(len(crops), height=height, width=width, regions=self.system.regions)
        return cluster_maps(
            self.system,
            crops,
            classes,
            preprocess=self.training.preprocess,
            device=self.device,
            parsed=parsed,
        )

    def _step(
        self, images: Tensor, classes: Tensor, maps: Tensor | None, epoch: float
    ) -> dict[str, float]:
        """Learn from one batch; its losses by name."""
        training = self.training
        factor = training.schedule.factor(epoch, epochs=training.epochs)
        for group in self.optimiser.param_groups:
            group["lr"] = training.rate * factor
        if images.ndim == 4:
            images = images.to(self.device, memory_format=torch.channels_last)
        if self.system.of_segments:
            images = images.reshape(-1, training.frames, *images.shape[1:])
        kind = PRECISIONS[training.precision]
        with torch.autocast(self.device.type, kind, enabled=kind is not None):
            out = self.wrapped(images)
        there = None if maps is None else maps.to(self.device)
        loss, parts = self.losses(out, classes.to(self.device), there)
        value = float(loss.detach())
        if not math.isfinite(value):
            self._fail(f"the loss is {value}")
        self.optimiser.zero_grad(set_to_none=True)
        self.losses.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self._share_gradients()
        self.scaler.unscale_(self.optimiser)
        length = float(nn.utils.clip_grad_norm_(self.system.parameters(), training.clip))
        # Where gradients are scaled, the scaler leaves such a step out and scales them less.
        if not math.isfinite(length) and not self.scaler.is_enabled():
            self._fail(f"a gradient is {length}")
        self.scaler.step(self.optimiser)
        if self.centers is not None:
            self.scaler.unscale_(self.centers)
            grads = [one.grad for one in self.losses.parameters() if one.grad is not None]
            for grad in grads:
                grad.div_(training.losses.center)
            if grads:  # there is a stage without
                self.scaler.step(self.centers)
        self.scaler.update()
        if self.average is not None:
            self.average.update_parameters(self.system)
        return {name: float(part.detach()) for name, part in parts.items()}

    def _fail(self, what: str) -> NoReturn:
        epoch = self.epoch + 1
        kept = ""
        if self.state is not None and self.state.exists():
            kept = f"; {self.state} has the state before; to change options, delete it"
        raise TrainingFailed(
            f"{what} in epoch {epoch}: give a smaller --rate, a longer --warmup, or float32{kept}"
        )

    def _share_gradients(self) -> None:
        """Average those of the losses' own weights, the centres, over all processes; torch does it
        for the system's."""
        if self.here.count > 1:
            for one in self.losses.parameters():
                if one.grad is not None:
                    torch.distributed.all_reduce(one.grad)
                    one.grad.div_(self.here.count)

    def _prepared(
        self,
        crops: NDArray[np.uint8],
        batches: list[NDArray[np.int64]],
        preparer: ThreadPoolExecutor,
    ) -> Iterator[tuple[NDArray[np.int64], Tensor, Tensor | None]]:
        """Batches, with maps of their regions if there are any, changed at random, ahead of time;
        the same for the same seed."""

        def make(number: int) -> tuple[Tensor, Tensor | None]:
            rng = np.random.default_rng(
                (self.training.seed, self.epoch, number * self.here.count + self.here.rank)
            )
            if self.views is not None:
                which = rng.integers(self.training.views, size=len(batches[number]))
                return self.views[which, batches[number]], None
            some = crops[batches[number]]
            augment, preprocess = self.training.augment, self.training.preprocess
            if self.maps is None:
                return torch.from_numpy(prepare(some, augment, preprocess, rng)), None
            made, maps = prepare_both(some, self.maps[batches[number]], augment, preprocess, rng)
            return torch.from_numpy(made), torch.from_numpy(maps)

        waiting: list[Future[tuple[Tensor, Tensor | None]]] = []
        for number in range(min(_AHEAD, len(batches))):
            waiting.append(preparer.submit(make, number))
        for number, chosen in enumerate(batches):
            images, maps = waiting.pop(0).result()
            if number + _AHEAD < len(batches):
                waiting.append(preparer.submit(make, number + _AHEAD))
            yield chosen, images, maps


def _shared(system: System) -> DistributedDataParallel:
    """One of several processes' copies. What a stage of the training leaves out has no gradient."""
    return DistributedDataParallel(system, find_unused_parameters=system.has_stages)


def _average(system: System, kept: float) -> AveragedModel:
    """The exponential moving average of weights and running statistics."""
    update = torch.optim.swa_utils.get_ema_multi_avg_fn(kept)  # type: ignore[no-untyped-call]
    return AveragedModel(system, multi_avg_fn=update, use_buffers=True)


def _embedded(
    system: System,
    crops: NDArray[np.uint8],
    training: Training,
    *,
    count: int,
    device: torch.device,
) -> Tensor:
    return views_of(
        system,
        crops,
        count=count,
        augment=training.augment,
        preprocess=training.preprocess,
        seed=training.seed,
        device=device,
    )


def _batches(
    training: Training, classes: NDArray[np.int64], tracks: Tracks | None
) -> Batches | SegmentBatches:
    if training.plan.system not in OF_SEGMENTS:
        return Batches(classes, persons=training.persons, crops=training.crops, seed=training.seed)
    if tracks is None:
        raise UsageError(f"{training.plan.system} learns from tracks, and none are said")
    return SegmentBatches(
        tracks,
        classes,
        persons=training.persons,
        segments=training.crops,
        frames=training.frames,
        seed=training.seed,
    )


def _try_out(system: System, training: Training) -> None:
    """Raise UsageError where a system cannot run on such crops."""
    preprocess = training.preprocess
    blank = torch.zeros(2, 3, preprocess.height, preprocess.width)
    if system.of_segments:
        blank = blank[:, None]
    try:
        with torch.inference_mode():
            system.eval()(blank)
    except RuntimeError as error:
        raise UsageError(
            f"crops of {preprocess.height}x{preprocess.width} are too small for this backbone: "
            f"{str(error).splitlines()[0]}"
        ) from None


def _sum(crops: NDArray[np.uint8], classes: NDArray[np.int64], tracks: Tracks | None) -> str:
    """Hex sha256 of all that is learnt from."""
    digest = hashlib.sha256(np.ascontiguousarray(crops).data)
    digest.update(np.ascontiguousarray(classes).data)
    for of_track in () if tracks is None else (*tracks.crops, tracks.cameras):
        digest.update(np.append(of_track, -1).astype(np.int64).data)
    return digest.hexdigest()
