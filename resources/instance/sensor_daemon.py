"""Dagster's daemon, whose sensors go on when the clock is set back.

Started as ``python -m resources.instance.sensor_daemon run -w WORKSPACE``.
"""

from dagster._daemon.cli import main

from resources.instance.dagster_internals import ignore_future_ticks

if __name__ == "__main__":
    ignore_future_ticks()
    main()
