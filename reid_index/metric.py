"""How two vectors are compared, and which direction is better."""

from enum import StrEnum

from .errors import UsageError


class Metric(StrEnum):
    """The score of a gallery; fixed when the gallery is made.

    COSINE: similarity in [-1, 1], higher is more alike; rows are stored L2-normalised.
    INNER_PRODUCT: similarity, any real number, higher is more alike.
    EUCLIDEAN: distance ‖x − y‖₂ ≥ 0 (not squared), lower is more alike.
    """

    COSINE = "cosine"
    INNER_PRODUCT = "inner_product"
    EUCLIDEAN = "euclidean"

    @property
    def higher_is_better(self) -> bool:
        """True where the score is a similarity, False where it is a distance."""
        return self is not Metric.EUCLIDEAN


def parse_metric(metric: Metric | str) -> Metric:
    """A metric by its name. Raises UsageError with the names there are."""
    try:
        return Metric(metric)
    except ValueError:
        names = ", ".join(Metric)
        raise UsageError(f"there is no metric {metric!r}; there are {names}") from None
