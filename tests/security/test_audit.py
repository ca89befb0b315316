"""The audit of dependencies: a finding fails, and an audit that did not take place does not pass for a clean one."""

import runpy
from pathlib import Path

judge = runpy.run_path(str(Path(__file__).resolve().parents[2] / ".ci" / "audit.py"))["judge"]


def test_a_finding_fails_and_a_package_nobody_could_ask_about_is_told_loudly() -> None:
    """pip-audit says "No known vulnerabilities found" when it could ask about nothing."""
    sound = {"name": "a", "version": "1", "vulns": []}
    found = {"name": "b", "version": "2", "vulns": [{"id": "PYSEC-1"}]}
    unknown = {"name": "c", "skip_reason": "could not be audited"}
    assert judge([sound]) == (0, "1 packages, 1 audited, 0 findings")
    code, text = judge([sound, found, unknown])
    assert code == 1
    assert "b 2: PYSEC-1" in text
    assert "NOT AUDITED: 1 of 3" in text
    assert judge([unknown])[0] == 0
