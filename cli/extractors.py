"""`reid extractors`: what can make vectors here."""

import click


@click.command(name="extractors")
def command() -> None:
    """List the extractors."""
    from extractors import DESCRIPTIONS

    from .formats import aligned

    click.echo(aligned([[name, text] for name, text in DESCRIPTIONS.items()]), nl=False)
    click.echo("vectors made elsewhere: reid build VECTORS.npy --extractor external:NAME", err=True)
