"""What a training needs to go on where it stopped, in one file."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from reid_index import files
from reid_index.errors import BadWeights, UsageError

FORMAT = 1


def save_state(path: Path, *, job: Mapping[str, Any], epoch: int, parts: Mapping[str, Any]) -> None:
    """Write the state after so many epochs, in one step: a failure leaves the former one.

    job: what is being trained, JSON. parts: state dicts by name. Raises OSError.
    """
    content = io.BytesIO()
    state = {"format": FORMAT, "job": dict(job), "epoch": epoch, **parts}
    torch.save(state, content)
    temporary = path.with_name(f".{path.name}.tmp")
    files.remove(temporary)
    files.write_file(temporary, content.getvalue())
    files.rename(temporary, path)


def load_state(path: Path, *, job: Mapping[str, Any], epochs: int) -> dict[str, Any]:
    """Read a state, on the CPU, without running anything that it holds.

    Raises UsageError where it is one of another job (what differs), BadWeights where it is none.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        version, epoch, before = state["format"], state["epoch"], dict(state["job"])
        if version == FORMAT and not (type(epoch) is int and 0 < epoch <= epochs):
            raise ValueError("it is of an epoch that there is not")
    except Exception as error:  # a damaged file can fail anywhere in the reader, with any error
        raise BadWeights(
            f"{path} cannot be read as the state of a training ({type(error).__name__}): it is "
            "damaged, or holds more than tensors and numbers; delete it to begin anew"
        ) from None
    if version != FORMAT:
        raise BadWeights(f"{path} was written by another version of reid-index: finish it by that")
    changed = sorted(name for name in {*before, *job} if before.get(name) != job.get(name))
    if changed:
        raise UsageError(
            f"{path} is of a training with another {', '.join(changed)}: say the same as then, or "
            "delete it to begin anew"
        )
    return dict(state)
