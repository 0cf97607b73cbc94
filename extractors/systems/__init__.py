"""Systems: a backbone, a pooling and a head put together, and what a system is made from again."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from reid_index.errors import BadWeights, UsageError

from .bot import BoT
from .plain import Plain
from .system import System, make_backbone

NAMES = ("bot", "plain")

_LARGEST = 8192


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a system is: everything but its weights.

    system: one of NAMES. backbone: see `make_backbone`. pooling: one of pooling.POOLINGS. dim: of
    the vectors, 0 for as many as the backbone has channels. neck: of BoT, whether there is one.
    """

    system: str = "bot"
    backbone: str = "osnet_x0_25"
    pooling: str = "average"
    dim: int = 0
    neck: bool = True

    def __post_init__(self) -> None:
        kinds = {"system": str, "backbone": str, "pooling": str, "dim": int, "neck": bool}
        for name, kind in kinds.items():
            if type(getattr(self, name)) is not kind:
                raise UsageError(f"{name} is not a {kind.__name__}")
        if self.system not in NAMES:
            raise UsageError(f"there is no system {self.system!r}; there are {', '.join(NAMES)}")
        if not 0 <= self.dim <= _LARGEST:
            raise UsageError(f"vectors can have 1 to {_LARGEST:,} dimensions, not {self.dim:,}")
        if self.system != "bot" and not self.neck:
            raise UsageError(f"only bot has a neck to leave out, not {self.system}")

    def to_json(self) -> dict[str, Any]:
        """As a model's card has it."""
        return asdict(self)


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
    if plan.system == "bot":
        return BoT(backbone, classes=classes, pooling=plan.pooling, dim=plan.dim, neck=plan.neck)
    return Plain(backbone, classes=classes, pooling=plan.pooling, dim=plan.dim)
