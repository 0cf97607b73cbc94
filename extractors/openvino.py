"""Any OpenVINO IR embedding model (`.xml` with its `.bin`), through OpenVINO."""

import hashlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reid_index.errors import BadWeights, MissingExtra

from .model import ModelExtractor
from .preprocess import Preprocess, read_card


class OpenvinoExtractor(ModelExtractor):
    """A model with one input (B, 3, height, width) and one output with D numbers for each crop.

    weights: the `.xml` file, its `.bin` beside it. preprocess: how crops become its input; by
    default read from the card beside it, `NAME.json`. Raises BadWeights when model, weights or
    card do not fit, MissingExtra without OpenVINO.
    """

    def __init__(self, weights: Path, *, preprocess: Preprocess | None = None) -> None:
        openvino = import_openvino()
        binary = weights.with_suffix(".bin")
        for path in (weights, binary):
            if not path.is_file():
                raise BadWeights(f"{path}: there is no such file; an IR model is .xml and .bin")
        preprocess = preprocess or read_card(weights.with_suffix(".json"))
        shape = [3, preprocess.height, preprocess.width]
        try:
            core = openvino.Core()
            model = core.read_model(weights)
            if len(model.inputs) != 1 or len(model.outputs) != 1:
                raise BadWeights(
                    f"{weights}: an embedding model has one input and one output, this one "
                    f"{len(model.inputs)} and {len(model.outputs)}"
                )
            wanted = openvino.PartialShape([-1, *shape])
            given = model.inputs[0].partial_shape
            # Without this OpenVINO would reshape the model to whatever the card says.
            if not wanted.compatible(given):
                raise BadWeights(f"{weights}: its input is {given}, its card says {wanted}")
            model.reshape({model.inputs[0]: wanted})
            # By default newer CPUs would compute in bfloat16, and vectors would depend on the CPU
            # and on the batch (cosine 0.999 to their own on another machine).
            hints = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_PRECISION_HINT": "f32"}
            self._model = core.compile_model(model, "CPU", hints)
            digest = hashlib.sha256(weights.read_bytes() + binary.read_bytes()).hexdigest()
            fingerprint = preprocess.fingerprint(
                name="openvino", version="1", weights_sha256=digest
            )
            super().__init__(preprocess=preprocess, fingerprint=fingerprint)
        except (RuntimeError, ValueError) as error:
            if isinstance(error, BadWeights):
                raise
            raise BadWeights(
                f"{weights}: OpenVINO cannot run it on inputs of {shape}: "
                f"{str(error).strip().splitlines()[-1]}"
            ) from None

    def run(self, batch: NDArray[np.float32]) -> Any:
        return self._model(batch)[0]


def import_openvino() -> Any:
    """The openvino module, imported so that nothing is ever sent anywhere.

    Importing it reports the import over the network, if its package openvino_telemetry can be
    imported; without it, OpenVINO falls back to a stub of its own that does nothing.
    """
    hidden = "openvino" not in sys.modules and "openvino_telemetry" not in sys.modules
    if hidden:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    try:
        import openvino
    except ImportError:
        raise MissingExtra(
            "OpenVINO is not installed: pip install 'reid-index[openvino]'"
        ) from None
    finally:
        if hidden:
            del sys.modules["openvino_telemetry"]
    return openvino
