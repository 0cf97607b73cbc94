"""`reid verify`: is every byte of a gallery as it was written?"""

from pathlib import Path

import click

from .progress import progress_bar


@click.command(name="verify", short_help="Check every byte of GALLERY.")
@click.argument("gallery", type=click.Path(path_type=Path))
@click.pass_context
def command(ctx: click.Context, gallery: Path) -> None:
    """Read every byte of GALLERY; exit 1 and name the file if anything is wrong."""
    from reid_index import Gallery, verify_gallery
    from reid_index.verify import all_files

    opened = Gallery.open(gallery)
    files = [entry.size for _, entry in all_files(opened)]
    with progress_bar(sum(files), unit="B") as bar:
        problems = verify_gallery(opened, progress=bar.update)
    for problem in problems:
        click.echo(problem)
    if problems:
        remedy = "restore what is named from a copy, or make it again where a command is named"
        click.echo(f"reid: {gallery} is damaged: {remedy}", err=True)
        ctx.exit(1)
    click.echo(
        f"{gallery} is whole: {len(opened):,} items, {len(files)} files, {sum(files):,} bytes"
    )
