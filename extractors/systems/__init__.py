"""Systems: a backbone, a pooling and a head put together, and what a system is made from again."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from reid_index.errors import BadWeights, UsageError

from .aligned import Aligned
from .bot import BoT
from .coattention import CoAttention
from .convnext_ap import ConvNeXtAP
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
)

OF_THE_WHOLE = ("bot", "plain", "scpnet", "aligned", "coattention")
"""Those whose vector is that of the whole."""

OF_SEGMENTS = ("coattention",)
"""Those that learn from segments of video."""

_LARGEST = 8192
_STRIPES = 64
_WITH_NECK = ("bot", "scpnet", "aligned", "icnn", "coattention")
_WITHOUT_STRIPES = ("bot", "plain", "mgn", "haa", "coattention")
_OF_SOME = ("key", "value")
"""What a card only says where it is said: most systems have nothing of the kind, and other versions
of this project should read their cards."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a system is: everything but its weights.

    system: one of NAMES. backbone: see `make_backbone`. pooling: one of pooling.POOLINGS. dim: of
    the vectors, of systems of stripes that of each; 0 for the system's own choice. neck: of bot,
    scpnet, aligned, icnn and coattention, whether there is one. stripes: how many, 0 for as many as
    published. key, value: of coattention, dimensions of keys and of values, 0 for 128.
    """

    system: str = "bot"
    backbone: str = "osnet_x0_25"
    pooling: str = "average"
    dim: int = 0
    neck: bool = True
    stripes: int = 0
    key: int = 0
    value: int = 0

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

    def to_json(self) -> dict[str, Any]:
        """As a model's card has it."""
        return {name: one for name, one in asdict(self).items() if one or name not in _OF_SOME}


def plan_from(data: Mapping[str, Any], *, where: str) -> Plan:
    """The inverse of `Plan.to_json`. where: what messages call it. Raises BadWeights."""
    try:
        return Plan(**data)
    except (TypeError, UsageError) as error:
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
