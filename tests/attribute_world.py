"""A tiny model with the outputs of person-attributes-recognition-crossroad-0230, whose words are
known beforehand."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from extractors.openvino import import_openvino
from reid_index.errors import MissingExtra

POINTS = ((0.5, 0.25), (0.5, 0.75))
NAMES = ("453", "456", "459")


def openvino_or_skip() -> Any:
    """The module, imported the way that sends nothing."""
    try:
        return import_openvino()
    except MissingExtra:
        pytest.skip("OpenVINO is not installed (the extra openvino)")


def write_model(
    path: Path,
    *,
    points: tuple[tuple[float, float], ...] = POINTS,
    names: tuple[str, ...] = NAMES,
    attributes: int = 8,
    shape: tuple[int, ...] = (1, 3, 160, 80),
    shift: float = 0.0,
    outputs: int = 3,
) -> Path:
    """Write a model whose probabilities are the crop's mean blue, green, red, blue, green, red,
    blue, green, each divided by 255, plus shift, and whose points are always the same."""
    openvino = openvino_or_skip()
    ops = openvino.opset13
    x = ops.parameter(shape, np.float32, name="x")
    mean = ops.reduce_mean(x, np.array([2, 3]), keep_dims=True)
    shares = ops.add(ops.divide(mean, np.float32(255)), np.float32(shift))
    # Channel c of the output is channel c mod 3 of the means.
    pick = np.eye(3, dtype=np.float32)[np.arange(attributes) % 3].reshape(attributes, 3, 1, 1)
    ends = [_convolved(ops, shares, pick)]
    none = np.zeros((2, 3, 1, 1), np.float32)
    for point in points:
        there = np.array(point, np.float32).reshape(1, 2, 1, 1)
        ends.append(ops.add(_convolved(ops, shares, none), there))
    ends = ends[:outputs]
    for end, name in zip(ends, names, strict=False):
        end.output(0).get_tensor().set_names({name})
    model = openvino.Model(ends, [x], "tiny")
    openvino.serialize(model, path, path.with_suffix(".bin"))
    return path


def _convolved(ops: Any, x: Any, kernel: np.ndarray) -> Any:
    return ops.convolution(x, kernel, [1, 1], [0, 0], [0, 0], [1, 1])


Write = Callable[..., Path]
