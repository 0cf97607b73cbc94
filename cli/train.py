"""`reid train`: a model of one's own, from labelled crops."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from .paths import PATH
from .progress import progress_bar
from .sources import find_source, refuse_unstorable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from extractors.pictures import Source
    from extractors.preprocess import Preprocess
    from extractors.systems.system import System
    from extractors.training.crops import Labelled
    from extractors.training.looks import Looks
    from extractors.training.train import Epoch, Training

Function = TypeVar("Function", bound=Callable[..., Any])

_DEFAULT = "default"
"""What --init calls the model that comes along."""

_FRAMES = 4
"""Of a segment, in training."""

_BATCH = 64
"""Crops that are embedded at once when a model is validated."""


def _learning_options(function: Function) -> Function:
    """Adds what decides the weights, beside the crops."""
    share = click.FloatRange(0, 1)
    for option in reversed(
        [
            click.option("--system", default="bot", show_default=True, help="bot, pcb, haa, …"),
            click.option("--backbone", default="osnet_x0_25", show_default=True, metavar="NAME"),
            click.option("--pooling", default="average", show_default=True, help="average or gem."),
            click.option(
                "--dim",
                type=int,
                help="Of vectors; 0: as the map [default: 512; of each stripe, 256].",
            ),
            click.option(
                "--stripes",
                default=0,
                show_default="as published",
                help="Of pcb, icnn, scpnet, aligned, convnext_ap.",
            ),
            click.option(
                "--no-neck", is_flag=True, help="bot, scpnet, aligned, icnn without BNNeck."
            ),
            click.option("--key", default=0, show_default="128", help="Dimensions; coattention."),
            click.option("--value", default=0, show_default="128", help="The same, of codes."),
            click.option("--regions", default=0, show_default="6", help="Of fls: body parts."),
            click.option(
                "--told-from",
                type=click.Choice(["global", "regions", "weighted"]),
                default="weighted",
                show_default=True,
                help="Of fls: what attributes are told from.",
            ),
            click.option("--input-size", default="256x128", show_default=True, metavar="HxW"),
            click.option("--epochs", default=60, show_default=True),
            click.option("--batch", default="16x4", show_default=True, help="Persons x crops."),
            click.option(
                "--frames",
                type=click.IntRange(1),
                help="Of a segment; of coattention [default: 4].",
            ),
            click.option(
                "--freeze",
                default=0,
                metavar="VIEWS",
                help="Of coattention: leave the backbone as --init has it; learn from so many "
                "views of each crop.",
            ),
            click.option("--rate", default=3.5e-4, show_default=True, help="Of learning."),
            click.option("--decay", default=5e-4, show_default=True, help="Of weights."),
            click.option("--schedule", default="cosine", show_default=True, help="cosine or step."),
            click.option("--warmup", default=5.0, show_default=True, help="Epochs."),
            click.option(
                "--loss",
                default="triplet",
                show_default=True,
                help="triplet, circle, triplet+circle or none.",
            ),
            click.option("--smoothing", type=share, default=0.1, show_default=True),
            click.option("--center", default=0.0, show_default=True, help="Its weight."),
            click.option("--region-loss", default=1.0, show_default=True, help="Weight; fls."),
            click.option("--attribute-loss", default=0.6, show_default=True, help="Weight; fls."),
            click.option("--erase", type=share, default=0.5, show_default=True, help="How often."),
            click.option("--flip", type=share, default=0.5, show_default=True, help="How often."),
            click.option("--pad", default=10, show_default=True, help="Pixels."),
            click.option("--ema", default=0.0, show_default=True, help="0: no averaged weights."),
            click.option(
                "--precision",
                default="float32",
                show_default=True,
                help="float32, bfloat16 or float16.",
            ),
            click.option("--seed", type=click.IntRange(0), default=0, show_default=True),
        ]
    ):
        function = option(function)
    return function


@click.command(name="train", short_help="Train a model on labelled crops.")
@click.argument("sources", nargs=-1, required=True, type=PATH)
@click.option("--out", required=True, type=PATH, help="The new model, NAME.safetensors.")
@click.option(
    "--split",
    type=PATH,
    help="A list (file, split): train on what it calls train, validate by its query and gallery.",
)
@click.option(
    "--init",
    type=PATH,
    help="A checkpoint whose backbone to begin with; default: the model that comes along.",
)
@click.option(
    "--attributes",
    type=PATH,
    help="Of fls: the persons' attributes, .mat, .csv or .parquet, to be learnt, too.",
)
@click.option(
    "--parsing",
    type=PATH,
    help="Of fls: a folder of a human parser's maps, PNG; what it misses are belongings.",
)
@_learning_options
@click.option(
    "--validate-every",
    type=click.IntRange(1),
    default=10,
    show_default=True,
    help="Epochs; with --split.",
)
@click.option("--half", is_flag=True, help="Write weights in half precision: half the size.")
@click.option("--onnx", type=PATH, help="Write it as ONNX, too.")
@click.option("--data", default=None, help="For its card: what it was trained on.")
@click.option("--licence", default=None, help="For its card: what it may be used for.")
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")
def command(
    sources: tuple[Path, ...],
    out: Path,
    split: Path | None,
    init: Path | None,
    attributes: Path | None,
    parsing: Path | None,
    validate_every: int,
    half: bool,
    onnx: Path | None,
    data: str | None,
    licence: str | None,
    device: str,
    **learning: Any,
) -> None:
    """Train a model on the labelled crops of SOURCES, folders or lists as `reid build` takes them.

    A training that was interrupted goes on behind its last epoch when it is run again; meanwhile
    OUT.state has what it needs. Several GPUs: torchrun --nproc-per-node N --no-python reid train …
    """
    from extractors.systems import OF_SEGMENTS
    from extractors.torch_model import torch_device
    from extractors.training.crops import decode, read_labelled
    from extractors.training.denormals import without_denormals
    from extractors.training.tracks import tracks_of
    from extractors.training.train import joined, own_device, train
    from reid_index import files

    from .formats import counted

    _refuse_files(out, onnx)
    _refuse_unsayable(data, licence, None if init is None else init.name)
    told_from = learning.pop("told_from")
    if attributes is not None or parsing is not None:
        _refuse_looks(learning["system"])
    training = _training(belongings=parsing is not None, **learning)
    init = _init(init, training)
    processor = own_device(torch_device(device))
    labelled = read_labelled([_source(path, split, "train") for path in sources])
    click.echo(
        f"{counted(len(labelled), 'crop')} of {counted(len(labelled.persons), 'person')}, "
        f"{labelled.lonely:,} of them with one crop only",
        err=True,
    )
    training, looks = _looks(training, labelled, attributes, parsing, told_from=told_from)
    tracks = None
    if training.plan.system in OF_SEGMENTS:
        tracks = tracks_of(labelled)
        click.echo(f"{counted(len(tracks.crops), 'track')}", err=True)
        if training.views:
            views = counted(training.views, "view")
            click.echo(f"first, {views} of each crop are embedded, once", err=True)
    state = out.with_name(f"{out.name}.state")
    with (
        without_denormals(),
        joined(processor) as here,
        progress_bar(len(labelled), unit="crop") as bar,
    ):
        crops = decode(labelled, training.preprocess, progress=bar.update)
        bar.close()
        validation = None
        if split is not None and here.rank == 0:
            validation = _Validation.read(sources, split, training.preprocess)
        report = _Report(training.epochs, every=validate_every, validation=validation)
        with progress_bar(training.epochs * len(labelled), unit="crop") as bar:
            report.bar = bar
            done = train(
                training,
                crops,
                labelled.classes,
                state=state,
                device=processor,
                tracks=tracks,
                looks=looks,
                also={"init": None if init is None else files.sha256_file(init)},
                start=lambda new: _begin(new, init, training),
                after=report,
                progress=bar.update,
            )
        if here.rank == 0:
            about = {
                "data": data,
                "licence": licence,
                "figures": report.figures(done.told),
                "training": {
                    **training.to_json(),
                    "init": None if init is None else init.name,
                    "crops": len(labelled),
                    "persons": len(labelled.persons),
                    "told": done.told,
                    "seconds": round(sum(one["seconds"] for one in done.told), 1),
                },
            }
            _write(out, training, done.system, about, half=half, onnx=onnx)
            files.remove(state)


def _refuse_files(out: Path, onnx: Path | None) -> None:
    """Before hours of training, what cannot be written after them."""
    from reid_index.errors import UsageError

    if out.suffix != ".safetensors":
        raise UsageError(f"--out {out}: call it NAME.safetensors")
    wanted = [out]
    if onnx is not None:
        if onnx.suffix != ".onnx":
            raise UsageError(f"--onnx {onnx}: call it NAME.onnx")
        from extractors.onnx_export import need_exporter

        need_exporter()
        wanted += [onnx, onnx.with_suffix(".json")]
    for path in wanted:
        if path.exists():
            raise UsageError(f"{path} is there already: choose another name")
        if not path.absolute().parent.is_dir():
            raise UsageError(f"{path}: there is no folder {path.parent}; make it first")
        refuse_unstorable(path)


def _refuse_unsayable(*texts: str | None) -> None:
    """What a card cannot say."""
    from reid_index.errors import UsageError

    for text in texts:
        try:
            (text or "").encode()
        except UnicodeEncodeError:
            raise UsageError(f"{text!r} is not UTF-8, so no card can hold it") from None


def _training(
    *,
    input_size: str,
    batch: str,
    schedule: str,
    warmup: float,
    loss: str,
    smoothing: float,
    center: float,
    erase: float,
    flip: float,
    pad: int,
    system: str,
    backbone: str,
    pooling: str,
    dim: int | None,
    stripes: int,
    no_neck: bool,
    key: int,
    value: int,
    regions: int,
    region_loss: float,
    attribute_loss: float,
    belongings: bool,
    frames: int | None,
    freeze: int,
    **rest: Any,
) -> "Training":
    from extractors.preprocess import MEAN, STD, Preprocess
    from extractors.systems import OF_SEGMENTS, OF_THE_WHOLE, Plan
    from extractors.training.augment import Augment
    from extractors.training.losses import LossPlan
    from extractors.training.schedule import Schedule
    from extractors.training.train import Training

    height, width = _two(input_size, "--input-size")
    persons, crops = _two(batch, "--batch")
    return Training(
        plan=Plan(
            system=system,
            backbone=backbone,
            pooling=pooling,
            dim=(512 if system in OF_THE_WHOLE else 0) if dim is None else dim,
            neck=not no_neck,
            stripes=stripes,
            key=key,
            value=value,
            regions=regions,
            belongings=belongings,
        ),
        preprocess=Preprocess(height=height, width=width, scale=1 / 255, mean=MEAN, std=STD),
        augment=Augment(erase=erase, flip=flip, pad=pad),
        losses=LossPlan(
            metric=loss,
            smoothing=smoothing,
            center=center,
            regions=region_loss,
            attributes=attribute_loss,
        ),
        schedule=Schedule(kind=schedule, warmup=warmup),
        persons=persons,
        crops=crops,
        frames=(_FRAMES if system in OF_SEGMENTS else 1) if frames is None else frames,
        views=freeze,
        **rest,
    )


def _refuse_looks(system: str) -> None:
    """Where attributes and maps are given to a system that has no use for them."""
    from extractors.systems import OF_REGIONS
    from reid_index.errors import UsageError

    if system not in OF_REGIONS:
        raise UsageError(
            f"--attributes and --parsing are of {', '.join(OF_REGIONS)}: {system} has no use for "
            "them"
        )


def _looks(
    training: "Training",
    labelled: "Labelled",
    attributes: Path | None,
    parsing: Path | None,
    *,
    told_from: str,
) -> "tuple[Training, Looks]":
    """What is known of people's looks, and the training with what is to be told of them."""
    from dataclasses import replace

    from extractors.training.looks import Looks, read_words
    from extractors.training.parsing import read_parsed

    from .formats import counted

    plan = training.plan
    shares = parsed = None
    if attributes is not None:
        words, shares, notes = read_words(attributes, labelled)
        for note in notes:
            click.echo(note, err=True)
        plan = replace(plan, words=words, told_from=told_from)
        click.echo(f"{counted(len(words), 'attribute')}: {', '.join(dict(words))}", err=True)
    if parsing is not None:
        height, width = training.preprocess.height // 4, training.preprocess.width // 4
        parsed = read_parsed(parsing, labelled, height=height, width=width)
        # The regions are the parser's, and belongings.
        plan = replace(plan, regions=plan.regions or int(parsed.max()) + 1)
    return replace(training, plan=plan), Looks(words=shares, parsed=parsed)


