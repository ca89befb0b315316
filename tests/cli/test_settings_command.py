"""`quantum settings`: the page of settings is theirs, and no secret is shown."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from quantum_core.settings import Settings
from quantum_ops.cli.audit.settings import reference, settings


def test_the_page_of_settings_is_the_one_generated_from_them_and_explains_each() -> None:
    """A reference that drifts is worse than none."""
    assert (Path(__file__).resolve().parents[2] / "docs" / "settings.md").read_text() == reference()
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_what_is_in_force_is_shown_and_secrets_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QUANTUM_HOME")
    monkeypatch.setenv("REDIS_URL", "redis://user:planted@127.0.0.1:6399/0")
    monkeypatch.setenv("ALERT_URLS", "json://planted, json://planted2")
    monkeypatch.setenv("MARKETSTATE_SYMBOLS", "AAUSDT # the legacy name")
    text, table = (CliRunner().invoke(settings, options).output for options in (["--json"], []))
    told = json.loads(text)
    assert (told["REDIS_URL"], told["ALERT_URLS"], told["SYMBOLS"]) == ("(hidden)", "(hidden),(hidden)", "AAUSDT")
    changed = {cells[1].strip() for line in table.splitlines() if len(cells := line.split("│")) > 3 and cells[3].strip() == "set"}
    assert changed == {"REDIS_URL", "ALERT_URLS", "SYMBOLS"}
    assert "planted" not in text + table
