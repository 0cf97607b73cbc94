"""PyTorch weight files: read without running anything that they hold, loaded whole or not at all.

Knows nothing of any network in particular.
"""

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from reid_index.errors import BadWeights
from reid_index.reading import room_for

LISTED = 3
"""How many tensors of each kind of mistake a message names."""


def load_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint, on the CPU, by name.

    The file holds the dict of a module's `state_dict()`, or a dict with such a one under
    "state_dict" or "model" (epoch, optimiser and the like beside it are left out). Where every
    name starts with "module.", as `DataParallel` writes them, that is taken off.

    Raises BadWeights where the file is missing, damaged, holds anything that could run code
    (whole models, NumPy numbers), or is no dict of tensors.
    """
    if not path.is_file():
        raise BadWeights(f"{path}: there is no such file; give a checkpoint of PyTorch")
    content = _read(path)
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    if not isinstance(content, dict) or not content:
        raise BadWeights(f"{path} holds no dict of tensors: save the model's state_dict() instead")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise BadWeights(
                f"{path}: {name!r} is of type {type(value).__name__}, only tensors by name can be "
                "loaded: save the model's state_dict() instead"
            )
    if all(name.startswith("module.") for name in content):
        return {name.removeprefix("module."): value for name, value in content.items()}
    return dict(content)


def _read(path: Path) -> Any:
    try:
        # PyTorch writes zip archives uncompressed; what it would unpack has to fit into memory.
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                unpacked = sum(entry.file_size for entry in archive.infolist())
            if unpacked > room_for(path.stat().st_size):
                raise ValueError("it claims more bytes than its size can mean")
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise BadWeights(
            f"{path} is no checkpoint or holds more than tensors, which could run code: load it "
            "where you trust it, save model.state_dict() with torch.save and give that file"
        ) from None
    except Exception as error:  # a damaged file can fail anywhere in the reader, with any error
        raise BadWeights(
            f"{path} cannot be read as a checkpoint of PyTorch ({type(error).__name__}): it is "
            "damaged or of another kind; fetch it again or save model.state_dict() with torch.save"
        ) from None


def load_strictly(
    module: torch.nn.Module,
    state: Mapping[str, torch.Tensor],
    *,
    classifier_prefixes: tuple[str, ...],
    path: Path,
) -> None:
    """Copy a checkpoint into a module that has the same tensors in the same shapes.

    state: from `load_state_dict`; path: its file, for messages. Tensors whose names start with
    one of classifier_prefixes belong to training and are ignored. `num_batches_tracked` may be
    missing: BatchNorm has had it only since PyTorch 0.4.1, and it decides nothing at inference.

    Raises BadWeights, with the module unchanged, where any other tensor is missing, unexpected
    or of another shape.
    """
    wanted = module.state_dict()
    given = {
        name: tensor for name, tensor in state.items() if not name.startswith(classifier_prefixes)
    }
    missing = [
        name for name in wanted if name not in given and not name.endswith(".num_batches_tracked")
    ]
    unexpected = [name for name in given if name not in wanted]
    shapes = [
        f"{name} is {tuple(given[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in given and given[name].shape != tensor.shape
    ]
    found = {"missing": missing, "unexpected": unexpected, "wrong shape": shapes}
    mistakes = [f"{kind}: {_shorten(names)}" for kind, names in found.items() if names]
    if mistakes:
        raise BadWeights(
            f"{path} does not fit {type(module).__name__}: {'; '.join(mistakes)}; "
            "give the weights of exactly this network"
        )
    module.load_state_dict({**wanted, **given})


def _shorten(names: list[str]) -> str:
    listed = ", ".join(names[:LISTED])
    return listed if len(names) <= LISTED else f"{listed} and {len(names) - LISTED} more"
