"""How sure it is that an expression holds for an item, by how sure its attributes are."""

from collections.abc import Callable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..attributes import PREFIX, certainties, names_in
from .columns import Columns, IsNull, Predicate
from .where import Where

Certainty = Callable[[str], NDArray[np.float32]]


def confidences(
    where: Where, columns: Columns, items: pa.Table, rows: NDArray[np.int64]
) -> NDArray[np.float32]:
    """The confidence of an expression for rows of items for which it is true: float32 (n,), in
    [0, 1].

    That of a comparison with an attribute is the attribute's, 1 where a value stands without one;
    of two attributes, the smaller; of all other comparisons, and of IS NULL, it is 1. Where an AND
    is true it is the smallest of its sides', and where an OR is true the largest among the sides
    that are true; where they are false it is the other way round, and NOT has that of its operand:
    so NOT (a OR b) has what NOT a AND NOT b has.

    columns: of the same items, which keep what they answer. Raises WhereError.
    """
    names = set(names_in(items.column_names))
    kept: dict[str, NDArray[np.float32]] = {}

    def certainty(name: str) -> NDArray[np.float32]:
        if name not in kept:
            # NaN, which galleries of older formats may hold, is no confidence at all.
            kept[name] = np.nan_to_num(certainties(items, name)[rows], nan=0.0)
        return kept[name]

    stack: list[_Judged] = []
    for step in columns.fitted(where):
        if not isinstance(step, str):
            true, false = columns.answer([step])
            sure = np.ones(len(rows), np.float32)
            for name in _attributes(step) & names:
                sure = np.minimum(sure, certainty(name))
            stack.append(_Judged(columns.unpacked(true)[rows], columns.unpacked(false)[rows], sure))
        elif step == "not":
            stack.append(stack.pop().inverted())
        else:
            right, left = stack.pop(), stack.pop()
            stack.append(left.both(right) if step == "and" else left.either(right))
    return stack.pop().sure


def _attributes(predicate: Predicate) -> set[str]:
    """What it asks the values of, without the attribute's prefix."""
    if isinstance(predicate, IsNull):
        return set()
    asked = {predicate.name, getattr(predicate, "other", predicate.name)}
    return {name.removeprefix(PREFIX) for name in asked if name.startswith(PREFIX)}


class _Judged:
    """Where an expression is true and where it is false, bool (n,) each, and how sure that is,
    float32 (n,); arbitrary where it is neither."""

    def __init__(
        self, true: NDArray[np.bool_], false: NDArray[np.bool_], sure: NDArray[np.float32]
    ) -> None:
        self.true, self.false, self.sure = true, false, sure

    def inverted(self) -> "_Judged":
        return _Judged(self.false, self.true, self.sure)

    def both(self, other: "_Judged") -> "_Judged":
        """The AND: false as soon as one side is, and then as sure as the surest that is."""
        true, false = self.true & other.true, self.false | other.false
        here = np.where(self.false, self.sure, np.float32(0))
        there = np.where(other.false, other.sure, np.float32(0))
        sure = np.where(true, np.minimum(self.sure, other.sure), np.maximum(here, there))
        return _Judged(true, false, sure)

    def either(self, other: "_Judged") -> "_Judged":
        """The OR, which is NOT (NOT a AND NOT b)."""
        return self.inverted().both(other.inverted()).inverted()
