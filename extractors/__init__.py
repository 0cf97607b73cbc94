"""From pictures to vectors. Each extractor is one file; none is imported before it is asked for."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reid_index.errors import UsageError

if TYPE_CHECKING:
    from .extractor import Extractor
    from .preprocess import Preprocess

DESCRIPTIONS = {
    "stripes": "colour and gradient histograms over horizontal stripes; needs no weights",
    "osnet": "OSNet x0.25 to x1.0, IBN and AIN, from a PyTorch checkpoint (--weights FILE.pth)",
    "onnx": "any ONNX embedding model (--weights FILE.onnx, FILE.json beside it)",
    "openvino": "any OpenVINO IR embedding model (--weights FILE.xml); extra: openvino",
}
"""Name → one line on what it is. Vectors made elsewhere have extractors named external:NAME."""


def open_extractor(
    name: str,
    *,
    weights: Path | str | None = None,
    preprocess: "Preprocess | None" = None,
    device: str = "cpu",
) -> "Extractor":
    """Make the extractor of that name.

    weights: its model file; all but stripes need one. preprocess: how crops are fed to an onnx or
    openvino model, instead of the JSON card beside it. device: "cpu" or, for osnet, "cuda".

    Raises UsageError (unknown name, missing or needless weights), BadWeights, MissingExtra.
    """
    if name not in DESCRIPTIONS:
        known = ", ".join(DESCRIPTIONS)
        raise UsageError(f"there is no extractor {name!r}; there are {known}")
    if preprocess is not None and name not in ("onnx", "openvino"):
        raise UsageError(f"the extractor {name} knows its own preprocessing; give it none")
    if device != "cpu" and name != "osnet":
        raise UsageError(f"the extractor {name} runs on the CPU only, not on {device!r}")
    if name == "stripes":
        if weights is not None:
            raise UsageError("the extractor stripes takes no weights")
        from .stripes import StripesExtractor

        return StripesExtractor()
    if weights is None:
        raise UsageError(f"the extractor {name} needs its model file: --weights FILE")
    if name == "osnet":
        from .osnet import OSNetExtractor

        return OSNetExtractor(Path(weights), device=device)
    if name == "onnx":
        from .onnx import OnnxExtractor

        return OnnxExtractor(Path(weights), preprocess=preprocess)
    from .openvino import OpenvinoExtractor

    return OpenvinoExtractor(Path(weights), preprocess=preprocess)


def recipe(name: str, *, weights: Path | None, preprocess: "Preprocess | None") -> dict[str, Any]:
    """What `open_recipe` needs to make the same extractor again: a JSON object."""
    from .preprocess import preprocess_to_json

    return {
        "extractor": name,
        "weights": None if weights is None else str(weights.absolute()),
        "preprocess": None if preprocess is None else preprocess_to_json(preprocess),
    }


def open_recipe(
    recipe: Mapping[str, Any], *, weights: Path | None = None, device: str = "cpu"
) -> "Extractor":
    """The extractor that a gallery was built with. weights: where its model file is now.

    Raises UsageError for vectors that were made elsewhere, and what `open_extractor` raises.
    """
    name = recipe.get("extractor")
    if not isinstance(name, str) or name not in DESCRIPTIONS:
        raise UsageError(
            "this gallery's vectors were made elsewhere: query it with a vector (.npy) of the same "
            "extractor, or with --item N"
        )
    preprocess = None
    if recipe.get("preprocess") is not None:
        from .preprocess import preprocess_from

        preprocess = preprocess_from(recipe["preprocess"], where="the gallery's recipe")
    return open_extractor(
        name,
        weights=weights or recipe.get("weights"),
        preprocess=preprocess,
        device=device,
    )
