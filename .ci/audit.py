"""Audit the locked packages for known vulnerabilities, and say so loudly when they could not be: pip-audit itself passes then.

``python .ci/audit.py requirements.lock ...``; exit code 1 for findings, 0 else.
"""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PIP_AUDIT = ("-m", "pip_audit", "--require-hashes", "--disable-pip", "--progress-spinner", "off", "--format", "json")


def judge(dependencies: Sequence[Mapping[str, Any]]) -> tuple[int, str]:
    """Give the exit code and what to say of one lock."""
    found = [f"{one['name']} {one['version']}: {vuln['id']}" for one in dependencies for vuln in one.get("vulns", ())]
    skipped = [one["name"] for one in dependencies if "skip_reason" in one]
    lines = [f"{len(dependencies)} packages, {len(dependencies) - len(skipped)} audited, {len(found)} findings", *found]
    if skipped:
        lines.append(f"NOT AUDITED: {len(skipped)} of {len(dependencies)}. Nobody could be asked; this is no clean audit.")
    return int(bool(found)), "\n".join(lines)


def main(locks: Sequence[str]) -> int:
    """Audit each lock."""
    worst = 0
    for lock in locks:
        asked = subprocess.run([sys.executable, *PIP_AUDIT, "--requirement", lock], capture_output=True, text=True, check=False)
        try:
            code, text = judge(json.loads(asked.stdout)["dependencies"])
        except ValueError:  # nothing but complaints
            code, text = 0, f"NOT AUDITED at all: {asked.stderr.strip()[-500:]}"
        sys.stdout.write(f"{Path(lock).name}: {text}\n")
        worst = max(worst, code)
    return worst


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
