"""Imports run down only: definitions, sensors, assets, resources, core; operations may use everything, and nothing uses them."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from quantum_assets.checks.evidence import PACKAGES as PROVEN

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = (*PROVEN, "quantum_feed")
PRIVATE = re.compile(r"^\s*(?:from|import) dagster\w*\._", re.MULTILINE)

FORBIDDEN = [
    ("resources uses an asset", "resources/calc_only.py", "from quantum_assets.shared import rows", "Imports run down only"),
    ("an asset uses a command", "quantum_assets/shared/rows.py", "import quantum_ops.report", "Imports run down only"),
    ("the core knows Redis", "quantum_core/freshness.py", "import redis", "What all stand on"),
    ("the core uses the store", "quantum_core/display.py", "import resources.store.redis_store", "Imports run down only"),
    ("an asset uses the assembly", "quantum_assets/shared/rows.py", "import definitions", "The assembly"),
]


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """The source, to be changed."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__", "sample"))
    for name in ("definitions.py", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def judged(folder: Path) -> tuple[int, str]:
    """Run the check as `make check` does."""
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    done = subprocess.run(command, cwd=folder, env={"PYTHONPATH": str(folder)}, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


def test_no_import_runs_up(copied: Path) -> None:
    """What lands is in its layer."""
    status, report = judged(copied)
    assert (status, "0 broken" in report) == (0, True), report


@pytest.mark.slow
@pytest.mark.parametrize(("path", "line", "contract"), [row[1:] for row in FORBIDDEN], ids=[row[0] for row in FORBIDDEN])
def test_an_import_that_runs_up_is_refused(copied: Path, path: str, line: str, contract: str) -> None:
    """The check can fail, and names the contract that is broken."""
    file = copied / path
    file.write_text(file.read_text() + f"\n{line}\n")
    status, report = judged(copied)
    assert status == 1
    assert re.search(rf"{re.escape(contract)}.* BROKEN", report), report


def test_no_package_escapes_the_proofs() -> None:
    """What is proven of the source is proven of all packages but the feed; a folder that moves must not fall out of sight."""
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert set(PACKAGES) == packages - {"tests", "benchmarks"}


def test_dagsters_private_parts_are_used_in_one_package() -> None:
    """An upgrade of Dagster is examined there, and nowhere else."""
    used = {
        str(file.relative_to(ROOT))
        for package in PACKAGES
        for file in (ROOT / package).rglob("*.py")
        if PRIVATE.search(file.read_text())
    }
    assert used, "nothing was found at all: the pattern is wrong"
    assert {path for path in used if not path.startswith("resources/instance/")} == set()
