"""What a watcher leaves to its successor survives a restart, a damaged file and a disk that takes nothing."""

import logging

from quantum_ops.alerts.watch_state import StateFile


def test_what_cannot_be_written_is_named_once_and_reported_until_it_can(tmp_path, caplog) -> None:
    """A full disk is when alerts are needed most: the watcher goes on, and healthz says what is not saved."""
    folder = tmp_path / "home"
    folder.write_text("a file where the folder should be")
    state = StateFile(folder / "watch.json")
    with caplog.at_level(logging.WARNING, logger="quantum.watch"):
        state.write({"active": []})
        state.write({"active": []})
    assert state.unsaved
    assert len(caplog.records) == 1
    folder.unlink()
    folder.mkdir()
    state.write({"active": [], "cleared": {"redis": 1.5}})
    assert state.unsaved == ""
    assert state.read() == {"active": [], "queues": {}, "cleared": {"redis": 1.5}, "trading": {}}


def test_a_damaged_file_is_named_and_forgotten(tmp_path, caplog) -> None:
    """A watcher that does not start because of what its predecessor left would watch nothing."""
    (tmp_path / "watch.json").write_text('{"active": [{"trouble": 1}]}')
    with caplog.at_level(logging.WARNING, logger="quantum.watch"):
        assert StateFile(tmp_path / "watch.json").read()["active"] == []
    assert "cannot be read" in caplog.text
