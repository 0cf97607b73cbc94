"""What an evaluation ranks by where a matcher compares parts."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..matcher import Matcher
from .aligned_scores import AlignedScores
from .scores import Scores, VectorScores
from .visibility_scores import VisibilityScores


def parts_scores(
    matcher: Matcher,
    vectors: VectorScores,
    *,
    queries: NDArray[np.float32],
    blocks: Sequence[NDArray[np.generic]],
    visible: NDArray[np.generic],
    shown: Sequence[NDArray[np.generic]],
) -> Scores:
    """Scores by vectors and parts as that matcher, one of parts, has them; see `AlignedScores` and
    `VisibilityScores`. visible, shown: looked at only where the matcher asks. Raises
    DimensionMismatch."""
    if not matcher.has_visible:
        return AlignedScores(vectors, queries, blocks, weight=matcher.weight)
    return VisibilityScores(vectors, queries, visible, blocks, shown, distance=matcher.distance)
