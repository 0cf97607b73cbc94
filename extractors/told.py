"""What a network that tells attributes says of crops, as item columns."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reid_index.attributes import CONFIDENCE, MODEL, ORIGIN, PREFIX
from reid_index.fingerprint import Fingerprint

from .attribute_vocabulary import VOCABULARY


def told_columns(
    shares: NDArray[np.float32],
    words: Sequence[tuple[str, Sequence[str]]],
    *,
    origin: str,
) -> Mapping[str, Sequence[Any]]:
    """The columns of B crops: of each attribute the likeliest word, of equally likely ones the
    first, and its probability as the confidence. Of sets it is the only member.

    shares: probabilities float32 (B, words of all attributes), those of an attribute together 1.
    words: attribute → its words, in that order.
    """
    columns: dict[str, list[Any]] = {}
    first = 0
    for name, some in words:
        here = shares[:, first : first + len(some)]
        first += len(some)
        best = here.argmax(axis=1)
        is_set = name in VOCABULARY and VOCABULARY[name].is_set
        said = [some[place] for place in best.tolist()]
        columns[PREFIX + name] = [[word] for word in said] if is_set else said
        sure = np.clip(here[np.arange(len(here)), best], 0, 1)
        columns[PREFIX + name + CONFIDENCE] = sure.tolist()
        columns[PREFIX + name + ORIGIN] = [origin] * len(here)
    return columns


def model_origin(fingerprint: Fingerprint) -> str:
    """The origin of what such a model says."""
    weights = (fingerprint.weights_sha256 or "")[:12]
    return f"{MODEL} {fingerprint.name} {fingerprint.version} {weights}".strip()