def _two(text: str, option: str) -> tuple[int, int]:
    from reid_index.errors import UsageError

    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isdecimal() for part in parts):
        raise UsageError(f"{option} {text!r}: two whole numbers with an x between, please")
    return int(parts[0]), int(parts[1])


def _source(path: Path, split: Path | None, part: str) -> "Source":
    """The pictures of a path; of a folder that a split tells of, those of that part only."""
    if split is not None and path.is_dir():
        from .sides import split_pictures

        return split_pictures(path, split, part)
    return find_source([path], layout="auto", boxes=None, keep_junk=False)


def _init(init: Path | None, training: "Training") -> Path | None:
    """The file to begin with. Raises UsageError where none is said and one is needed."""
    from extractors.trained import DEFAULT
    from reid_index.errors import UsageError

    if training.views and init is None:
        raise UsageError("--freeze leaves a backbone as it is: say which by --init")
    return DEFAULT if init is not None and str(init) == _DEFAULT else init


def _begin(system: "System", init: Path | None, training: "Training") -> None:
    from extractors.public import backbone_state, frames_state
    from reid_index.errors import UsageError

    if init is None:
        return
    state = frames_state(init) if system.of_segments else None
    if state is None and training.views:
        raise UsageError(
            f"--freeze: {init} has no layers between backbone and frames' vectors, and random ones "
            "are not to stay: give a model of `reid train`, of bot or coattention"
        )
    system.begin(backbone_state(init) if state is None else state, path=init)


