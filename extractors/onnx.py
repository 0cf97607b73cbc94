"""Any ONNX embedding model, through onnxruntime."""

import hashlib
import re
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from reid_index.errors import BadWeights
from reid_index.reading import read_bytes

from .model import ModelExtractor, one_row_each
from .preprocess import Preprocess, read_card

_LARGEST = 2**31 - 1
"""Bytes of a model file, as protobuf has it."""

_LARGEST_BATCH = 1024
"""Crops that a model may be exported for: a batch is filled up to as many."""

_EXTERNAL = re.compile(rb"j[\x0a-\xff][\x01-\x7f]?\n\x08location\x12")
"""How a tensor whose values are in another file begins to say in which: TensorProto.external_data,
field 13, then its length, then a StringStringEntryProto with the key "location" (onnx.proto)."""


class OnnxExtractor(ModelExtractor):
    """A model with one float input (B, 3, height, width) and one output (B, D).

    weights: the `.onnx` file. preprocess: how crops become its input; by default read from the
    card beside it, `NAME.json`. Raises BadWeights when the model or its card does not fit, and for
    a model that keeps tensors in other files: its sha256 would not cover them.
    """

    def __init__(self, weights: Path, *, preprocess: Preprocess | None = None) -> None:
        model = _read(weights)
        preprocess = preprocess or read_card(weights.with_suffix(".json"))
        options = onnxruntime.SessionOptions()
        # Threads that spin while they wait would take the cores from the decoding threads.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # Its errors are raised; printed on standard error too, they would be told twice.
        options.log_severity_level = 4
        try:
            self._session = onnxruntime.InferenceSession(
                model, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's errors share no base class of their own
            raise BadWeights(
                f"{weights}: not a model that onnxruntime can run: {_line(error)}"
            ) from None
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(inputs) != 1 or len(outputs) != 1 or inputs[0].type != "tensor(float)":
            raise BadWeights(
                f"{weights}: an embedding model has one float input and one output, this one "
                f"{len(inputs)} ({', '.join(one.type for one in inputs)}) and {len(outputs)}"
            )
        shape = inputs[0].shape
        wanted = [3, preprocess.height, preprocess.width]
        if len(shape) != 4 or any(
            isinstance(size, int) and size != want
            for size, want in zip(shape[1:], wanted, strict=True)
        ):
            raise BadWeights(f"{weights}: its input is {shape}, its card says {['B', *wanted]}")
        self._batch = shape[0] if isinstance(shape[0], int) else None
        if self._batch is not None and not 1 <= self._batch <= _LARGEST_BATCH:
            raise BadWeights(
                f"{weights}: it wants {self._batch} crops at once, and can have 1 to "
                f"{_LARGEST_BATCH}; export it for a free batch"
            )
        self._input = inputs[0].name
        fingerprint = preprocess.fingerprint(
            name="onnx", version="1", weights_sha256=hashlib.sha256(model).hexdigest()
        )
        try:
            super().__init__(preprocess=preprocess, fingerprint=fingerprint)
        except Exception as error:
            raise BadWeights(
                f"{weights}: it cannot run on inputs of {wanted}: {_line(error)}"
            ) from None

    def run(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        if self._batch is None:
            pieces = [batch]
        else:
            # A model exported for a fixed batch gets it, filled up with zeros at the end.
            padded = np.zeros((-len(batch) % self._batch, *batch.shape[1:]), np.float32)
            filled = np.concatenate([batch, padded])
            pieces = np.split(filled, len(filled) // self._batch)
        outputs = [
            one_row_each(self._session.run(None, {self._input: piece})[0], len(piece))
            for piece in pieces
        ]
        return np.concatenate(outputs)[: len(batch)]


def _line(error: Exception) -> str:
    """What onnxruntime says, in one line."""
    return " ".join(str(error).split())[:500]


def _read(weights: Path) -> bytes:
    """The whole model: what is hashed is what runs, even if the file changes in between."""
    if not weights.is_file():
        raise BadWeights(f"{weights}: there is no such model file")
    try:
        model = read_bytes(weights, most=_LARGEST)
    except OSError as error:
        raise BadWeights(f"{weights}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise BadWeights(f"{weights}: cannot be read: {error}") from None
    # Given bytes, onnxruntime would look for the other files in the working folder.
    if _EXTERNAL.search(model):
        raise BadWeights(
            f"{weights}: it keeps weights in another file, which its sha256 does not cover; save "
            "it as one file: onnx.save(onnx.load(FILE), NEW)"
        )
    return model
