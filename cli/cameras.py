"""Which cameras a search leaves out, as the command line says it."""

from reid_index.errors import UsageError


def parse_cameras(names: tuple[str, ...], own: int | None) -> list[int]:
    """The cameras of --not-camera; own: the target's, None where it is not known. Raises
    UsageError."""
    cameras = []
    for name in names:
        if name == "own":
            if own is None:
                raise UsageError(
                    "--not-camera own: the target's camera is not known; give its number"
                )
            cameras.append(own)
        else:
            cameras.append(_camera_number(name))
    return cameras


def _camera_number(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 2**31
    if abs(number) >= 2**31:
        raise UsageError(f"--not-camera {text!r}: a camera's number or `own`, please")
    return number
