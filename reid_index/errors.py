"""Every error that this project raises on purpose.

    ReidIndexError
    ├── UsageError (ValueError)            an argument makes no sense
    │   └── WhereError                     a where expression; the message shows the place
    ├── DimensionMismatch (ValueError)     vectors of another width than the gallery's
    ├── NotFiniteError (ValueError)        NaN, Inf, or no length under cosine
    ├── ExtractorMismatch (ValueError)     vectors of another extractor than the gallery's
    ├── BadItems (ValueError)              a table of items that cannot be read as one
    ├── BadSource (ValueError)             a list, box file or embedding file that cannot be read
    ├── BadShard (ValueError)              a folder that is not a whole shard
    ├── BadWeights (ValueError)            a model file or its preprocessing card
    ├── TrainingFailed (ArithmeticError)   a loss that is no number
    ├── UnreadableImage (ValueError)       one picture: broken, not a picture, too large
    │   └── UnreadableVideo                one video: no file, no frames, a codec that is not there
    ├── NothingToIndex (ValueError)        a source without one readable crop
    ├── GalleryNotFound (FileNotFoundError)
    ├── GalleryExists (FileExistsError)
    ├── GalleryLocked (BlockingIOError)    another process is writing
    ├── CorruptGallery (ValueError)        a file changed or is gone
    ├── NoGraph (LookupError)              re-ranking needs a neighbour graph that is not there
    ├── NoCalibration (LookupError)        nothing tells what a gallery's scores mean
    ├── FormatTooNew (ValueError)          written by a newer version of this project
    ├── DeviceFailed (RuntimeError)        a GPU did not answer: lost, broken, or
    │   └── DeviceTooSmall (MemoryError)   rows or a query do not fit into its memory
    └── MissingExtra (ImportError)         an optional package is not installed

Catch `ReidIndexError`, or the builtin in parentheses. Each message is one line: what, where,
what to do. `exit_code` is what the command line ends with: 2 for wrong usage, 1 for a failed job.
"""


class ReidIndexError(Exception):
    """Base of all errors of this project."""

    exit_code = 1


class UsageError(ReidIndexError, ValueError):
    """An argument that makes no sense: k of 0, an unknown metric, two options that clash."""

    exit_code = 2


class WhereError(UsageError):
    """A where expression that cannot be read or does not fit the columns."""


class DimensionMismatch(ReidIndexError, ValueError):
    """Vectors whose width is not the gallery's; the message has both."""


class NotFiniteError(ReidIndexError, ValueError):
    """A vector holds NaN or Inf, or has length 0 where cosine needs a direction."""


class ExtractorMismatch(ReidIndexError, ValueError):
    """Query and gallery come from different extractors; the message has the fields that differ."""


class BadItems(ReidIndexError, ValueError):
    """A table of items with a missing row, an unknown type, or a value that does not fit."""


class BadSource(ReidIndexError, ValueError):
    """A list of files, a box file or an embedding file that cannot be read."""


class BadShard(ReidIndexError, ValueError):
    """A folder that is not a whole shard."""


class BadWeights(ReidIndexError, ValueError):
    """A model file or its preprocessing card is missing, unsafe or does not fit."""


class TrainingFailed(ReidIndexError, ArithmeticError):
    """A training whose loss is no number any more; what it had learnt before is kept."""


class UnreadableImage(ReidIndexError, ValueError):
    """One picture that cannot be decoded. Many of them are skipped and counted."""


class UnreadableVideo(UnreadableImage):
    """One video that cannot be decoded, wholly or from some frame on. Skipped and counted, too."""


class NothingToIndex(ReidIndexError, ValueError):
    """A source that holds not one readable crop."""


class GalleryNotFound(ReidIndexError, FileNotFoundError):
    """No gallery in that folder."""


class GalleryExists(ReidIndexError, FileExistsError):
    """The folder already holds a gallery or something else."""


class GalleryLocked(ReidIndexError, BlockingIOError):
    """Another process is writing to the gallery."""


class CorruptGallery(ReidIndexError, ValueError):
    """A file of the gallery has changed, is gone or does not fit the others."""


class NoGraph(ReidIndexError, LookupError):
    """Re-ranking needs the gallery's neighbour graph, and it has none, or a stale one."""


class NoCalibration(ReidIndexError, LookupError):
    """A threshold is to come from the gallery's calibration, and it has none; or what it is to be
    made from tells nobody apart."""


class FormatTooNew(ReidIndexError, ValueError):
    """The gallery or shard was written by a newer version of this project."""


class DeviceFailed(ReidIndexError, RuntimeError):
    """A GPU gave an error instead of an answer; what it held is lost, the CPU can still answer."""


class DeviceTooSmall(DeviceFailed, MemoryError):
    """Rows, or what a query needs beside them, do not fit into the memory of a GPU."""


class MissingExtra(ReidIndexError, ImportError):
    """An optional package is needed; the message has the pip command."""
