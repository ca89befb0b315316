"""Dagster's daemon, woken by the bell, whose sensors go on when the clock is set back. Checked on dagster 1.13.27.

Started as ``python -m resources.instance.sensor_daemon run -w WORKSPACE``. Stock, it asks every sensor each 5 s. Here a sensor
that the bell has rung for is asked at once; the others keep to their 5 s, whose phase no ring shifts. ``EVENTS=off`` leaves the
grid alone. ``tests/instance/test_bell.py`` fails when an upgrade of Dagster changes what this relies on.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from dagster._core.remote_representation.external import RemoteSensor
from dagster._core.scheduler.instigation import InstigatorState
from dagster._core.utils import InheritContextThreadPoolExecutor
from dagster._daemon import daemon as daemons
from dagster._daemon import sensor as stock_daemon
from dagster._daemon.cli import main

from quantum_core.settings import load_settings
from resources.inputs.news import NewsFilter
from resources.instance.bell import GRID_SEC, Bell
from resources.instance.dagster_internals import AHEAD_SEC
from resources.store.redis_store import RedisStore

NAMED_AGAIN_SEC = 60.0  # a clock that was set back is named once, although every sensor meets it
TICKS_AT_ONCE = 4  # so that no long tick keeps a plan waiting
ENDED_SEC = 0.5  # until the daemon notices that it is to end
STILL_RUNS_SEC = 0.03  # until a sensor is asked again whose last tick still runs

log = logging.getLogger("quantum.daemon")


def ignore_future_ticks() -> None:
    """Let the daemon of this process take a sensor for due whose last tick lies in the future; that tick resets it.

    Dagster asks whether the last tick is long enough ago. When the clock is set back by an hour, the answer is no for an hour.
    """
    stock, named = stock_daemon.get_elapsed, -math.inf

    def get_elapsed(state: InstigatorState) -> float | None:
        nonlocal named
        elapsed = stock(state)
        if elapsed is None or elapsed >= 0:
            return elapsed
        if elapsed < -AHEAD_SEC and time.monotonic() - named > NAMED_AGAIN_SEC:  # each sensor finds out for itself
            named = time.monotonic()
            log.warning("the clock was set back: the last tick lies %.0f s ahead; sensors go on from now", -elapsed)
        return None

    stock_daemon.get_elapsed = get_elapsed


class Turns:
    """When the daemon goes round its sensors, and which of them it may ask; in place of the event that ends its loop.

    Parameters
    ----------
    event
        The one that ends it. The stock loop uses it for nothing but to wait for the rest of 5 s.
    bell
        Without one, every turn is of the grid.
    """

    def __init__(self, event: threading.Event, bell: Bell | None, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.event, self.bell = event, bell
        self._loop, self._monotonic = threading.current_thread(), monotonic
        self._grid = monotonic()
        self._of_grid = True

    def wait(self, rest_sec: float) -> bool:
        """Wait for the next turn: what is left of 5 s, or until somebody is to be woken.

        The rest was reckoned by the clock; across a step of it, it may be an hour.
        """
        if self.bell is None:
            return self.event.wait(min(rest_sec, GRID_SEC))
        behind = self._monotonic() - self._grid
        grid = self._grid + GRID_SEC * (math.floor(behind / GRID_SEC) + 1)
        self.bell.postpone(STILL_RUNS_SEC)
        while not self.event.is_set():
            if self.bell.listen(min(grid, self._monotonic() + ENDED_SEC)) or self._monotonic() >= grid:
                break
        self._of_grid = self._monotonic() >= grid
        if self._of_grid:
            self._grid = grid
        return self.event.is_set()

    def is_under_min_interval(self, stock: Any, state: InstigatorState, sensor: RemoteSensor, *more: Any) -> bool:
        """Return whether it is too soon to ask a sensor.

        Dagster's loop asks first, then the thread that makes the tick: a sensor whose last tick still runs stays due in between.
        """
        if self.bell is None or (sensor.min_interval_seconds or 0) > GRID_SEC:
            return bool(stock(state, sensor, *more))
        if threading.current_thread() is not self._loop:
            return not self.bell.take(sensor.name)
        if self._of_grid:
            self.bell.ring(sensor.name, at_once=True)
        return not self.bell.is_due(sensor.name)


def wake_by_the_bell(bell: Bell | None) -> None:
    """Have the daemons of this process wait in turns, and the sensors' ticks run beside each other."""
    stock_loop, stock_interval = stock_daemon.execute_sensor_iteration_loop, stock_daemon.is_under_min_interval

    def loop(context: Any, logger: Any, shutdown_event: threading.Event, *arguments: Any, **named: Any) -> Any:
        turns = Turns(shutdown_event, bell)
        stock_daemon.is_under_min_interval = lambda *asked: turns.is_under_min_interval(stock_interval, *asked)
        if bell is not None and named.get("threadpool_executor") is None:
            named["threadpool_executor"] = InheritContextThreadPoolExecutor(TICKS_AT_ONCE, "sensor_tick")
        return stock_loop(context, logger, turns, *arguments, **named)  # type: ignore[arg-type]

    vars(daemons)["execute_sensor_iteration_loop"] = loop
    vars(daemons)["time"] = SimpleNamespace(time=time.monotonic, sleep=time.sleep)  # the others wait by the clock


if __name__ == "__main__":
    ignore_future_ticks()
    settings = load_settings()
    wake_by_the_bell(Bell(settings, NewsFilter(RedisStore(settings)).is_news) if settings.events else None)
    main()
