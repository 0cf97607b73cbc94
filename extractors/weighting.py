"""How much the whole and how much head and shoulders count in the vectors of an HAA model: the four
ways of US 12,394,239 B2.

`adaptive`: as the model has learnt. `plain`: one half each. `rule`: by what is measured on the
crop, as RULE says. A table: the same, by an operator's numbers.
"""

import csv
import io
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reid_index.errors import BadSource, UsageError
from reid_index.reading import read_bytes, shown

from .conditions import FEATURES, LIMITS, Limits, Measured, measure_inputs
from .preprocess import Preprocess
from .systems.haa import HAA, joined

WAYS = ("adaptive", "plain", "rule")
"""Those that have a name; a table is a file."""

NONE = "none"
"""The row for crops with none of conditions.FEATURES."""

RULE = {**dict.fromkeys(FEATURES, (0.3, 0.7)), NONE: (0.5, 0.5)}
"""Feature → w_g, w_h. The patent gives no numbers but the halves, and w_g < w_h for the others."""

_COLUMNS = ["feature", "w_g", "w_h"]
_LARGEST = 2**20


@dataclass(frozen=True, kw_only=True)
class Weighting:
    """way: one of WAYS, or "table". rows: of rule and table, feature → w_g, w_h, each 0…1, for all
    FEATURES, w_g < w_h, and NONE, not both 0; of several features that are there, the one with the
    least w_g counts. limits: where features begin; of the table, as of the rule.

    Raises BadSource for rows that are not so.
    """

    way: str = "adaptive"
    rows: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    limits: Limits = LIMITS

    def __post_init__(self) -> None:
        if self.way in ("adaptive", "plain"):
            return
        for feature in (*FEATURES, NONE):
            if feature not in self.rows:
                raise BadSource(f"no row says how much counts where a crop is {feature!r}; add one")
            w_g, w_h = self.rows[feature]
            if not (0 <= w_g <= 1 and 0 <= w_h <= 1 and w_g + w_h > 0):
                raise BadSource(f"{feature}: w_g {w_g} and w_h {w_h} are not 0 to 1, or both are 0")
            if feature != NONE and w_g >= w_h:
                raise BadSource(
                    f"{feature}: w_g {w_g} is not below w_h {w_h}: where a crop is so, head and "
                    "shoulders have to count more"
                )

    def __str__(self) -> str:
        """For fingerprints: all that changes numbers, but for the model."""
        if not self.rows:
            return f"weights: {self.way}"
        pairs = ", ".join(f"{name} {w_g}/{w_h}" for name, (w_g, w_h) in self.rows.items())
        limits = self.limits
        return (
            f"weights: {self.way} {pairs}; dark < {limits.brightness}, black > {limits.black}, "
            f"blurred < {limits.sharpness}"
        )

    def to_json(self) -> Any:
        """For a gallery's recipe: a name, or the rows."""
        if self.way in WAYS:
            return self.way
        return {name: list(pair) for name, pair in self.rows.items()}

    def weights(self, measured: Measured) -> tuple[Tensor, Tensor]:
        """w_g and w_h of B crops by the rows, float32 (B, 1) each."""
        there = measured.features(self.limits)
        found = there.new_tensor(self.rows[NONE], dtype=torch.float32).expand(len(there), 2)
        # Last what counts most; of equal ones the first.
        numbered = sorted(enumerate(FEATURES), key=lambda one: (-self.rows[one[1]][0], -one[0]))
        for number, feature in numbered:
            pair = there.new_tensor(self.rows[feature], dtype=torch.float32)
            found = torch.where(there[:, number, None], pair, found)
        return found[:, :1], found[:, 1:]

    def embed(self, system: HAA, preprocess: Preprocess) -> Callable[[Tensor], Tensor]:
        """What makes the vectors: inputs (B, 3, H, W), fed by preprocess → (B, dim)."""
        if self.way == "adaptive":
            return system.embed
        # Of values v in 0…255, (v · scale − mean) / std has come.
        mean = [one / (255 * preprocess.scale) for one in preprocess.mean]
        std = [one / (255 * preprocess.scale) for one in preprocess.std]
        is_bgr = preprocess.color_order == "BGR"

        def embed(x: Tensor) -> Tensor:
            whole, shoulder, _ = system.features(x)
            if self.way == "plain":
                return joined(whole, shoulder, *(whole.new_full((len(x), 1), 0.5),) * 2)
            seen = x.flip(1) if is_bgr else x
            measured = measure_inputs(
                seen,
                mean=mean[::-1] if is_bgr else mean,
                std=std[::-1] if is_bgr else std,
            )
            return joined(whole, shoulder, *self.weights(measured))

        return embed


def weighting_of(said: str) -> Weighting:
    """What one of WAYS or a table's path says. Raises UsageError, BadSource."""
    if said in WAYS:
        return Weighting(way=said, rows=RULE if said == "rule" else {})
    path = Path(said)
    if path.suffix.lower() != ".csv":
        raise UsageError(
            f"there is no weighting {said!r}; there are {', '.join(WAYS)}, and tables, FILE.csv"
        )
    return read_table(path)


def read_table(path: Path) -> Weighting:
    """A table in CSV, with the columns feature, w_g, w_h, and a row for each of FEATURES and NONE.

    Raises BadSource where it cannot be read, or a row is missing, unknown, there twice or not as
    `Weighting` wants it.
    """
    try:
        content = read_bytes(path, most=_LARGEST).decode("utf-8-sig")
        lines = [line for line in csv.reader(io.StringIO(content, newline=""), strict=True) if line]
    except OSError as error:
        raise BadSource(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, csv.Error) as error:
        raise BadSource(f"{path}: cannot be read as a table: {error}") from None
    header, *lines = lines or [[]]
    if [name.strip() for name in header] != _COLUMNS:
        raise BadSource(f"{path}: its first line is not {','.join(_COLUMNS)}")
    rows: dict[str, tuple[float, float]] = {}
    for line in lines:
        name = line[0].strip()
        if len(line) != len(_COLUMNS):
            raise BadSource(f"{path}: the row of {shown(name)} has not {len(_COLUMNS)} values")
        if name not in (*FEATURES, NONE) or name in rows:
            known = ", ".join((*FEATURES, NONE))
            raise BadSource(
                f"{path}: a row for {shown(name)}, unknown or there twice; one each is wanted for "
                f"{known}"
            )
        rows[name] = (_share(line[1], name, path), _share(line[2], name, path))
    return _table(rows, where=str(path))


def weighting_from(data: Any) -> Weighting:
    """The inverse of `Weighting.to_json`. Raises BadSource."""
    where = "the gallery's recipe"
    if isinstance(data, str) and data in WAYS:
        return weighting_of(data)
    if not isinstance(data, dict) or not all(map(_is_pair, data.values())):
        raise BadSource(f"{where}: {shown(data)} is no weighting")
    return _table({str(name): (pair[0], pair[1]) for name, pair in data.items()}, where=where)


def _table(rows: Mapping[str, tuple[float, float]], *, where: str) -> Weighting:
    # In one order, so that the order in a file is not part of fingerprints.
    ordered = {name: rows[name] for name in (*FEATURES, NONE) if name in rows}
    try:
        return Weighting(way="table", rows=ordered)
    except BadSource as error:
        raise BadSource(f"{where}: {error}") from None


def _share(text: str, name: str, path: Path) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise BadSource(f"{path}: {name}: {shown(text)} is not a number")
    return value


def _is_pair(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(type(one) in (int, float) for one in value)
    )
