"""`reid costs`: what comparing costs on this machine, by which each search takes its way."""

import click


@click.command(name="costs")
@click.option("--measure", is_flag=True, help="Measure again, which takes a second.")
def command(measure: bool) -> None:
    """Show what comparing vectors costs on this machine.

    Measured once, by the first large search or by --measure, and kept with the user's caches. Each
    query takes the way that these costs say is fastest; `reid query --explain` shows them.
    """
    from reid_index.search.costs import costs_file, kept_costs, measured_costs, present_costs

    costs = measured_costs() if measure else present_costs(0)
    click.echo(f"machine   {costs.machine}")
    when = costs.measured or "not yet: these are of a typical machine"
    click.echo(f"measured  {when}")
    file = costs_file()
    if kept_costs() == costs:
        kept = str(file)
    elif measure:
        kept = f"- ({file or 'the home folder, which there is none of,'} cannot be written)"
    elif file is not None and file.exists():
        kept = f"- ({file} is not used: another machine's, or damaged)"
    else:
        kept = "-"
    click.echo(f"kept in   {kept}")
    click.echo("\nms for 512 dimensions        1 query   32 queries")
    for rows in (1_000, 10_000, 100_000, 1_000_000):
        ways = {
            "scan": [costs.scan(rows, 512, queries, listed=True) for queries in (1, 32)],
            "products": [
                costs.product(rows, 512, queries, listed=True, half=False) for queries in (1, 32)
            ],
        }
        for way, (one, many) in ways.items():
            click.echo(f"{rows:9,} rows  {way:8s}  {1000 * one:9.3g}    {1000 * many:9.3g}")
