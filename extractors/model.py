"""What extractors around a network file have in common: crops are fed by a `Preprocess`, one
global vector comes back."""

from abc import abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reid_index.fingerprint import Fingerprint

from .extractor import Crop, Embedding, Extractor
from .preprocess import Preprocess


class ModelExtractor(Extractor):
    """An extractor whose network takes float32 (B, 3, height, width) and gives (B, D).

    A subclass sets the network up in `__init__`, calls this one's last, and implements `run`.
    """

    def __init__(self, *, preprocess: Preprocess, fingerprint: Fingerprint) -> None:
        """Raises ValueError where the network does not give a row for each crop."""
        self._preprocess = preprocess
        self._fingerprint = fingerprint
        # Two crops, so that an output without a row for each is noticed here.
        blank = np.zeros((2, 3, preprocess.height, preprocess.width), np.float32)
        self._dim = int(self.embed(blank).global_.shape[1])

    @property
    def fingerprint(self) -> Fingerprint:
        return self._fingerprint

    @property
    def dim(self) -> int:
        return self._dim

    def prepare(self, crop: Crop) -> NDArray[np.float32]:
        """float32 (3, height, width), in the network's colour order, normalised."""
        return self._preprocess.apply(crop)

    def embed(self, batch: NDArray[Any]) -> Embedding:
        """float32 (B, 3, height, width) → global vectors (B, D)."""
        return Embedding(global_=one_row_each(self.run(batch), len(batch)))

    @abstractmethod
    def run(self, batch: NDArray[np.float32]) -> Any:
        """The network's output for a batch, its first axis the crops."""


def one_row_each(output: Any, crops: int) -> NDArray[np.float32]:
    """A network's output as float32 (crops, D). Raises ValueError where it has another number of
    rows: reshaping would mix the crops."""
    array = np.asarray(output)
    if array.ndim < 2 or len(array) != crops:
        raise ValueError(f"its output is {array.shape} for {crops} crops, not a row for each")
    return array.astype(np.float32).reshape(crops, -1)