def _write(
    out: Path,
    training: "Training",
    system: "System",
    about: dict[str, Any],
    *,
    half: bool,
    onnx: Path | None,
) -> None:
    from extractors.trained import Model, write_model

    if onnx is not None:
        from extractors.onnx_export import export_onnx

        cosine = export_onnx(onnx, system, training.preprocess)
        click.echo(f"{onnx}: cosine to the model {cosine:.6f} at least", err=True)
    # Last: where it is there, the training has nothing left to do.
    write_model(out, Model(system, training.plan, training.preprocess, about), half=half)
    click.echo(f"{out}: {out.stat().st_size:,} bytes", err=True)


# Validation and what is told of epochs


@dataclass(frozen=True)
class _Side:
    crops: "NDArray[np.uint8]"
    persons: list[str]
    cameras: "NDArray[np.int64]"


@dataclass(frozen=True)
class _Validation:
    """Query and gallery of a split, decoded."""

    query: _Side
    gallery: _Side
    preprocess: "Preprocess"

    @classmethod
    def read(cls, sources: Sequence[Path], split: Path, preprocess: "Preprocess") -> "_Validation":
        from reid_index.errors import UsageError

        folders = [path for path in sources if path.is_dir()]
        if not folders:
            raise UsageError("--split tells of folders, and none is among the sources")
        query, gallery = (
            _side([_source(path, split, part) for path in folders], part, preprocess)
            for part in ("query", "gallery")
        )
        seen = set(zip(gallery.persons, gallery.cameras.tolist(), strict=True))
        answers = {
            person
            for person, camera in zip(query.persons, query.cameras.tolist(), strict=True)
            if any(one == person and other != camera for one, other in seen)
        }
        if not answers:
            raise UsageError(f"{split}: no query's person is in its gallery from another camera")
        return cls(query, gallery, preprocess)

    def measure(self, system: "System") -> dict[str, float]:
        """mAP and rank-1 by cosine, as the Market protocol has it."""
        from reid_index import evaluate_distances

        vectors = [self._embed(side, system) for side in (self.query, self.gallery)]
        found = evaluate_distances(
            1 - vectors[0] @ vectors[1].T,
            self.query.persons,
            self.gallery.persons,
            self.query.cameras,
            self.gallery.cameras,
        )
        return {"mAP": round(found.mAP, 4), "rank-1": round(float(found.cmc[0]), 4)}

    def _embed(self, side: _Side, system: "System") -> "NDArray[np.float32]":
        import numpy as np
        import torch

        found = []
        with torch.inference_mode():
            for start in range(0, len(side.crops), _BATCH):
                some = side.crops[start : start + _BATCH]
                fed = np.stack([self.preprocess.normalise(crop) for crop in some])
                found.append(system.embed(torch.from_numpy(fed)).numpy())
        vectors = np.concatenate(found)
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-30)
        return vectors


