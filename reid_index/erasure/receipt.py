"""What must be gone after an erasure: made when items are deleted, kept outside the gallery.

A receipt holds salted hashes only, no vector, path or label in clear. It is no secret-keeper,
though: whoever has it can try out a path or a label that he can guess.
"""

import base64
import hashlib
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ..errors import BadSource, FormatTooNew, UsageError
from ..files import json_bytes, rename, write_json
from ..store.shard import Shard
from .erasure import CROP, FRAME, PATH, Texts, Vectors, crop_value, unseen
from .sought import KEYS, LONGEST, NEEDLES, PIECE, SHORTEST, WINDOW, Hasher, Pieces

FORMAT = (1, 0)

_KIND = "reid-index erasure receipt"
_LARGEST = 2**30
"""Bytes of a receipt that are read: about a million items."""

_SALT = 32
_DIGEST = 16


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """What must be gone, and in clear only how much of it there is.

    gallery: its identity. generation: the one from which the items were deleted. items: how many.
    last_item: the highest item id given then; what was added later has higher ones.
    cells: per column of text (and item, PATH, NAME, CROP, FRAME) the digests of values that no
        staying item has.
    needles: texts to be looked for anywhere. pieces, rows: of vectors, and whole ones.
    shared: values and vectors, by column, that staying items have too, so they may stay. short:
    texts that are too short to be looked for anywhere but in their column. contained: texts that
    are part of a text of a staying item, likewise. plain: pieces of vectors that say nothing, as of
    zeros only, or that a staying vector has too.
    """

    salt: bytes
    created: datetime
    gallery: str
    generation: int
    items: int
    last_item: int
    cells: Mapping[str, frozenset[bytes]]
    needles: NDArray[np.void]
    pieces: tuple[Pieces, ...]
    rows: tuple[Pieces, ...]
    shared: Mapping[str, int]
    short: int
    contained: int
    plain: int

    @cached_property
    def hasher(self) -> Hasher:
        """What made its digests."""
        return Hasher(self.salt)

    def is_cell(self, kind: str, value: bytes) -> bool:
        """Whether it is an erased value of that kind."""
        cells = self.cells.get(kind, frozenset())
        return len(cells) > 0 and self.hasher.digest(kind, value) in cells

    def remarks(self) -> list[str]:
        """What it cannot prove, a line each, for people."""
        shared = ", ".join(
            f"{count:,} of {name.lstrip(':')}" for name, count in self.shared.items()
        )
        return [
            line
            for count, line in (
                (len(shared), f"staying items have these too, so they may stay: {shared}"),
                (
                    self.short,
                    f"texts of less than {SHORTEST} bytes ({self.short:,}) are looked for in their "
                    "columns only: they are in any file by chance",
                ),
                (
                    self.contained,
                    f"texts that are part of a staying item's ({self.contained:,}) are looked for "
                    "in their columns only",
                ),
                (
                    self.plain,
                    f"pieces of vectors that staying ones have, too, or that are of zeros and the "
                    f"like ({self.plain:,}) are not looked for",
                ),
            )
            if count
        ]


def is_erased(
    receipts: Sequence[Receipt],
    path: str,
    *,
    box: Sequence[float] | None = None,
    frame: str | None = None,
) -> bool:
    """Whether a crop is one that must be gone: all that is cut from a picture of which nothing
    stayed, and in another picture just the boxes that were deleted.

    path: of the picture, as `picture_path` gives it. box: x, y, width, height, of which single
    precision counts, as it is stored; None for the whole picture. frame: what it is known by where
    it is in segments, `frame_value` of a video's, else the picture's path with the text of its box:
    it is erased with the last segment that has it.
    """
    # What is no UTF-8 is never in a gallery, so no receipt has it either.
    picture = path.encode(errors="surrogatepass")
    crop = crop_value(picture, box)
    shown = None if frame is None else frame.encode(errors="surrogatepass")
    return any(
        one.is_cell(PATH, picture)
        or one.is_cell(CROP, crop)
        or (shown is not None and one.is_cell(FRAME, shown))
        for one in receipts
    )


