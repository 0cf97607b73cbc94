"""The attributes that labels and models here speak of, and their words; others may have more.

Lin et al., Improving Person Re-identification by Attribute and Identity Learning, Pattern
Recognition 2019, arXiv:1703.07220, has the attributes of Market-1501 and DukeMTMC-reID.
"""

from collections.abc import Mapping
from dataclasses import dataclass

YES, NO = "yes", "no"

COLORS = ("black", "white", "gray", "red", "pink", "purple", "blue", "green", "yellow", "brown")


@dataclass(frozen=True)
class Attribute:
    """name: of the columns, after `attr.`. words: what it may be. is_set: whether it is several
    of them at once, as a shirt may be of two colours."""

    name: str
    words: tuple[str, ...]
    is_set: bool = False

    @property
    def is_yes_or_no(self) -> bool:
        return self.words == (YES, NO)


VOCABULARY: Mapping[str, Attribute] = {
    one.name: one
    for one in (
        Attribute("gender", ("male", "female")),
        Attribute("age", ("young", "teenager", "adult", "old")),
        Attribute("hair", ("short", "long")),
        Attribute("sleeve", ("long", "short")),
        Attribute("lower_length", ("long", "short")),
        Attribute("lower_type", ("dress", "pants")),
        Attribute("shoes", ("dark", "light")),
        *(
            Attribute(name, (YES, NO))
            for name in ("backpack", "handbag", "bag", "hat", "boots", "coat")
        ),
        Attribute("upper_color", COLORS, is_set=True),
        Attribute("lower_color", COLORS, is_set=True),
    )
}

MARKET_GROUPS: Mapping[str, str] = {
    "gender": "gender",
    "age": "age",
    "hair": "hair length",
    "sleeve": "sleeve length",
    "lower_length": "length of lower clothing",
    "lower_type": "type of lower clothing",
    "backpack": "backpack",
    "handbag": "handbag",
    "bag": "bag",
    "hat": "hat",
    "upper_color": "colour of upper clothing",
    "lower_color": "colour of lower clothing",
}
"""Attribute → what tables call its group, for the twelve groups that accuracy on Market-1501 is
reported in, in that order."""

DUKE_GROUPS: Mapping[str, str] = {
    "gender": "gender",
    "hat": "hat",
    "boots": "boots",
    "sleeve": "sleeve length",
    "backpack": "backpack",
    "handbag": "handbag",
    "bag": "bag",
    "shoes": "colour of shoes",
    "upper_color": "colour of upper clothing",
    "lower_color": "colour of lower clothing",
}
"""The same for the ten of DukeMTMC-reID."""
