"""What a network that tells attributes says of crops, as item columns."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .attribute_vocabulary import VOCABULARY
from .attributes import columns_of


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
        sure = np.clip(here[np.arange(len(here)), best], 0, 1)
        values = [[word] for word in said] if is_set else said
        columns |= columns_of(name, values, sure.tolist(), origin)
    return columns
