"""Systems: a backbone, a pooling and a head put together, and what a system is made from again."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from reid_index.attributes import check_name
from reid_index.errors import BadWeights, UsageError

from .aligned import Aligned
from .bot import BoT
from .coattention import CoAttention
from .convnext_ap import ConvNeXtAP
from .fls import FLS, LOOKS, Looks, check_regions
from .haa import HAA
from .icnn import ICNN
from .mgn import MGN
from .pcb import PCB, RPP
from .plain import Plain
from .scpnet import SCPNet
from .system import System, make_backbone

NAMES = (
    "bot",
    "plain",
    "pcb",
    "pcb_mean",
    "pcb_shared",
    "pcb_rpp",
    "icnn",
    "scpnet",
    "mgn",
    "aligned",
    "convnext_ap",
    "haa",
    "coattention",
    "fls",
)

OF_THE_WHOLE = ("bot", "plain", "scpnet", "aligned", "coattention")
"""Those whose vector is that of the whole."""

OF_REGIONS = ("fls",)
"""Those that tell regions of crops, and attributes."""

OF_SEGMENTS = ("coattention",)
"""Those that learn from segments of video."""

_LARGEST = 8192
_STRIPES = 64
_WITH_NECK = ("bot", "scpnet", "aligned", "icnn", "coattention")
_WITHOUT_STRIPES = ("bot", "plain", "mgn", "haa", "coattention", "fls")
_OF_SOME = ("key", "value", "regions", "belongings", "words", "told_from")
"""What a card only says where it is said: most systems have nothing of the kind, and other versions
of this project should read their cards."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a system is: everything but its weights.

    system: one of NAMES. backbone: see `make_backbone`. pooling: one of pooling.POOLINGS. dim: of
    the vectors, of systems of stripes that of each; 0 for the system's own choice. neck: of bot,
    scpnet, aligned, icnn and coattention, whether there is one. stripes: how many, 0 for as many as
    published. key, value: of coattention, dimensions of keys and of values, 0 for 128. regions: of
    fls, how many, 0 for 6; belongings: whether the last of them is what people carry. words: of
    fls, attribute → its words, in pairs; told_from: one of fls.LOOKS, "" without words.
    """

    system: str = "bot"
    backbone: str = "osnet_x0_25"
    pooling: str = "average"
    dim: int = 0
    neck: bool = True
    stripes: int = 0
    key: int = 0
    value: int = 0
    regions: int = 0
    belongings: bool = False
    words: tuple[tuple[str, tuple[str, ...]], ...] = ()
    told_from: str = ""

    def __post_init__(self) -> None:
        kinds = {
            "system": str,
            "backbone": str,
            "pooling": str,
            "dim": int,
            "neck": bool,
            "stripes": int,
            "key": int,
            "value": int,
            "regions": int,
            "belongings": bool,
            "told_from": str,
        }
        for name, kind in kinds.items():
            if type(getattr(self, name)) is not kind:
                raise UsageError(f"{name} is not a {kind.__name__}")
        if self.system not in NAMES:
            raise UsageError(f"there is no system {self.system!r}; there are {', '.join(NAMES)}")
        for size in (self.dim, self.key, self.value):
            if not 0 <= size <= _LARGEST:
                raise UsageError(f"vectors can have 1 to {_LARGEST:,} dimensions, not {size:,}")
        if not 0 <= self.stripes <= _STRIPES:
            raise UsageError(f"there can be 1 to {_STRIPES} stripes, not {self.stripes:,}")
        if self.system not in _WITH_NECK and not self.neck:
            raise UsageError(f"{self.system} has no neck to leave out")
        if self.system in _WITHOUT_STRIPES and self.stripes:
            raise UsageError(f"{self.system} has no stripes to be counted")
        if self.system not in OF_SEGMENTS and (self.key or self.value):
            raise UsageError(f"{self.system} has no keys and values: {', '.join(OF_SEGMENTS)} has")
        if self.system not in OF_REGIONS and (
            self.regions or self.belongings or self.words or self.told_from
        ):
            raise UsageError(
                f"{self.system} has no regions and attributes: {', '.join(OF_REGIONS)} has"
            )
        if self.system in OF_REGIONS:
            check_regions(self.regions, belongings=self.belongings)
        _check_words(self.words, told_from=self.told_from)

    def to_json(self) -> dict[str, Any]:
        """As a model's card has it."""
        said = {name: one for name, one in asdict(self).items() if one or name not in _OF_SOME}
        if self.words:
            said["words"] = [[name, list(some)] for name, some in self.words]
        return said

    @property
    def looks(self) -> Looks | None:
        """Its attributes; None where it tells none."""
        return Looks(words=self.words, told_from=self.told_from) if self.words else None