def make_receipt(
    shards: Sequence[Shard],
    *,
    gone: Sequence[NDArray[np.bool_]],
    kept: Sequence[NDArray[np.bool_]],
    gallery: str,
    generation: int,
    overlays: Sequence[pa.Table] = (),
    beside: bytes = b"",
) -> Receipt:
    """The receipt of an erasure from shards.

    gone, kept: for each shard, over its rows, bool (rows,): those that are deleted now, and those
    that stay. Rows in neither were deleted before. gallery: its identity. generation: the one that
    still had them.
    overlays: what was said of items since they were added.
    beside: what the gallery says of itself, of no item in particular, and goes on saying.

    Reads all items and all vectors of the rows that stay, to know what they share; memory grows
    with what is deleted only. Raises BadShard.
    """
    hasher = Hasher(secrets.token_bytes(_SALT))
    texts = Texts(shards, gone, hasher, overlays=overlays)
    texts.leave_out(shards, kept, beside=beside)
    vectors = Vectors(shards, gone, hasher)
    vectors.leave_out(shards, kept)
    shared = {**texts.shared, "vector": sum(int(seen.sum()) for _, seen in vectors.rows.values())}
    return Receipt(
        salt=hasher.salt,
        created=datetime.now(UTC).replace(microsecond=0),
        gallery=gallery,
        generation=generation,
        items=sum(int(np.count_nonzero(mask)) for mask in gone),
        last_item=max((_last_item(shard) for shard in shards), default=-1),
        cells=texts.cells(),
        needles=texts.needles[~texts.contained],
        pieces=unseen(vectors.pieces),
        rows=unseen(vectors.rows),
        shared={name: count for name, count in shared.items() if count},
        short=texts.short,
        contained=int(texts.contained.sum()),
        plain=vectors.plain + sum(int(seen.sum()) for _, seen in vectors.pieces.values()),
    )


def _last_item(shard: Shard) -> int:
    last = pc.max(shard.read_columns(["item"])["item"]).as_py()
    return -1 if last is None else int(last)


def check_receipt_path(path: Path, *, gallery: Path) -> None:
    """Raise UsageError where a receipt cannot be: a path that is taken, inside the gallery, or in
    no folder."""
    path = Path(path)
    if path.exists() or path.is_symlink():
        raise UsageError(f"{path} exists already: a receipt is written to a new file")
    if not path.parent.is_dir():
        raise UsageError(f"{path}: there is no folder {path.parent}; make it first")
    if path.resolve().is_relative_to(Path(gallery).resolve()):
        raise UsageError(f"{path} is inside the gallery: keep receipts elsewhere")


def write_receipt(path: Path, receipt: Receipt, *, gallery: Path) -> None:
    """Write a receipt to a new file that only its owner can read. Raises UsageError, as
    `check_receipt_path` does."""
    path = Path(path)
    check_receipt_path(path, gallery=gallery)
    # In a folder that is closed to others, the file is never open to them, not even for a moment.
    closed = Path(tempfile.mkdtemp(prefix=".receipt-", dir=path.parent))
    try:
        said = _to_json(receipt)
        write_json(closed / path.name, {**said, "sha256": _sum(said)})
        os.chmod(closed / path.name, 0o600)
        rename(closed / path.name, path)
    finally:
        shutil.rmtree(closed)


def _sum(said: Mapping[str, Any]) -> str:
    """Of all that a receipt says, so that a damaged one proves nothing."""
    return hashlib.sha256(json_bytes(said)).hexdigest()


def _to_json(receipt: Receipt) -> dict[str, Any]:
    return {
        "format": list(FORMAT),
        "what": _KIND,
        "created": receipt.created.isoformat(),
        "gallery": receipt.gallery,
        "generation": receipt.generation,
        "items": receipt.items,
        "last_item": receipt.last_item,
        "salt": receipt.salt.hex(),
        "cells": {
            kind: _packed(b"".join(sorted(digests))) for kind, digests in receipt.cells.items()
        },
        "needles": _packed(receipt.needles.tobytes()),
        "pieces": [
            {"bytes": one.length, "keys": _packed(one.records.tobytes())} for one in receipt.pieces
        ],
        "rows": [
            {"bytes": one.length, "keys": _packed(one.records.tobytes())} for one in receipt.rows
        ],
        "shared": dict(receipt.shared),
        "short": receipt.short,
        "contained": receipt.contained,
        "plain": receipt.plain,
    }


