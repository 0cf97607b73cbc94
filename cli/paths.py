"""How commands take paths."""

from pathlib import Path

import click

PATH = click.Path(path_type=Path, readable=False)
"""Whether it can be read is for the job to find out, which fails then, and was not used wrongly."""
