"""The command `reid`: its subcommands, and how their errors become one line and an exit code.

Command modules import nothing heavy at the top; that is imported inside the command.
"""

import click

from reid_index.errors import ReidIndexError, WhereError

from . import (
    add,
    attributes,
    build,
    calibrate,
    compact,
    costs,
    delete,
    demo,
    evaluate,
    explain,
    extractors,
    graph,
    index,
    inspect,
    judge_attributes,
    match,
    query,
    rebuild,
    track,
    train,
    verify,
)


class _Reid(click.Group):
    """A group whose errors are one line for a person; a traceback only with --debug."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except Exception as error:
            if ctx.params["debug"]:
                raise
            click.echo(f"reid: {_message(error)}", err=True)
            ctx.exit(error.exit_code if isinstance(error, ReidIndexError) else 1)


def _message(error: Exception) -> str:
    """One line; those of a where expression have it and a caret below."""
    from .formats import printable

    if isinstance(error, WhereError):
        return str(error)
    if isinstance(error, ReidIndexError):
        return printable(str(error))
    if isinstance(error, OSError) and error.strerror:
        path = error.filename2 or error.filename
        told = f"{path}: {error.strerror}" if path else error.strerror
        return printable("; ".join([told, *getattr(error, "__notes__", ())]))
    return printable(
        f"this is a fault of reid-index ({type(error).__name__}: {error}); "
        "please report it with what `reid --debug` prints"
    )


@click.group(cls=_Reid, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show a traceback when something fails.")
@click.version_option(package_name="reid-index")
def main(debug: bool) -> None:
    """Find a person again among crops from other cameras.

    Results go to standard output, progress and messages to standard error. Exit code 1 is a job
    that failed, 2 is wrong usage.
    """


for command in (
    build.command,
    add.command,
    delete.command,
    compact.command,
    rebuild.command,
    attributes.command,
    query.command,
    match.command,
    graph.command,
    index.command,
    calibrate.command,
    evaluate.command,
    judge_attributes.command,
    inspect.command,
    verify.command,
    costs.command,
    extractors.command,
    track.command,
    train.command,
    explain.command,
    demo.command,
):
    main.add_command(command)