def _side(sources: "Sequence[Source]", part: str, preprocess: "Preprocess") -> _Side:
    """All people but junk; a distractor is nobody whom a query asks for."""
    import numpy as np

    from extractors.training.crops import Labelled, decode

    people, persons, cameras = [], [], []
    for number, source in enumerate(sources):
        for picture in source.pictures():
            for person in picture.people:
                columns = person.columns
                label = columns.get("person")
                if columns.get("role") == "junk" or (label is None and part == "query"):
                    continue
                people.append((picture, person))
                persons.append("nobody" if label is None else f"{number} {label}")
                camera = columns.get("camera")
                cameras.append(-1 if camera is None else camera)
    crops = decode(Labelled(people, np.zeros(len(people), np.int64), []), preprocess)
    return _Side(crops, persons, np.array(cameras, np.int64))


@dataclass
class _Report:
    """Tells of epochs. epochs: how many there are to be. every: so many are validated."""

    epochs: int
    every: int
    validation: _Validation | None
    bar: Any = None

    def __call__(self, epoch: "Epoch", system: "System") -> dict[str, Any]:
        said: dict[str, Any] = {"epoch": epoch.number}
        said |= {name: round(value, 4) for name, value in epoch.losses.items()}
        said["crops a second"] = round(epoch.rate, 1)
        start = time.perf_counter()
        if self.validation is not None and self._is_due(epoch.number):
            said |= self.validation.measure(system)
        said["seconds"] = round(epoch.seconds + time.perf_counter() - start, 1)
        self.bar.clear()
        click.echo(", ".join(f"{name} {value}" for name, value in said.items()), err=True)
        return said

    def _is_due(self, epoch: int) -> bool:
        return epoch == self.epochs or epoch % self.every == 0

    def figures(self, told: Sequence[dict[str, Any]]) -> dict[str, float]:
        """Of the model as it is in the end."""
        return {name: told[-1][name] for name in ("mAP", "rank-1") if name in told[-1]}
