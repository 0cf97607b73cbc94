"""Decoding: every odd picture file is either the right pixels or one clear line."""

import io
import os
import re
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from conftest import no_privileges
from numpy.typing import NDArray
from PIL import Image, ImageFile

from extractors.images import MAX_PIXELS, decode_image, read_image, silence_pillow_warnings
from reid_index.errors import UnreadableImage

ORIENTATION = 0x112  # EXIF tag 274


def noise(*shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(7).integers(0, 256, shape, dtype=np.uint8)


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def decoded(image: Image.Image, form: str, **options: object) -> NDArray[np.uint8]:
    return decode_image(encoded(image, form, **options), name="x")


def png_header(width: int, height: int) -> bytes:
    """A 1-bit black PNG of that size that takes a few kilobytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    rows = bytes(height * (1 + (width + 7) // 8))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def refusal(path: Path) -> str:
    """The message of the refusal, which is one line and begins with the file."""
    with pytest.raises(UnreadableImage) as caught:
        read_image(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


@pytest.mark.parametrize("form", ["JPEG", "PNG", "BMP", "TIFF", "PPM", "WEBP", "MPO"])
def test_ordinary_pictures_are_what_pillow_decodes(form: str, tmp_path: Path) -> None:
    path = tmp_path / "a.picture"
    Image.fromarray(noise(12, 9, 3)).save(path, form)
    with Image.open(path) as image:
        expected = np.asarray(image.convert("RGB"))
    crop = read_image(path)
    assert (crop.shape, crop.dtype) == ((12, 9, 3), np.uint8)
    np.testing.assert_array_equal(crop, expected)


def test_one_pixel() -> None:
    crop = decoded(Image.new("RGB", (1, 1), (1, 2, 3)), "PNG")
    assert crop.tolist() == [[[1, 2, 3]]]


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled(form: str) -> None:
    grey = np.array([[0, 255, 256], [32768, 65279, 65535]], np.uint16)
    crop = decoded(Image.fromarray(grey), form)
    assert crop[:, :, 0].tolist() == [[0, 0, 1], [128, 254, 255]]
    assert (crop == crop[:, :, :1]).all()


def test_modes_become_rgb_and_alpha_is_dropped() -> None:
    red = Image.new("P", (2, 1), 1)
    red.putpalette([0, 0, 255, 255, 0, 0])
    assert decoded(red, "PNG").tolist() == [[[255, 0, 0]] * 2]
    assert decoded(red, "PNG", transparency=1).tolist() == [[[255, 0, 0]] * 2]
    assert decoded(red, "PNG", transparency=b"\x10\x20").tolist() == [[[255, 0, 0]] * 2]
    assert decoded(Image.new("RGBA", (1, 1), (9, 8, 7, 0)), "PNG").tolist() == [[[9, 8, 7]]]
    assert decoded(Image.new("LA", (1, 1), (9, 3)), "PNG").tolist() == [[[9, 9, 9]]]
    assert decoded(Image.new("L", (1, 1), 9), "PNG").tolist() == [[[9, 9, 9]]]
    bits = Image.fromarray(np.array([[True, False]]))
    assert (bits.mode, decoded(bits, "PNG").tolist()) == ("1", [[[255] * 3, [0] * 3]])


def test_cmyk_jpeg() -> None:
    crop = decoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100)
    np.testing.assert_allclose(crop, np.full((8, 8, 3), (255, 0, 0)), atol=2)


def test_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (2, 2), colour) for colour in [(255, 0, 0), (0, 255, 0)]]
    crop = decoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert crop.tolist() == [[[255, 0, 0]] * 2] * 2


# Where the stored pixels a b c / d e f belong for each value of the EXIF tag Orientation
# (Exif 2.32, JEITA CP-3451, tag 274).
@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, ["abc", "def"]),
        (2, ["cba", "fed"]),
        (3, ["fed", "cba"]),
        (4, ["def", "abc"]),
        (5, ["ad", "be", "cf"]),
        (6, ["da", "eb", "fc"]),
        (7, ["fc", "eb", "da"]),
        (8, ["cf", "be", "ad"]),
    ],
)
def test_exif_rotation_is_applied(orientation: int, upright: list[str]) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    stored = np.array([list(b"abc"), list(b"def")], np.uint8)
    crop = decoded(Image.fromarray(stored), "PNG", exif=exif)
    assert [bytes(row).decode() for row in crop[:, :, 0]] == upright


@pytest.mark.parametrize("kind", range(1, 14))
def test_odd_exif_beside_the_rotation_costs_nothing(kind: int) -> None:
    """The width as text, a fraction and so on: tags that no writer of EXIF could write again."""
    width = struct.pack("<HHII", 0x100, kind, 1, 1)
    rotation = struct.pack("<HHII", ORIENTATION, 3, 1, 3)
    exif = b"Exif\0\0II*\0\x08\0\0\0\x02\0" + width + rotation + bytes(4)
    pixels = noise(6, 5, 3)
    crop = decoded(Image.fromarray(pixels), "PNG", exif=exif)
    np.testing.assert_array_equal(crop, pixels[::-1, ::-1])


def test_exif_that_cannot_be_read_costs_nothing() -> None:
    pixels = noise(6, 5, 3)
    for exif in (b"Exif\0\0neither MM nor II", b"Exif\0\0II*\0\x08\0\0\0\xff"):
        with warnings.catch_warnings(action="ignore"):
            crop = decoded(Image.fromarray(pixels), "PNG", exif=exif)
        np.testing.assert_array_equal(crop, pixels)


def test_files_that_are_no_picture(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.touch()
    assert refusal(path) == "the file is empty"
    path.write_text("this is no picture\n" * 100)
    assert refusal(path) == "not a picture that can be read"
    assert refusal(tmp_path) == "not a file"
    os.mkfifo(tmp_path / "pipe.jpg")
    assert refusal(tmp_path / "pipe.jpg") == "not a file"
    assert refusal(tmp_path / "b.jpg") == "cannot be read: No such file or directory"
    with pytest.raises(UnreadableImage, match="cannot be read: embedded null byte"):
        read_image(tmp_path / "a\0.jpg")


@pytest.mark.parametrize("form", ["JPEG", "PNG", "BMP", "TIFF", "WEBP"])
def test_truncated(form: str, tmp_path: Path) -> None:
    data = encoded(Image.fromarray(noise(64, 32, 3)), form)
    path = tmp_path / "a.jpg"
    for size in (12, len(data) // 2, len(data) - 40):
        path.write_bytes(data[:size])
        with warnings.catch_warnings(action="ignore"):
            message = refusal(path)
        assert re.match("broken: .|not a picture that can be read", message)


def test_broken_bytes_raise_nothing_else() -> None:
    """Bytes changed at random give pixels or UnreadableImage."""
    rng = np.random.default_rng(3)
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    image = Image.fromarray(noise(7, 5, 3))
    refused = 0
    with warnings.catch_warnings(action="ignore"):
        for form in ("JPEG", "PNG", "WEBP", "GIF"):
            data = np.frombuffer(encoded(image, form, exif=exif), np.uint8)
            for _ in range(400):
                changed = data.copy()
                changed[rng.integers(0, len(data), 3)] = rng.integers(0, 256, 3)
                try:
                    assert decode_image(changed.tobytes(), name="x").ndim == 3
                except UnreadableImage:
                    refused += 1
    assert 100 < refused < 1500


@pytest.mark.parametrize("action", ["error", "ignore"])
@pytest.mark.parametrize(("width", "height"), [(9000, 9000), (10000, 10000), (20000, 10000)])
def test_huge_pictures_are_not_decoded(
    action: str, width: int, height: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """81 megapixels is over our limit, 100 over where Pillow warns, 200 over where it raises."""
    path = tmp_path / "bomb.png"
    path.write_bytes(png_header(width, height))
    assert path.stat().st_size < 100_000
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("it was decoded"))
    with warnings.catch_warnings(action=action):  # type: ignore[arg-type]
        assert f"over the limit of {MAX_PIXELS:,}" in refusal(path)


def test_large_but_honest() -> None:
    assert decode_image(png_header(4000, 1000), name="x").shape == (1000, 4000, 3)


def test_thirty_two_bit_pixels_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    for kind in (np.int32, np.float32):
        Image.fromarray(np.ones((2, 2), kind)).save(path)
        assert refusal(path).startswith("32-bit pixels have no known range")


@pytest.mark.parametrize(
    "data",
    [
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n",
        b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n",
        b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
        encoded(Image.new("RGB", (16, 16)), "ICO"),
    ],
    ids=["EPS", "PDF", "SVG", "ICO"],
)
def test_other_formats_are_refused(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(data)
    assert refusal(path) == "not a picture that can be read"


def test_without_permission(public_path: Path) -> None:
    path = public_path / "a.png"
    path.touch(mode=0o000)
    with no_privileges():
        assert refusal(path) == "cannot be read: Permission denied"


def test_pillow_can_be_silenced() -> None:
    data = encoded(Image.new("L", (1, 1)), "PNG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff")
    with warnings.catch_warnings(record=True, action="always") as told:
        decode_image(data, name="x")
        assert told
        told.clear()
        silence_pillow_warnings()
        decode_image(data, name="x")
        assert not told
