"""Finding people in frames: a detector of the SSD family, as OpenVINO IR or ONNX."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from reid_index.errors import BadWeights

from ..extractor import Crop

_PERSON = 1
"""The label of people: the only one of Open Model Zoo's person detectors, and COCO's first."""

_COLUMNS = 7


class Detector(ABC):
    """A network that takes one frame and gives rows of boxes.

    Its input is float32 (1, 3, height, width), BGR, 0 to 255. Its output is (…, 7): image, label,
    confidence, x0, y0, x1, y1 with coordinates from 0 to 1; image -1 ends the rows. That is what
    SSD's DetectionOutput gives, person-detection-retail-0013 (544 × 320), for one. A subclass sets
    `path`, `height` and `width`, and implements `run`.
    """

    path: Path
    height: int
    width: int

    @abstractmethod
    def run(self, batch: NDArray[np.float32]) -> Any:
        """The network's output for (1, 3, height, width)."""

    def detect(self, image: Crop, *, least: float) -> tuple[NDArray[np.float64], NDArray[Any]]:
        """The people in a frame, (height, width, 3) RGB, at least so sure, 0 to 1.

        Returns boxes (n, 4), x1, y1, x2, y2 in pixels, within the frame, and confidences (n), in
        the network's order. The frame is scaled to the network's input, bilinearly, whatever its
        shape. Raises BadWeights where the output is not (…, 7).
        """
        rows, columns = image.shape[:2]
        scaled = Image.fromarray(image).resize((self.width, self.height), Image.Resampling.BILINEAR)
        batch = np.asarray(scaled)[None, :, :, ::-1].transpose(0, 3, 1, 2)
        found = np.asarray(self.run(np.ascontiguousarray(batch, np.float32)), np.float64)
        if found.shape[-1:] != (_COLUMNS,):
            raise BadWeights(
                f"{self.path}: its output is {found.shape}; a detector whose rows are image, "
                "label, confidence, x0, y0, x1, y1 is needed"
            )
        found = found.reshape(-1, _COLUMNS)
        ends = np.flatnonzero(found[:, 0] < 0)
        found = found[: ends[0]] if len(ends) else found
        found = found[(found[:, 1] == _PERSON) & (found[:, 2] >= least)]
        boxes = np.clip(found[:, 3:], 0, 1) * [columns, rows, columns, rows]
        solid = ((boxes[:, 2:] - boxes[:, :2]) >= 1).all(axis=1)
        return boxes[solid], found[solid, 2]


def open_detector(path: Path) -> Detector:
    """The detector in an `.xml` file (OpenVINO IR, its `.bin` beside it) or an `.onnx` file.

    Raises BadWeights for another file, or one that does not fit; MissingExtra without OpenVINO.
    """
    if path.suffix.lower() == ".xml":
        return _Openvino(path)
    if path.suffix.lower() == ".onnx":
        return _Onnx(path)
    raise BadWeights(f"{path}: a detector is an .xml file of OpenVINO, or an .onnx file")


class _Openvino(Detector):
    def __init__(self, path: Path) -> None:
        from ..openvino import import_openvino

        openvino = import_openvino()
        for file in (path, path.with_suffix(".bin")):
            if not file.is_file():
                raise BadWeights(f"{file}: there is no such file; an IR model is .xml and .bin")
        try:
            core = openvino.Core()
            model = core.read_model(path)
            shapes = [one.partial_shape for one in model.inputs]
            sizes = [one.get_length() if one.is_static else None for one in shapes[0]]
            self.path = path
            self.height, self.width = _input_size(path, len(shapes), sizes)
            model.reshape({model.inputs[0]: [1, 3, self.height, self.width]})
            # As in extractors/openvino.py: or else what is found would depend on the CPU.
            hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
            self._model = core.compile_model(model, "CPU", hints)
        except (RuntimeError, ValueError) as error:
            if isinstance(error, BadWeights):
                raise
            reason = str(error).strip().splitlines()[-1]
            raise BadWeights(f"{path}: OpenVINO cannot run it: {reason}") from None

    def run(self, batch: NDArray[np.float32]) -> Any:
        return self._model(batch)[0]


class _Onnx(Detector):
    def __init__(self, path: Path) -> None:
        import onnxruntime

        if not path.is_file():
            raise BadWeights(f"{path}: there is no such file")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # its errors are raised
        try:
            self._session = onnxruntime.InferenceSession(
                path.read_bytes(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's errors share no base class of their own
            reason = str(error).strip().splitlines()[0]
            raise BadWeights(f"{path}: not a model that onnxruntime can run: {reason}") from None
        inputs = self._session.get_inputs()
        sizes = [size if isinstance(size, int) else None for size in inputs[0].shape]
        self.path = path
        self.height, self.width = _input_size(path, len(inputs), sizes)
        self._input = inputs[0].name

    def run(self, batch: NDArray[np.float32]) -> Any:
        try:
            return self._session.run(None, {self._input: batch})[0]
        except Exception as error:
            reason = str(error).strip().splitlines()[0]
            raise BadWeights(f"{self.path}: onnxruntime cannot run it: {reason}") from None


def _input_size(path: Path, inputs: int, sizes: list[int | None]) -> tuple[int, int]:
    """Height and width of the frames that a network takes; sizes: of its input, None where free."""
    fits = inputs == 1 and len(sizes) == 4 and sizes[0] in (1, None) and sizes[1] in (3, None)
    if not fits or sizes[2] is None or sizes[3] is None:
        raise BadWeights(
            f"{path}: a detector has one input (1, 3, height, width) of fixed height and width, "
            f"this one {inputs}, the first {sizes}"
        )
    return sizes[2], sizes[3]
