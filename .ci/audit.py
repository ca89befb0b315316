"""Audit the locked packages for known vulnerabilities, and say so loudly when they could not be: pip-audit itself passes then.

Some package indexes answer for projects and not for single releases, which pip-audit asks for. A project's page has the
advisories of its newest release: a package that is locked at that one is audited by it.

``python .ci/audit.py requirements.lock ...``; exit code 1 for findings, 0 else.
"""

import json
import re
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

PIP_AUDIT = ("-m", "pip_audit", "--require-hashes", "--disable-pip", "--progress-spinner", "off", "--format", "json")


def judge(dependencies: Sequence[Mapping[str, Any]]) -> tuple[int, str]:
    """Give the exit code and what to say of one lock."""
    findings = [f"{one['name']} {one['version']}: {vuln['id']}" for one in dependencies for vuln in one.get("vulns", ())]
    skipped = [one["name"] for one in dependencies if "skip_reason" in one]
    lines = [f"{len(dependencies)} packages, {len(dependencies) - len(skipped)} audited, {len(findings)} findings", *findings]
    if skipped:
        lines.append(f"NOT AUDITED: {len(skipped)} of {len(dependencies)}. Nobody could be asked; this is no clean audit:")
        lines.append(", ".join(skipped))
    return int(bool(findings)), "\n".join(lines)


def project_page(name: str) -> Mapping[str, Any]:
    """Ask the package index for a project: ``info.version`` is its newest release, ``vulnerabilities`` are that one's.

    Raises
    ------
    OSError, ValueError
        It does not answer, or not so.
    """
    with urllib.request.urlopen(f"https://pypi.org/pypi/{name}/json", timeout=30) as answer:
        page: Mapping[str, Any] = json.loads(answer.read())
        return page


def ask_again(
    dependency: Mapping[str, Any], locked: Mapping[str, str], page_of: Callable[[str], Mapping[str, Any]] = project_page
) -> Mapping[str, Any]:
    """Judge a package that was skipped by its project's page, if it is locked at the newest release."""
    name = dependency["name"]
    if "skip_reason" not in dependency or name not in locked:
        return dependency
    try:
        page = page_of(name)
        if page["info"]["version"] != locked[name]:
            return dependency
        return {"name": name, "version": locked[name], "vulns": [{"id": vuln["id"]} for vuln in page["vulnerabilities"]]}
    except (OSError, ValueError, KeyError, TypeError):
        return dependency


def main(locks: Sequence[str]) -> int:
    """Audit each lock."""
    worst = 0
    for lock in locks:
        asked = subprocess.run([sys.executable, *PIP_AUDIT, "--requirement", lock], capture_output=True, text=True, check=False)
        locked = dict(re.findall(r"^([\w.-]+)(?:\[[\w,-]+\])?==([^\s;]+)", Path(lock).read_text(), re.MULTILINE))
        try:
            with ThreadPoolExecutor(8) as pool:
                answers = list(pool.map(partial(ask_again, locked=locked), json.loads(asked.stdout)["dependencies"]))
            code, text = judge(answers)
        except ValueError:  # nothing but complaints
            code, text = 0, f"NOT AUDITED at all: {asked.stderr.strip()[-500:]}"
        sys.stdout.write(f"{Path(lock).name}: {text}\n")
        worst = max(worst, code)
    return worst


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