def _check_words(words: tuple[tuple[str, tuple[str, ...]], ...], *, told_from: str) -> None:
    names = [check_name(name) for name, _ in words]
    for name, some in words:
        if len(set(some)) < 2 or len(set(some)) < len(some) or not all(map(_is_word, some)):
            raise UsageError(f"the attribute {name} needs two words or more, all different")
    if len(set(names)) < len(names) or sum(len(some) for _, some in words) > _LARGEST:
        raise UsageError(f"an attribute is there twice, or there are more than {_LARGEST:,} words")
    if told_from not in (LOOKS if words else ("",)):
        raise UsageError(
            f"attributes are told from {', '.join(LOOKS)}, not {told_from!r}"
            if words
            else f"without attributes nothing is told from {told_from!r}"
        )


def _is_word(word: object) -> bool:
    return isinstance(word, str) and 0 < len(word) <= 64


def plan_from(data: Mapping[str, Any], *, where: str) -> Plan:
    """The inverse of `Plan.to_json`. where: what messages call it. Raises BadWeights."""
    try:
        said = {**data}
        if "words" in said:
            said["words"] = tuple((str(name), tuple(some)) for name, some in said["words"])
        return Plan(**said)
    except (TypeError, ValueError) as error:
        raise BadWeights(
            f"{where}: its card describes no system of this project: {error}"
        ) from None


def make_system(plan: Plan, *, classes: int) -> System:
    """A new system with random weights, for so many persons to train on; 0 for none.

    Raises UsageError.
    """
    backbone = make_backbone(plan.backbone)
    pooling, dim, neck, stripes = plan.pooling, plan.dim, plan.neck, plan.stripes
    match plan.system:
        case "bot":
            return BoT(backbone, classes=classes, pooling=pooling, dim=dim, neck=neck)
        case "plain":
            return Plain(backbone, classes=classes, pooling=pooling, dim=dim)
        case "scpnet" | "aligned" | "icnn":
            on_bot: dict[str, type[SCPNet | Aligned | ICNN]] = {
                "scpnet": SCPNet,
                "aligned": Aligned,
                "icnn": ICNN,
            }
            return on_bot[plan.system](
                backbone, classes=classes, pooling=pooling, stripes=stripes, dim=dim, neck=neck
            )
        case "coattention":
            sizes = {"key": plan.key, "value": plan.value}
            return CoAttention(
                backbone, classes=classes, pooling=pooling, dim=dim, neck=neck, **sizes
            )
        case "fls":
            return FLS(
                backbone,
                classes=classes,
                pooling=pooling,
                dim=dim,
                regions=plan.regions,
                belongings=plan.belongings,
                looks=plan.looks,
            )
        case "mgn":
            return MGN(backbone, classes=classes, pooling=pooling, dim=dim)
        case "haa":
            shoulders = make_backbone(plan.backbone)
            return HAA(backbone, shoulders=shoulders, classes=classes, pooling=pooling, dim=dim)
        case "pcb_mean" | "pcb_shared":
            return PCB(
                backbone,
                classes=classes,
                pooling=pooling,
                stripes=stripes,
                dim=dim,
                variant=plan.system.removeprefix("pcb_"),
            )
    kinds: dict[str, type[PCB]] = {"pcb": PCB, "pcb_rpp": RPP, "convnext_ap": ConvNeXtAP}
    kind = kinds[plan.system]
    return kind(backbone, classes=classes, pooling=pooling, stripes=stripes, dim=dim)
