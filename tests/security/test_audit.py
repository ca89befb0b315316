"""The audit of dependencies: a finding fails, and an audit that did not take place does not pass for a clean one."""

import runpy
from pathlib import Path

AUDIT = runpy.run_path(str(Path(__file__).resolve().parents[2] / ".ci" / "audit.py"))
judge, ask_again = AUDIT["judge"], AUDIT["ask_again"]


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


def test_a_package_is_judged_by_its_projects_page_only_at_the_newest_release() -> None:
    """The page says nothing about older ones."""
    page = {"info": {"version": "2"}, "vulnerabilities": [{"id": "PYSEC-2"}]}
    skipped = {"name": "c", "skip_reason": "could not be audited"}
    assert ask_again(skipped, {"c": "2"}, lambda _: page)["vulns"] == [{"id": "PYSEC-2"}]
    assert ask_again(skipped, {"c": "2"}, lambda _: {**page, "vulnerabilities": []})["vulns"] == []
    for locked, answer in (({"c": "1"}, page), ({}, page), ({"c": "2"}, {"info": {"version": "2"}}), ({"c": "2"}, {})):
        assert ask_again(skipped, locked, lambda _, answer=answer: answer) == skipped
    judged = {"name": "c", "version": "2", "vulns": []}
    assert ask_again(judged, {"c": "2"}, lambda _: page) == judged
