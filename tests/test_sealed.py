from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from lightning_autoresearch.errors import JournalError
from lightning_autoresearch.sealed import FILE_NAME, Sealed

METRICS = {"loss": 1.0, "secret": 4.25, "other_secret": None}


def sealed(folder: Path) -> Sealed:
    return Sealed(folder, hidden=["secret", "other_secret"])


def test_hidden_values_are_taken_out_and_given_back(tmp_path: Path) -> None:
    one = sealed(tmp_path)
    visible = one.put("run", METRICS)
    assert visible == {"loss": 1.0}
    assert one.whole("run", visible) == METRICS


def test_they_are_there_after_a_restart(tmp_path: Path) -> None:
    sealed(tmp_path).put("run", METRICS)
    assert sealed(tmp_path).whole("run", {"loss": 1.0}) == METRICS


def test_only_the_owner_may_read_the_file(tmp_path: Path) -> None:
    sealed(tmp_path).put("run", METRICS)
    assert stat.S_IMODE((tmp_path / FILE_NAME).stat().st_mode) == 0o600


def test_a_torn_line_is_passed_over_and_the_next_one_is_whole(tmp_path: Path) -> None:
    sealed(tmp_path).put("first", METRICS)
    path = tmp_path / FILE_NAME
    path.write_bytes(path.read_bytes() + b'{"key": "torn", "val')
    again = sealed(tmp_path)
    again.put("torn", {"secret": 7.0})
    reopened = sealed(tmp_path)
    assert reopened.whole("first", {})["secret"] == 4.25
    assert reopened.whole("torn", {}) == {"secret": 7.0}


def test_the_same_run_twice_is_written_once(tmp_path: Path) -> None:
    for _ in range(2):
        sealed(tmp_path).put("run", METRICS)
    assert len((tmp_path / FILE_NAME).read_text().splitlines()) == 1


def test_a_lost_file_is_a_clear_error(tmp_path: Path) -> None:
    sealed(tmp_path).put("run", METRICS)
    (tmp_path / FILE_NAME).unlink()
    with pytest.raises(JournalError, match=r"hidden guards' values .* are missing; restore the file"):
        sealed(tmp_path).whole("run", {"loss": 1.0})


def test_without_hidden_guards_there_is_no_file(tmp_path: Path) -> None:
    plain = Sealed(tmp_path, hidden=())
    assert plain.put("run", METRICS) == METRICS
    assert plain.whole("run", METRICS) == METRICS
    assert not (tmp_path / FILE_NAME).exists()


def test_a_disk_that_refuses_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).mkdir()
    closed = Sealed(tmp_path, hidden=["secret"])
    with pytest.raises(JournalError, match="cannot be written"):
        closed.put("run", METRICS)


def test_a_line_is_json_with_key_and_values(tmp_path: Path) -> None:
    sealed(tmp_path).put("run", METRICS)
    line = json.loads((tmp_path / FILE_NAME).read_text())
    assert line == {"key": "run", "values": {"secret": 4.25, "other_secret": None}}


def test_a_line_that_was_written_in_part_is_an_error_and_not_a_sealed_value(tmp_path, monkeypatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:10]))
    closed = sealed(tmp_path)
    with pytest.raises(JournalError, match=r"only 10 of .* bytes were written"):
        closed.put("run", METRICS)
    monkeypatch.undo()
    assert closed.put("run", METRICS) == {"loss": 1.0}
    assert sealed(tmp_path).whole("run", {"loss": 1.0}) == METRICS


def test_what_was_sealed_stays_when_the_rest_comes_again(tmp_path: Path) -> None:
    sealed(tmp_path).put("run", METRICS)
    again = sealed(tmp_path)
    assert again.put("run", {"loss": 1.0}) == {"loss": 1.0}
    assert sealed(tmp_path).whole("run", {"loss": 1.0}) == METRICS
