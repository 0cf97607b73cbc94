"""Segments as a co-attention network sees them: keys, values, index vectors, and its matcher."""

from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from reid_index.errors import BadWeights, DimensionMismatch, NotFiniteError
from reid_index.matcher import COATTENTION, Matcher

from .segments import SegmentEncoder, Segments
from .systems.coattention import CoAttention, asked_codes


class CoAttentionEncoder(SegmentEncoder):
    """The side of a co-attention network that galleries of segments are made with.

    A segment's code `global_` is what it says asked by its own index vector; as a candidate it is
    asked anew by each target, from `key` and `value` (`reid_index.matcher`).
    """

    def __init__(self, system: CoAttention, *, device: torch.device) -> None:
        """Raises BadWeights where its probabilities cannot be said by a matcher."""
        self._system, self._device = system, device
        head, bias = system.head()
        if not (torch.isfinite(head).all() and torch.isfinite(bias)):
            raise BadWeights("the pair head of the co-attention network holds NaN or Inf")
        self._matcher = Matcher(name=COATTENTION, head=tuple(head.tolist()), bias=float(bias))

    @property
    def dim(self) -> int:
        return self._system.value.out_features

    @property
    def matcher(self) -> Matcher:
        """Batch normalisation, linear layer and softmax of the network in one."""
        return self._matcher

    def encode(self, frames: NDArray[np.float32], offsets: NDArray[np.int64]) -> Segments:
        """Raises NotFiniteError for a frame that holds NaN or Inf or has length 0,
        DimensionMismatch for frames of another width."""
        wanted = self._system.dim
        if frames.ndim != 2 or frames.shape[1] != wanted:
            raise DimensionMismatch(f"frames have the shape {frames.shape}, not (F, {wanted})")
        lengths = np.linalg.norm(frames.astype(np.float64), axis=1)
        if not (np.isfinite(lengths) & (lengths > 0)).all():
            raise NotFiniteError("a frame's vector holds NaN or Inf or has length 0; leave it out")
        # One by one: in a batch, a segment's last digits would depend on the others.
        found = [self._one(frames[first:stop]) for first, stop in pairwise(offsets)]
        code, index, key, value = (np.concatenate(some) for some in zip(*found, strict=True))
        return Segments(global_=code, index=index, key=key, value=value)

    def _one(self, frames: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
        """Code (1, Dv), index vector (1, Dk), keys (T, Dk) and values (T, Dv) of a segment."""
        with torch.inference_mode():
            fed = torch.from_numpy(np.array(frames, np.float32))[None].to(self._device)
            index, keys, values = self._system.asked(fed)
            codes = asked_codes(index, keys, values)
            return tuple(one[0].cpu().numpy() for one in (codes, index[None], keys, values))
