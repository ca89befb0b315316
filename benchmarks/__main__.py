"""All benchmarks, one after the other, then the table: ``python -m benchmarks``, or ``make bench``. About 100 minutes.

Let nothing else run meanwhile. Each part is a program of its own: ``python -m benchmarks.cycle --help``.
"""

import subprocess
import sys

from benchmarks.report import arguments, folder, say
from benchmarks.table import PARTS, write

if __name__ == "__main__":
    parser = arguments(__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"only these of {', '.join(PARTS)}")
    chosen = parser.parse_args()
    if unknown := set(chosen.parts) - PARTS.keys():
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    into = folder(chosen)
    short = ["--short"] if chosen.short else []
    for part in chosen.parts or PARTS:
        subprocess.run([sys.executable, "-m", f"benchmarks.{part}", "--into", str(into), *short], check=True)
    say(f"table: {write(into)}")
