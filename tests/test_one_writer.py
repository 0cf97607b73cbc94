"""One small writer makes all that is in galleries, so that tests can spoil each of its calls: see
test_faults.py. Here it is seen to that nobody writes past it."""

import ast
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]

WRITING = {
    *("write_bytes", "write_text", "touch", "mkdir", "makedirs", "rename", "renames", "replace"),
    *("unlink", "rmdir", "rmtree", "removedirs", "symlink", "symlink_to", "link", "hardlink_to"),
    *("truncate", "ftruncate", "pwrite", "writev", "pwritev", "sendfile", "fsync", "fdatasync"),
    *("save", "savez", "savez_compressed", "savetxt", "tofile", "savefig", "write_index"),
    *("write_table", "write_csv", "write_feather", "write_dataset", "ParquetWriter", "File"),
}
"""Names of what changes files or folders, in the libraries that are used here."""

ELSEWHERE = {
    ("reid_index/store/commit.py", "open"): "the lock, which holds nothing",
    (
        "reid_index/search/costs.py",
        "mkdir",
    ): "what the machine costs is kept with the user's caches",
    ("reid_index/search/index.py", "write_index"): "to a file of files.create",
    ("reid_index/store/lease.py", "open"): "to lock, which NFS allows only to who could write",
    ("reid_index/reading.py", "open"): "to read, without waiting where it is a pipe",
    ("reid_index/erasure/receipt.py", "rmtree"): "a receipt, which the user keeps elsewhere",
    ("reid_index/erasure/receipt.py", "shutil"): "the same",
    ("reid_index/erasure/receipt.py", "tempfile"): "the same",
    ("reid_index/store/overlays.py", "write_table"): "to a file of files.create",
    ("reid_index/store/shard.py", "ParquetWriter"): "to a file of files.create",
    ("reid_index/store/shard.py", "write_table"): "by that",
    ("reid_index/store/vectors.py", "File"): "to a file of files.create",
    ("extractors/training/state.py", "save"): "to memory",
    ("cli/demo.py", "mkdir"): "a folder of pictures that are drawn",
    ("cli/demo.py", "rmtree"): "the same",
    ("cli/demo.py", "shutil"): "the same",
    ("cli/demo.py", "unlink"): "the same",
    ("cli/demo.py", "write_text"): "the same",
    ("cli/world.py", "mkdir"): "the same",
    ("cli/world.py", "save"): "the same",
    ("cli/evaluate.py", "replace"): "a table that the user names",
    ("cli/evaluate.py", "unlink"): "the same",
    ("cli/evaluate.py", "write_csv"): "the same",
    ("cli/evaluate.py", "write_table"): "the same",
    ("cli/plots.py", "savefig"): "to memory",
    ("cli/report.py", "mkdir"): "a folder of pictures that the user names",
    ("cli/sheet.py", "save"): "to memory",
    ("cli/crowd.py", "tempfile"): "vectors that are forgotten when it is decided who is the same",
    ("cli/heat_sheet.py", "save"): "to memory",
    ("cli/matrix.py", "ParquetWriter"): "to a file of files.create",
    ("cli/matrix.py", "write_table"): "by that",
    ("cli/sides.py", "tempfile"): "vectors that are forgotten when the figures are there",
}
"""Where something is written elsewhere, by what, and why it may be."""


def test_nothing_is_written_but_by_the_one_writer() -> None:
    found = {
        (str(path.relative_to(REPOSITORY)), name)
        for package in ("reid_index", "extractors", "cli")
        for path in sorted((REPOSITORY / package).rglob("*.py"))
        if path != REPOSITORY / "reid_index" / "files.py"
        for name in writing_in(path.read_text())
    }
    assert found == ELSEWHERE.keys()


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("open(path, 'w')", "open"),
        ("open(path, mode='r+b')", "open"),
        ("path.open('ab')", "open"),
        ("open(path, mode)", "open"),
        ("os.open(path, os.O_RDWR | os.O_CREAT)", "open"),
        ("os.remove(path)", "remove"),
        ("os.write(descriptor, content)", "write"),
        ("path.replace(other)", "replace"),
        ("path.unlink(missing_ok=True)", "unlink"),
        ("keep(path.write_bytes)", "write_bytes"),
        ("h5py.File(path, 'w')", "File"),
        ("np.save(path, array)", "save"),
        ("from os import rename", "os"),
        ("from shutil import rmtree", "shutil"),
        ("import tempfile as t", "tempfile"),
    ],
)
def test_whatever_writes_would_be_seen(code: str, name: str) -> None:
    assert writing_in(code) == {name}


@pytest.mark.parametrize(
    "code",
    [
        "open(path)",
        "path.open('rb')",
        "os.open(path, os.O_RDONLY)",
        "gallery.open(path)",
        "text.replace('a', 'b')",
        "time.replace(tzinfo=UTC)",
        "replace(manifest, generation=1)",
        "files.rename(path, other)",
        "h5py.File(path, 'r')",
        "names.remove(name)",
    ],
)
def test_what_does_not_write_is_let_be(code: str) -> None:
    assert writing_in(code) == set()


def writing_in(code: str) -> set[str]:
    """What changes files or folders in some Python code, by name."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {alias.name for alias in node.names}
            modules = names if isinstance(node, ast.Import) else {node.module}
            found |= modules & {"shutil", "tempfile"} | (modules - names) & {"os"}
        elif isinstance(node, ast.Call) and named(node.func) in ("open", "File", "replace"):
            found |= {named(node.func)} if writes(node) else set()
        elif isinstance(node, ast.Attribute) and node.attr not in ("File", "replace"):
            owner = named(node.value)
            in_os = owner == "os" and node.attr in ("write", "remove")
            found |= {node.attr} if in_os or (node.attr in WRITING and owner != "files") else set()
    return found


def named(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def writes(call: ast.Call) -> bool:
    """Whether a call of something called `open`, `File` or `replace` may change a file."""
    name, owner = named(call.func), named(getattr(call.func, "value", call.func))
    if name == "replace":
        return isinstance(call.func, ast.Attribute) and len(call.args) == 1 and owner != "files"
    modes = [one.value for one in call.keywords if one.arg == "mode"]
    if name == "open" and isinstance(call.func, ast.Attribute) and owner != "os":
        modes += [one for one in call.args[:1] if isinstance(one, ast.Constant)]
    else:
        modes += call.args[1:2]
    return any(ast.unparse(mode) not in READING for mode in modes)


READING = {"'r'", "'rb'", "os.O_RDONLY"}
