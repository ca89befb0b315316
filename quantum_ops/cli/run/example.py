"""``quantum example``: something to compute for plain ``dagster dev``, which starts neither a server nor a feed."""

from __future__ import annotations

import click

from quantum_core.settings import load_settings
from quantum_ops.cli import given
from quantum_ops.cli.run.up import embedded_port

OTHER_SHELL = "ALLOW_SYNTHETIC=true dagster dev"  # without it nothing is ever permitted: the data is not live


@click.command()
@click.option("--symbols", help="Comma-separated; default: SYMBOLS.")
def example(symbols: str | None) -> None:
    """Play recorded candles and example positions: into an embedded Valkey, or into REDIS_URL when it is set.

    \b
    quantum example                               in one shell
    ALLOW_SYNTHETIC=true dagster dev              in another one

    Ctrl-C stops it. `quantum up --replay DIR --examples` starts the same and everything else. Exit codes: 0 stopped as asked;
    1 the instance folder is in use; 2 wrong settings; 3 REDIS_URL does not answer.
    """
    settings = load_settings(**given(symbols=symbols))
    from quantum_ops.processes.stack import example_feed, supervisor, valkey
    from resources.instance.home import lock_home, prepare_home

    if not settings.uses_embedded_server:
        from quantum_ops.doctor.server_needs import require_usable

        require_usable(settings)
    home = prepare_home(settings)
    with lock_home(home):
        port = embedded_port(settings)
        feed = example_feed("--symbols", ",".join(settings.symbols))
        listed = [feed] if port is None else [valkey(port), feed]
        click.echo(f"Examples are played into {settings.redis_address}. In another shell: {OTHER_SHELL}. Ctrl-C stops.", err=True)
        try:
            supervisor(listed, home).start()
        finally:
            if port is not None:
                settings.embedded_url_file.unlink(missing_ok=True)
    click.echo("Stopped.", err=True)