def _packed(content: bytes) -> str:
    return base64.b64encode(content).decode()


def read_receipt(path: Path) -> Receipt:
    """Read a receipt. Raises BadSource for a file that is none, FormatTooNew."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
        if len(content) > _LARGEST:
            raise ValueError(f"it has more than {_LARGEST:,} bytes")
        data = json.loads(content)
        if not isinstance(data, dict) or data.get("what") != _KIND:
            raise ValueError("it is another kind of file")
        if data["format"][0] > FORMAT[0]:
            raise FormatTooNew(f"{path} was written by a newer reid-index; upgrade reid-index")
        if data.pop("sha256") != _sum(data):
            raise ValueError("its bytes have changed since it was written")
        return _from_json(data)
    except OSError as error:
        raise BadSource(f"{path}: the receipt cannot be read: {error.strerror}") from None
    except FormatTooNew:
        raise
    except KeyError as error:
        raise BadSource(f"{path} is not a whole receipt: {error} is missing") from None
    except (
        ArithmeticError,
        AttributeError,
        IndexError,
        RecursionError,
        TypeError,
        ValueError,
    ) as error:
        raise BadSource(f"{path} is not a receipt of `reid delete`: {error}") from None


def _from_json(data: Mapping[str, Any]) -> Receipt:
    receipt = Receipt(
        salt=bytes.fromhex(data["salt"]),
        created=datetime.fromisoformat(data["created"]),
        gallery=str(data["gallery"]),
        generation=_count(data["generation"]),
        items=_count(data["items"]),
        last_item=_count(data["last_item"], least=-1),
        cells={kind: _digests(packed) for kind, packed in data["cells"].items()},
        needles=_records(data["needles"], NEEDLES, by="window"),
        pieces=tuple(_pieces(one, longest=PIECE) for one in data["pieces"]),
        rows=tuple(_pieces(one, longest=2**24) for one in data["rows"]),
        shared={str(kind): _count(count) for kind, count in data["shared"].items()},
        short=_count(data["short"]),
        contained=_count(data["contained"]),
        plain=_count(data["plain"]),
    )
    lengths = receipt.needles["length"]
    if len(receipt.salt) != _SALT:
        raise ValueError(f"its salt has not {_SALT} bytes")
    if len(lengths) and not SHORTEST <= lengths.min() <= lengths.max() <= LONGEST:
        raise ValueError(f"a text has not {SHORTEST} to {LONGEST} bytes")
    if (receipt.needles["lead"].astype(np.int64) + WINDOW > lengths).any():
        raise ValueError("a text is shorter than what it is found by")
    return replace(receipt, created=receipt.created.astimezone(UTC))


def _count(value: Any, *, least: int = 0) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 2**62:
        raise ValueError(f"{value!r} is not a count")
    return value


def _pieces(data: Mapping[str, Any], *, longest: int) -> Pieces:
    length = _count(data["bytes"], least=1)
    if length > longest:
        raise ValueError(f"a piece of {length} bytes is too long")
    return Pieces(length, _records(data["keys"], KEYS, by="key"))


def _records(packed: Any, kind: np.dtype[np.void], *, by: str) -> NDArray[np.void]:
    records = np.frombuffer(_unpacked(packed, kind.itemsize), kind)
    return records[np.argsort(records[by], kind="stable")]


def _digests(packed: Any) -> frozenset[bytes]:
    content = _unpacked(packed, _DIGEST)
    return frozenset(content[at : at + _DIGEST] for at in range(0, len(content), _DIGEST))


def _unpacked(packed: Any, itemsize: int) -> bytes:
    content = base64.b64decode(packed, validate=True)
    if len(content) % itemsize:
        raise ValueError("a list in it has been cut")
    return content
