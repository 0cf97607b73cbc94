"""`reid explain`: what a trained model looks at, crop by crop."""

from pathlib import Path

import click

from reid_index.errors import UsageError

from .paths import PATH


@click.command(name="explain", short_help="Draw what MODEL looks at on CROPS.")
@click.argument("model", type=PATH)
@click.argument("crops", nargs=-1, required=True, type=PATH)
@click.option("--out", required=True, type=PATH, help="The sheet: a .png or .html file.")
@click.option("--gallery", type=PATH, help="Also each crop's best matches in this gallery.")
@click.option("--top", type=click.IntRange(1, 20), default=5, show_default=True, help="Matches.")
@click.option("--where", metavar="EXPR", help="Only items of the gallery for which this holds.")
@click.option("--not-own-camera", is_flag=True, help="No matches from the crop's own camera.")
@click.option("--root", type=PATH, help="Where the gallery's pictures are now.")
@click.option("--title", help="Of the sheet [default: it has the model's name]")
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")
@click.option("--strict", is_flag=True, help="Fail at the first crop that cannot be read.")
def command(
    model: Path,
    crops: tuple[Path, ...],
    out: Path,
    gallery: Path | None,
    top: int,
    where: str | None,
    not_own_camera: bool,
    root: Path | None,
    title: str | None,
    device: str,
    strict: bool,
) -> None:
    """Draw where on CROPS, picture files or folders of them, the map of MODEL is strong.

    MODEL is a file of `reid train`, or the word `default` for the model that comes along.
    """
    if out.suffix.lower() not in (".png", ".html"):
        raise UsageError(f"--out {out}: a .png or .html file, please")
    if not out.absolute().parent.is_dir() or out.is_dir():
        raise UsageError(f"--out {out}: name a file in a folder that is there")
    if gallery is None and (where is not None or not_own_camera or root is not None):
        raise UsageError("--where, --not-own-camera and --root are about a --gallery: name it")
    from extractors.trained import DEFAULT
    from reid_index.files import replace_file

    from .explained import explain
    from .formats import counted
    from .heat_sheet import page, picture

    rows = explain(
        DEFAULT if str(model) == "default" else model,
        crops,
        gallery=gallery,
        top=top,
        where=where,
        not_own_camera=not_own_camera,
        root=root,
        device=device,
        strict=strict,
    )
    draw = picture if out.suffix.lower() == ".png" else page
    replace_file(out, draw(rows, title=title or f"What {model.name} looks at"))
    click.echo(f"{out}: {counted(len(rows), 'crop')}", err=True)
