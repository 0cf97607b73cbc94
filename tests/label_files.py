"""Files of labels as Market-1501 and DukeMTMC-reID have them, of people who do not exist."""

import numpy as np
from scipy.io import savemat

MARKET = (
    *("gender", "hair", "up", "down", "clothes", "hat", "backpack", "bag", "handbag", "age"),
    *(
        f"up{color}"
        for color in ("black", "white", "red", "purple", "yellow", "gray", "blue", "green")
    ),
    *(
        f"down{color}"
        for color in (
            *("black", "white", "pink", "purple", "yellow", "gray", "blue", "green", "brown"),
        )
    ),
)
DUKE = (
    *("gender", "top", "boots", "hat", "backpack", "bag", "handbag", "shoes"),
    *(
        f"up{color}"
        for color in ("black", "white", "red", "purple", "gray", "blue", "green", "brown")
    ),
    *(f"down{color}" for color in ("black", "white", "red", "gray", "blue", "green", "brown")),
)


def part(fields, persons, *, backwards=False, **codes):
    """The fields of one part: 1 for everybody, but for the codes of some fields."""
    table = {
        name: np.array([codes.get(name, [1] * len(persons))], np.uint8).reshape(1, -1)
        for name in (reversed(fields) if backwards else fields)
    }
    cell = np.empty((1, len(persons)), object)
    cell[0] = persons
    return {**table, "image_index": cell}


def write_labels(path, variable, parts):
    savemat(path, {variable: parts})
    return path


def market_labels(path, **codes):
    """Train has 0002 and 0007, backwards; test has 0003, with a bag and two colours."""
    parts = {
        "test": part(MARKET, ["0003"], bag=[2], upred=[2], upblue=[2]),
        "train": part(MARKET, ["0002", "0007"], backwards=True, **codes),
    }
    return write_labels(path, "market_attribute", parts)
