"""Dagster's daemon, whose sensors go on when the clock is set back: ``python -m resources.sensor_daemon run -w WORKSPACE``."""

from dagster._daemon.cli import main

from resources.dagster_internals import ignore_future_ticks

if __name__ == "__main__":
    ignore_future_ticks()
    main()
