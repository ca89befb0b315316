"""``quantum prove`` beside the example: what the shell lacks is named, not only what fails for want of it."""

import pytest

from quantum_assets.checks.pack import PROOFS
from quantum_assets.checks.proof import Finding, Verdict
from quantum_ops.cli.audit.prove import OF_LIVE_DATA, _hint


def failed(*names: str) -> list[Verdict]:
    proofs = [one for one in PROOFS if one.title.rpartition("/")[2] in names]
    assert len({one.title.rpartition("/")[2] for one in proofs}) == len(names)
    return [Verdict(one, Finding("1", "0", 1, {"S1": "replay"})) for one in proofs]


def test_a_shell_without_the_setting_of_the_example_is_named() -> None:
    assert "export ALLOW_SYNTHETIC=true" in _hint(failed(*OF_LIVE_DATA), allow_synthetic=False)


@pytest.mark.parametrize(("names", "allowed"), [(("live_source",), True), (("single_stack",), False), ((), False)])
def test_what_fails_for_another_reason_gets_no_such_advice(names: tuple[str, ...], *, allowed: bool) -> None:
    assert _hint(failed(*names), allow_synthetic=allowed) == ""
