"""The one writer: what it says is synced is synced, in the order that a power cut asks for."""

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reid_index import files


class Noted:
    """The `os` of files.py, of which it notes what is done, by the names of the paths."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self._names: dict[int, str] = {}

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        return self._noting(name, real) if name in NOTED else real

    def _noting(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(first: Any, *given: Any) -> Any:
            made = real(first, *given)
            if name == "open":
                self._names[made] = first.name
            elif name == "close":
                self._names.pop(first, None)
            else:
                of = first.name if isinstance(first, Path) else self._names[first]
                self.done.append(f"{name} {of}")
            return made

        return call


NOTED = ("open", "close", "fsync", "rename", "replace", "unlink", "rmdir", "mkdir", "truncate")


@pytest.fixture
def noted(monkeypatch: pytest.MonkeyPatch) -> Noted:
    noted = Noted()
    monkeypatch.setattr(files, "os", noted)
    return noted


def test_a_new_name_is_synced(tmp_path: Path, noted: Noted) -> None:
    for name in ("from", "to"):
        (tmp_path / name).mkdir()
    (tmp_path / "from/a").touch()
    files.rename(tmp_path / "from/a", tmp_path / "from/b")
    assert noted.done == ["rename a", "fsync from"]
    noted.done.clear()
    files.rename(tmp_path / "from/b", tmp_path / "to/b")
    assert noted.done == ["rename b", "fsync to", "fsync from"]
    assert (tmp_path / "to/b").exists()


def test_what_is_removed_stays_removed(tmp_path: Path, noted: Noted) -> None:
    folder = tmp_path / "f"
    (folder / "sub").mkdir(parents=True)
    for name in ("a", "b", "sub/c"):
        (folder / name).touch()
    files.remove_all_but(folder, {"a"})
    assert [path.name for path in folder.iterdir()] == ["a"]
    assert sorted(noted.done[:-1]) == ["rmdir sub", "unlink b", "unlink c"]
    assert noted.done[-1] == "fsync f"
    noted.done.clear()
    files.remove_all_but(folder, {"a"})
    files.remove(folder / "gone")
    assert noted.done == []
    files.remove(folder / "a")
    assert noted.done == ["unlink a", "fsync f"]


def test_a_file_is_synced_before_it_is_named(tmp_path: Path, noted: Noted) -> None:
    files.write_json(tmp_path / "CURRENT", {})
    assert noted.done == [
        "fsync .CURRENT.tmp",
        "replace .CURRENT.tmp",
        f"fsync {tmp_path.name}",
    ]
    noted.done.clear()
    files.write_folder(tmp_path / "s", lambda folder: (folder / "a").touch())
    assert noted.done == [
        "mkdir .s.tmp",
        "fsync a",
        "fsync .s.tmp",
        "rename .s.tmp",
        f"fsync {tmp_path.name}",
    ]


def test_a_file_for_libraries_is_cut_where_they_say(tmp_path: Path, noted: Noted) -> None:
    with files.create(tmp_path / "a") as file:
        file.write(b"0123456789")
        assert file.truncate(4) == 4
        file.seek(2)
        file.write(b"x")
        assert file.truncate() == 3
        file.seek(0)
        assert file.read() == b"01x"
    assert (tmp_path / "a").read_bytes() == b"01x"
    assert noted.done == ["truncate a", "truncate a", "fsync a"]


def test_what_cannot_be_cut_is_told_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        def __getattr__(self, name: str) -> Any:
            return getattr(os, name)

        def truncate(self, *_: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files, "os", Full())

    def write() -> None:
        with files.create(tmp_path / "a") as file:
            file.write(b"0123")
            file.truncate(2)
            file.write(b"more")

    with pytest.raises(OSError, match="No space left") as caught:
        write()
    assert caught.value.filename == str(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_two_that_make_a_folder_at_once_both_have_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process makes it between the look and the making."""

    class Faster:
        def __getattr__(self, name: str) -> Any:
            return getattr(os, name)

        def mkdir(self, path: Path) -> None:
            os.mkdir(path)
            os.mkdir(path)

    monkeypatch.setattr(files, "os", Faster())
    files.make_folder(tmp_path / "a/b/c")
    assert (tmp_path / "a/b/c").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match=r"Not a directory: '.*file'"):
        files.make_folder(tmp_path / "file/d")


def test_many_that_make_a_folder_at_once(tmp_path: Path) -> None:
    for number in range(20):
        target = tmp_path / f"{number}/a/b"
        failed: list[BaseException] = []

        def make(target: Path = target, failed: list[BaseException] = failed) -> None:
            try:
                files.make_folder(target)
            except BaseException as error:
                failed.append(error)

        threads = [threading.Thread(target=make) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failed == []
        assert target.is_dir()
