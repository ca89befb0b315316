"""What a scrape of the exporter costs at 566 symbols, while the loop runs: time, CPU, series.

``python -m benchmarks.scrape``: 40 scrapes of each port, more than a second apart, so that each is a look of its own. About two
minutes.
"""

import os
import re
import sys
import time
import urllib.request
from typing import Any

import psutil

from benchmarks.live import PROJECT, running
from benchmarks.report import main, say, spread
from tests.servers import free_port

SYMBOLS, SHORT_SYMBOLS = 566, 20
SCRAPES, SHORT_SCRAPES = 40, 5
EVERY_SEC = 1.5  # longer than a look is kept
WAIT_SEC = 120


def measure(*, short: bool) -> dict[str, Any]:
    """Scrape both ports of a live system."""
    count, times = (SHORT_SYMBOLS, SHORT_SCRAPES) if short else (SYMBOLS, SCRAPES)
    with running("product", count) as live:
        live.look(2, WAIT_SEC)
        ports = free_port(), free_port()
        environment = {
            **live.root.environ(),
            "EXPORTER_ALLOCATION_PORT": str(ports[0]),
            "EXPORTER_GOVERNOR_PORT": str(ports[1]),
        }
        exporter = psutil.Popen([sys.executable, "-m", "quantum_ops.cli", "exporter"], env=environment, cwd=PROJECT)
        try:
            wait_for(ports[1])
            say("the exporter answers")
            before = exporter.cpu_times()
            taken, cached, texts = [], [], {}
            for _ in range(times):
                time.sleep(EVERY_SEC)
                for kind, port in ((taken, ports[0]), (cached, ports[1])):
                    began = time.perf_counter()
                    texts[port] = scrape(port)
                    kind.append(time.perf_counter() - began)
            after = exporter.cpu_times()
            return {
                "symbols": count,
                "scrape_sec": spread(taken, 4),
                "second_port_sec": spread(cached, 4),
                "cpu_sec_per_pair": round((after.user + after.system - before.user - before.system) / times, 4),
                "memory_mb": round(exporter.memory_full_info().pss / 1e6),
                "series": {str(name): series(texts[port]) for name, port in zip(("allocation", "governor"), ports, strict=True)},
                "bytes": [len(text) for text in texts.values()],
            }
        finally:
            exporter.terminate()
            exporter.wait(10)


def wait_for(port: int) -> None:
    """Wait until a port answers and its storage is open."""
    deadline = time.monotonic() + WAIT_SEC
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=30).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        else:
            return


def scrape(port: int) -> str:
    """Scrape once."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        return str(answer.read().decode())


def series(text: str) -> int:
    """Count the series of a scrape."""
    return len(re.findall(r"^[a-z]", text, re.MULTILINE))


if __name__ == "__main__":
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    main("scrape", __doc__, measure)
