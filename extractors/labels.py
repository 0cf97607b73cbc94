"""What people said of persons and crops, as it is read from files."""

from dataclasses import dataclass

import pyarrow as pa

from reid_index.attributes import names_in

KEYS = ("item", "source", "person")
"""What a row may be of: one item, the items of a picture, or those of a person."""


@dataclass(frozen=True, kw_only=True)
class Labels:
    """table: a column called as key, a row for each of its values, and attribute columns as
    `reid_index.attributes` says: value, and where the file tells them confidence and origin.
    notes: what is to be told of the file, a line each.
    """

    table: pa.Table
    key: str
    notes: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """The attributes."""
        return names_in(self.table.column_names)
