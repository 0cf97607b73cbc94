"""A system as an ONNX model with the card that `onnx` extractors need, compared with itself."""

import json
import logging
import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from reid_index import files
from reid_index.errors import BadWeights, MissingExtra

from .preprocess import Preprocess, preprocess_to_json
from .systems.system import System

LEAST_COSINE = 0.9999
_CROPS = 8
_OPSET = 18


class _Searching(nn.Module):
    """The side of a system that galleries are made with."""

    def __init__(self, system: System) -> None:
        super().__init__()
        self.system = system

    def forward(self, crops: Tensor) -> Tensor:
        return self.system.embed(crops)


def need_exporter() -> None:
    """Raise MissingExtra where what writes ONNX is not installed."""
    if not all(map(find_spec, ("onnx", "onnxscript"))):
        raise MissingExtra("onnxscript writes ONNX: pip install 'reid-index[train]'")


def export_onnx(path: Path, system: System, preprocess: Preprocess) -> float:
    """Write NAME.onnx, for batches of any size, and NAME.json; the smallest cosine between its
    vectors and the system's, over some random crops.

    Raises BadWeights where that is below LEAST_COSINE: nothing is written then. MissingExtra.
    """
    need_exporter()
    system = system.cpu().eval()
    shape = (_CROPS, 3, preprocess.height, preprocess.width)
    crops = torch.from_numpy(np.random.default_rng(0).standard_normal(shape).astype(np.float32))
    content = _exported(_Searching(system), crops)
    with torch.inference_mode():
        own = system.embed(crops).numpy()
    cosine = float(_cosines(own, _run(content, crops.numpy())).min())
    if not cosine >= LEAST_COSINE:
        raise BadWeights(
            f"{path}: not written, as ONNX gives other vectors than the model (cosine {cosine:.6f})"
        )
    card = {**preprocess_to_json(preprocess), "dim": int(own.shape[1]), "l2_normalized": False}
    files.replace_file(path.with_suffix(".json"), (json.dumps(card, indent=1) + "\n").encode())
    files.replace_file(path, content)
    return cosine


def _exported(module: nn.Module, crops: Tensor) -> bytes:
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module.eval(),
                (crops,),
                input_names=["crops"],
                output_names=["vectors"],
                dynamic_shapes={"crops": {0: torch.export.Dim("batch", min=1)}},
                opset_version=_OPSET,
                dynamo=True,
                verbose=False,
            )
    finally:
        logger.setLevel(before)
    assert program is not None
    content: bytes = program.model_proto.SerializeToString()
    return content


def _run(content: bytes, crops: NDArray[np.float32]) -> NDArray[np.float32]:
    """All crops at once, and again one by one, since the batch is free."""
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    single = [session.run(None, {"crops": crop[None]})[0] for crop in crops]
    together: NDArray[np.float32] = session.run(None, {"crops": crops})[0]
    worst = _cosines(together, np.concatenate(single)).min()
    return together if worst >= LEAST_COSINE else np.concatenate(single)


def _cosines(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    one, two = a.astype(np.float64), b.astype(np.float64)
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(two, axis=1)
    cosines: NDArray[np.float64] = (one * two).sum(axis=1) / np.maximum(lengths, 1e-30)
    return cosines
