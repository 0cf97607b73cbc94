"""From pictures to vectors. Each extractor is one file; none is imported before it is asked for."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reid_index.errors import UsageError

if TYPE_CHECKING:
    from .extractor import Extractor
    from .preprocess import Preprocess, Size
    from .weighting import Weighting

DESCRIPTIONS = {
    "trained": "a model of reid train (--weights FILE.safetensors), or the one that comes along",
    "checkpoint": "ResNets of torchreid, fast-reid, strong baseline (--weights FILE.pth)",
    "stripes": "colour and gradient histograms over horizontal stripes; needs no weights",
    "osnet": "OSNet x0.25 to x1.0, IBN and AIN, from a PyTorch checkpoint (--weights FILE.pth)",
    "onnx": "any ONNX embedding model (--weights FILE.onnx, FILE.json beside it)",
    "openvino": "any OpenVINO IR embedding model (--weights FILE.xml); extra: openvino",
}
"""Name → one line on what it is. Vectors made elsewhere have extractors named external:NAME."""

DEFAULT = "trained"
"""What makes vectors where nothing is named."""

_ON_GPUS = ("trained", "checkpoint", "osnet")


def open_extractor(
    name: str,
    *,
    weights: Path | str | None = None,
    preprocess: "Preprocess | Size | None" = None,
    device: str = "cpu",
    weighting: "Weighting | None" = None,
) -> "Extractor":
    """Make the extractor of that name.

    weights: its model file; all but trained and stripes need one. preprocess: how crops are fed to
    an onnx or openvino model, instead of the JSON card beside it; of a checkpoint its input size,
    where its tensors leave that open. device: "cpu" or, for those that run in PyTorch, "cuda".
    weighting: of the parts of an HAA model's vectors.

    Raises UsageError (unknown name, missing or needless weights), BadWeights, MissingExtra.
    """
    if name not in DESCRIPTIONS:
        known = ", ".join(DESCRIPTIONS)
        raise UsageError(f"there is no extractor {name!r}; there are {known}")
    size = preprocess if isinstance(preprocess, tuple) else None
    if size is not None and name != "checkpoint":
        raise UsageError(f"the extractor {name} does not take an input size alone")
    if preprocess is not None and size is None and name not in ("onnx", "openvino"):
        raise UsageError(f"the extractor {name} knows its own preprocessing; give it none")
    fed = None if isinstance(preprocess, tuple) else preprocess
    if device != "cpu" and name not in _ON_GPUS:
        raise UsageError(f"the extractor {name} runs on the CPU only, not on {device!r}")
    if weighting is not None and name != "trained":
        raise UsageError(f"the extractor {name} has no parts to weigh: leave --weighting out")
    if name == "stripes":
        if weights is not None:
            raise UsageError("the extractor stripes takes no weights")
        from .stripes import StripesExtractor

        return StripesExtractor()
    if name == "trained":
        from .trained import TrainedExtractor

        path = None if weights is None else Path(weights)
        return TrainedExtractor(path, device=device, weighting=weighting)
    if weights is None:
        raise UsageError(f"the extractor {name} needs its model file: --weights FILE")
    if name == "checkpoint":
        from .public import CheckpointExtractor

        return CheckpointExtractor(Path(weights), size=size, device=device)
    if name == "osnet":
        from .osnet import OSNetExtractor

        return OSNetExtractor(Path(weights), device=device)
    if name == "onnx":
        from .onnx import OnnxExtractor

        return OnnxExtractor(Path(weights), preprocess=fed)
    from .openvino import OpenvinoExtractor

    return OpenvinoExtractor(Path(weights), preprocess=fed)


def recipe(
    name: str,
    *,
    weights: Path | None,
    preprocess: "Preprocess | Size | None",
    weighting: "Weighting | None" = None,
    attributes: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """What `open_recipe` needs to make the same extractor again: a JSON object. attributes: what
    `predictors.recipe_of` says of a predictor beside it."""
    from .preprocess import preprocess_to_json

    fed: dict[str, Any] | None = None
    if isinstance(preprocess, tuple):
        fed = preprocess._asdict()
    elif preprocess is not None:
        fed = preprocess_to_json(preprocess)
    said: dict[str, Any] = {
        "extractor": name,
        "weights": None if weights is None else str(weights.absolute()),
        "preprocess": fed,
    }
    if weighting is not None:
        said["weighting"] = weighting.to_json()
    if attributes is not None:
        said["attributes"] = attributes
    return said


def open_recipe(
    recipe: Mapping[str, Any],
    *,
    weights: Path | None = None,
    device: str = "cpu",
    attributes: Path | None = None,
    predict: bool = True,
) -> "Extractor":
    """The extractor that a gallery was built with, and the predictor of attributes beside it.

    weights: where its model file is now; attributes: where the predictor's is. predict: leave the
    predictor out where False.

    Raises UsageError for vectors that were made elsewhere, and for attributes where the gallery has
    no predictor, BadSource for a weighting that is none,
    ExtractorMismatch for another predictor, and what `open_extractor` raises.
    """
    name = recipe.get("extractor")
    if not isinstance(name, str) or name not in DESCRIPTIONS:
        raise UsageError(
            "this gallery's vectors were made elsewhere: query it with a vector (.npy) of the same "
            "extractor, or with --item N"
        )
    if attributes is not None and recipe.get("attributes") is None:
        raise UsageError(
            "this gallery was built without a model that predicts attributes: leave --attributes "
            "out"
        )
    preprocess: Preprocess | Size | None = None
    fed = recipe.get("preprocess")
    if fed is not None:
        from . import preprocess as feeding

        is_size = isinstance(fed, dict) and fed.keys() == {"height", "width"}
        where = "the gallery's recipe"
        preprocess = feeding.Size(**fed) if is_size else feeding.preprocess_from(fed, where=where)
    weighting: Weighting | None = None
    if recipe.get("weighting") is not None:
        from .weighting import weighting_from

        weighting = weighting_from(recipe["weighting"])
    opened = open_extractor(
        name,
        weights=weights or recipe.get("weights"),
        preprocess=preprocess,
        device=device,
        weighting=weighting,
    )
    if not predict or recipe.get("attributes") is None:
        return opened
    from .attributes import WithAttributes
    from .predictors import open_predictor

    predictor = open_predictor(recipe["attributes"], weights=attributes, device=device)
    return WithAttributes(opened, predictor)
