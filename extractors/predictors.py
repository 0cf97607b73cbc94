"""Which predictor of attributes a model file is, and what a gallery remembers of it."""

from pathlib import Path
from typing import Any

from reid_index.errors import BadShard, BadSource, BadWeights, ExtractorMismatch
from reid_index.fingerprint import Fingerprint

from .attributes import AttributePredictor


def predictor_of(path: Path, *, device: str = "cpu") -> AttributePredictor:
    """The predictor that a model file is: `.xml` (OpenVINO) is
    person-attributes-recognition-crossroad-0230, `.safetensors` a model of `reid train` that tells
    attributes. device: of the latter, as PyTorch names it. Raises BadWeights, MissingExtra, and
    UsageError for a device that is not to be had."""
    suffix = path.suffix.lower()
    if suffix == ".xml":
        from .attributes_0230 import Predictor0230

        return Predictor0230(path)
    if suffix == ".safetensors":
        from .trained_attributes import TrainedPredictor

        return TrainedPredictor(path, device=device)
    raise BadWeights(
        f"{path}: a model that predicts attributes is an .xml file (OpenVINO, "
        "person-attributes-recognition-crossroad-0230), or a .safetensors file of `reid train "
        "--attributes`"
    )


def recipe_of(path: Path, predictor: AttributePredictor) -> dict[str, Any]:
    """What `open_predictor` needs to make the predictor of a file again: a JSON object."""
    return {"weights": str(path.absolute()), "fingerprint": predictor.fingerprint.to_json()}


def open_predictor(
    said: Any, *, weights: Path | None = None, device: str = "cpu"
) -> AttributePredictor:
    """The predictor that a gallery was built with. said: what `recipe_of` told. weights: where its
    model file is now. device: as `predictor_of` has it.

    Raises BadSource for a recipe that does not say it, BadWeights where the file is gone or no such
    model, ExtractorMismatch for another one, MissingExtra.
    """
    try:
        path = Path(weights or said["weights"])
        fingerprint = Fingerprint.from_json(said["fingerprint"])
    except (TypeError, KeyError, BadShard):
        raise BadSource(
            "the gallery's recipe does not say properly what predicts its attributes"
        ) from None
    if weights is None and not path.is_file():
        raise BadWeights(
            f"{path}: the model that predicted the gallery's attributes is not there; "
            "--attributes FILE says where it is now"
        )
    predictor = predictor_of(path, device=device)
    apart = fingerprint.differences(predictor.fingerprint)
    if apart:
        raise ExtractorMismatch(
            f"{path}: the gallery's attributes are of another model ({'; '.join(apart)})"
        )
    return predictor
