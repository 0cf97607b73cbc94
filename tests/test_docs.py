"""The documents tell the truth: the README's script runs, commands parse, options are described."""

import pkgutil
import re
import shlex
from pathlib import Path

import click
import pytest

from cli.main import main
from cli.world import draw_world

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def _blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL)


def test_the_readme_script_runs_as_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    draw_world(tmp_path / "demo" / "crops", people=6, cameras=3, crops_per_camera=1)
    monkeypatch.chdir(tmp_path)
    (script,) = _blocks(ROOT / "README.md", "python")
    assert len([line for line in script.splitlines() if line]) == 12
    exec(compile(script, "README.md", "exec"), {})
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in lines] == ["1", "2", "3", "4", "5"]
    assert all(line[1].endswith(".jpg") and line[2] in "23" for line in lines)
    scores = [float(line[3]) for line in lines]
    assert scores == sorted(scores, reverse=True)


def _commands() -> list[tuple[str, list[str]]]:
    found = []
    for path in PAGES:
        for block in _blocks(path, ""):
            for line in block.splitlines():
                if re.match(r"reid [a-z-]+( |$)", line):
                    found.append((path.name, shlex.split(line, comments=True)[1:]))
    return found


@pytest.mark.parametrize(("page", "words"), _commands())
def test_printed_commands_parse(page: str, words: list[str]) -> None:
    command = main.get_command(click.Context(main), words[0])
    assert command is not None
    command.make_context(words[0], list(words[1:]))


def test_commands_were_found() -> None:
    assert {words[0] for _, words in _commands()} >= {"build", "query", "verify"}


@pytest.mark.parametrize("name", sorted(main.commands))
def test_every_option_is_described(name: str) -> None:
    text = (ROOT / "docs" / "cli.md").read_text()
    section = re.search(rf"^## reid {name}\b(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert section is not None
    for parameter in main.commands[name].params:
        if isinstance(parameter, click.Option):
            assert f"`{parameter.opts[0]}" in section[1], parameter.opts[0]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text()):
        if not target.startswith("https://"):
            assert (path.parent / target).exists(), target


def _imports() -> list[tuple[str, str]]:
    """File and line of what the pages have readers import."""
    return [
        (page.name, line)
        for page in PAGES
        for line in re.findall(r"^from reid_index[\w.]* import [\w, ]+$", page.read_text(), re.M)
    ]


@pytest.mark.parametrize(("page", "line"), _imports())
def test_what_the_pages_import_is_there(page: str, line: str) -> None:
    exec(line, {})


def test_what_the_pages_name_in_python_is_there() -> None:
    named = {
        name for page in PAGES for name in re.findall(r"`(reid_index\.[\w.]+)`", page.read_text())
    }
    assert len(named) >= 5
    for name in named:
        pkgutil.resolve_name(name)
