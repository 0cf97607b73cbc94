"""What the tests of the command line share: running it, and reading what it leaves behind."""

import os
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from cli.main import main
from extractors.stripes import StripesExtractor

REPOSITORY = Path(__file__).parents[1]
DATA = REPOSITORY.parent / "shared" / "data"
REID = [sys.executable, "-c", "from cli.main import main; main()"]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(REPOSITORY)}


def run(*arguments):
    """`reid` with those arguments, in this process."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def succeed(*arguments):
    result = run(*arguments)
    assert result.exit_code == 0, result.stderr
    return result


def assert_refused(result, *, code, text):
    """One line that begins with "reid: " on standard error, nothing on standard output."""
    assert (result.exit_code, result.stdout) == (code, ""), result.stderr
    assert result.stderr.startswith("reid: ")
    assert result.stderr.endswith("\n")
    assert result.stderr.count("\n") == 1
    assert text in result.stderr


def tree(folder):
    """Path → bytes of every file below a folder, None for every folder."""
    return {
        path.relative_to(folder): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def stripes_of(*pixels):
    """Unit vectors (n, D) of RGB arrays, by the extractor alone."""
    vectors = StripesExtractor().extract([np.asarray(array) for array in pixels]).global_
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def pixels_of(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def real(*parts):
    """A file or folder of the real data; skips the test where it is not there."""
    path = DATA.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"no real data: {path} is not there")
    return path


class Sheet(HTMLParser):
    """The cards of an answer sheet: (rank, item, person, verdict, whether it has a picture)."""

    def __init__(self, html):
        super().__init__()
        self.cards = []
        self.query_pictures = 0
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        if tag == "li" and "data-rank" in values:
            names = ("data-rank", "data-item", "data-person", "data-verdict")
            self.cards.append([values.get(name) for name in names] + [False])
        if tag == "img" and self.cards:
            self.cards[-1][-1] = True
        elif tag == "img":
            self.query_pictures += 1
