"""`reid demo`: the whole way on a small world of drawn people, in a few seconds."""

import shutil
from pathlib import Path

import click

from .paths import PATH

_OURS = ("crops", "gallery", "sheet.html", "SYNTHETIC.txt")


@click.command(name="demo", short_help="Show the whole way on synthetic people.")
@click.option(
    "--out",
    type=PATH,
    default=Path("demo"),
    show_default=True,
    help="Folder.",
)
@click.option("--people", type=click.IntRange(2, 500), default=36, show_default=True)
@click.option("--cameras", type=click.IntRange(2, 9), default=5, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.pass_context
def command(ctx: click.Context, out: Path, people: int, cameras: int, seed: int) -> None:
    """Draw synthetic pedestrians, build a gallery of them, look for one, write the sheet."""
    from . import build, query
    from .world import draw_world

    _make_room(out)
    crops, gallery, sheet = out / "crops", out / "gallery", out / "sheet.html"
    # First, for it tells the next run that what a broken-off one left here may go.
    (out / "SYNTHETIC.txt").write_text("Everything here is drawn by `reid demo`; nobody is real.\n")
    count = draw_world(crops, people=people, cameras=cameras, seed=seed)
    click.echo(f"drew {count} crops of {people} synthetic people in {cameras} cameras: {crops}")
    target = sorted(crops.glob("*.jpg"))[count // 3]

    click.echo(f"\n$ reid build {crops} --out {gallery}")
    ctx.invoke(build.command, sources=(crops,), out=gallery)
    click.echo(f"\n$ reid query {gallery} {target} --not-camera own --top 10")
    asked = {"gallery": gallery, "target": target, "not_camera": ("own",)}
    ctx.invoke(query.command, **asked, k=10)
    click.echo(f"\n$ reid query {gallery} {target} --not-camera own --format html --out {sheet}")
    title = f"Synthetic people: {target.name} in {gallery}"
    ctx.invoke(query.command, **asked, form="html", title=title, out=sheet)
    click.echo(f"\nThe sheet of answers, all synthetic: {sheet.absolute()}")


def _make_room(out: Path) -> None:
    """Remove an earlier demo; refuse a folder that is something else."""
    from reid_index.errors import UsageError

    if out.exists() and any(out.iterdir()) and not (out / "SYNTHETIC.txt").exists():
        raise UsageError(f"{out} holds something else than a demo; choose another --out")
    for name in _OURS:
        path = out / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    out.mkdir(parents=True, exist_ok=True)
