"""Time and memory of reading five million candles, each kind of file in a process of its own."""

import gzip
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import polars as pl

from benchmarks.report import arguments, say

ROWS, ROWS_SHORT = 5_000_000, 50_000
START_MS = 1_451_606_400_000


def write(folder: Path, rows: int) -> list[Path]:
    """Write the same candles in every kind of file."""
    frame = pl.select(
        date=pl.int_range(START_MS, START_MS + 60_000 * rows, 60_000),
        open=pl.lit(100.0),
        high=pl.lit(100.2),
        low=pl.lit(99.8),
        close=(100 + pl.int_range(rows) % 9 * 0.01).round(2),
        volume=pl.lit(5.0),
    )
    plain, dated, newest_first = folder / "plain.csv", folder / "dated.csv", folder / "newest-first.csv"
    frame.write_csv(plain, include_header=False)
    frame.with_columns(pl.from_epoch("date", "ms").dt.strftime("%Y-%m-%d %H:%M:%S")).write_csv(dated)
    frame.reverse().write_csv(newest_first)
    frame.write_ipc(folder / "plain.feather", compression="lz4")
    with plain.open("rb") as source, gzip.open(folder / "plain.csv.gz", "wb", 3) as target:
        shutil.copyfileobj(source, target, 1 << 20)
    with zipfile.ZipFile(folder / "plain.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=3) as archive:
        archive.write(plain, plain.name)
    return sorted(folder.iterdir())


def measure(path: Path) -> None:
    """Read one file, and print rows, seconds and the greatest memory of this process as JSON."""
    began = time.perf_counter()
    from quantum_ops.recordings.ohlcv_files import read_ohlcv

    rows = read_ohlcv(path).frame.height
    usage = resource.getrusage(resource.RUSAGE_SELF)
    figures = {"rows": rows, "wall_sec": time.perf_counter() - began, "cpu_sec": usage.ru_utime + usage.ru_stime}
    sys.stdout.write(json.dumps({**figures, "memory_mb": usage.ru_maxrss / 1024}))


if __name__ == "__main__":
    parser = arguments(__doc__)
    parser.add_argument("--measure", type=Path, help="read only this file, here")
    chosen = parser.parse_args()
    if chosen.measure:
        measure(chosen.measure)
        sys.exit()
    with tempfile.TemporaryDirectory() as folder:
        for path in write(Path(folder), ROWS_SHORT if chosen.short else ROWS):
            command = [sys.executable, "-m", "benchmarks.candle_files", "--measure", str(path)]
            figures = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            say(f"{path.name}: " + ", ".join(f"{name} {value:,.1f}" for name, value in figures.items()))
