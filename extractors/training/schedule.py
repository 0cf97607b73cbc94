"""How the learning rate changes while a network is trained."""

import math
from dataclasses import dataclass

from reid_index.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """kind: "cosine": from the full rate down to `last` of it along half a cosine (Loshchilov and
    Hutter, ICLR 2017, eq. 5), or "step": a tenth at each of the `steps`, shares of the epochs.
    warmup: epochs in which the rate rises from `first` of it, linearly.
    """

    kind: str = "cosine"
    warmup: float = 5.0
    first: float = 0.1
    last: float = 0.002
    steps: tuple[float, ...] = (1 / 3, 7 / 12)

    def __post_init__(self) -> None:
        if self.kind not in ("cosine", "step"):
            raise UsageError(f"there is no schedule {self.kind!r}; there are cosine and step")
        if not (self.warmup >= 0 and 0 < self.first <= 1 and 0 <= self.last <= 1):
            raise UsageError("a schedule warms up from a share of the rate, and ends with another")

    def factor(self, epoch: float, *, epochs: int) -> float:
        """What the rate is multiplied by after so many of all epochs, 0 ≤ epoch ≤ epochs."""
        if epoch < self.warmup:
            return self.first + (1 - self.first) * epoch / self.warmup
        if self.kind == "step":
            return 0.1 ** sum(epoch >= share * epochs for share in self.steps)
        whole = max(epochs - self.warmup, 1e-9)
        done = min(1.0, (epoch - self.warmup) / whole)
        return self.last + (1 - self.last) * (1 + math.cos(math.pi * done)) / 2
