from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_autoresearch.errors import JournalError, StudyLocked
from lightning_autoresearch.journal import FILE_NAME, Entry, Journal, read_journal

data = st.dictionaries(
    st.text(max_size=5),
    st.one_of(st.integers(-(2**53), 2**53), st.text(max_size=20), st.floats(allow_nan=False, allow_infinity=False)),
)


def test_entries_are_numbered_and_read_back(tmp_path):
    with Journal(tmp_path, clock=lambda: 12.3456) as journal:
        first = journal.append("phase", {"phase": "gating"}, key="a")
        journal.append("phase", {"phase": "done", "text": "ü\u2028\r\n"}, key="b")
    assert first == Entry(n=1, time=12.346, kind="phase", key="a", data={"phase": "gating"})
    assert [entry.n for entry in read_journal(tmp_path)] == [1, 2]
    assert read_journal(tmp_path)[1].data["text"] == "ü\u2028\r\n"


def test_find_gives_the_last_entry_of_a_step(tmp_path):
    with Journal(tmp_path) as journal:
        journal.append("phase", {"x": 1}, key="a")
        journal.append("phase", {"x": 2}, key="a")
        assert journal.find("phase", "a").data == {"x": 2}
        assert journal.find("phase", "b") is None


@settings(max_examples=60, deadline=None)
@given(records=st.lists(data, min_size=1, max_size=5), torn=data, share=st.floats(0, 1))
def test_a_torn_last_record_is_cut_off_and_nothing_else_is_lost(tmp_path_factory, records, torn, share):
    folder = tmp_path_factory.mktemp("study")
    with Journal(folder) as journal:
        for record in records:
            journal.append("phase", record)
    line = Entry(n=len(records) + 1, time=0.0, kind="phase", key="", data=torn).line()
    cut = line[: int(share * (len(line) - 1))]
    with (folder / FILE_NAME).open("ab") as file:
        file.write(cut)
    assert [entry.data for entry in read_journal(folder)] == records
    with Journal(folder) as journal:
        assert [entry.data for entry in journal] == records
        assert (journal.repaired is None) == (cut == b"")
        journal.append("phase", {"after": True})
    assert [entry.n for entry in read_journal(folder)] == list(range(1, len(records) + 2))


def test_the_repair_keeps_the_torn_bytes_and_says_so(tmp_path):
    with Journal(tmp_path) as journal:
        journal.append("phase", {})
    with (tmp_path / FILE_NAME).open("ab") as file:
        file.write(b'{"n": 2, "ti')
    with Journal(tmp_path) as journal:
        assert "torn (12 bytes, kept in journal.torn)" in journal.repaired
    assert (tmp_path / "journal.torn").read_bytes() == b'{"n": 2, "ti'


@pytest.mark.parametrize("damage", [b"garbage\n", b'{"n": 9, "time": 0, "kind": "a", "key": "", "data": {}}\n'])
def test_damage_before_the_last_line_is_an_error_with_its_line(tmp_path, damage):
    with Journal(tmp_path) as journal:
        journal.append("phase", {})
        journal.append("phase", {})
    first, second = (tmp_path / FILE_NAME).read_bytes().splitlines(keepends=True)
    (tmp_path / FILE_NAME).write_bytes(first + damage + second)
    with pytest.raises(JournalError, match=r"journal\.jsonl:2: this line is damaged or out of order"):
        Journal(tmp_path)
    with pytest.raises(JournalError, match="restore the file from a copy"):
        read_journal(tmp_path)


def test_a_second_writer_is_locked_out_and_told_who_holds_the_lock(tmp_path):
    with (
        Journal(tmp_path),
        pytest.raises(StudyLocked, match=f"another process works on this study \\(pid {os.getpid()}\\)"),
    ):
        Journal(tmp_path)
    Journal(tmp_path).close()


def test_a_value_that_is_not_finite_is_refused_and_nothing_is_written(tmp_path):
    with Journal(tmp_path) as journal:
        with pytest.raises(ValueError, match="JSON compliant"):
            journal.append("phase", {"x": float("nan")})
        assert journal.append("phase", {}).n == 1


def test_a_full_disk_is_a_clear_error_and_leaves_no_torn_record(tmp_path, monkeypatch):
    with Journal(tmp_path) as journal:
        journal.append("phase", {})
        real = os.write
        monkeypatch.setattr(os, "write", lambda descriptor, line: real(descriptor, line[:5]))
        with pytest.raises(JournalError, match=r"only 5 of .* make room and start the same command again"):
            journal.append("phase", {})
        monkeypatch.undo()
        assert journal.append("phase", {}).n == 2
    assert len(read_journal(tmp_path)) == 2


class Listening:
    def __init__(self, fails=False):
        self.seen = []
        self.fails = fails

    def on_entry(self, entry):
        self.seen.append(entry.n)
        if self.fails and entry.kind == "phase":
            raise RuntimeError("no screen")


def test_a_listener_hears_old_and_new_entries(tmp_path):
    listener = Listening()
    with Journal(tmp_path) as journal:
        journal.append("phase", {})
        journal.listen(listener)
        journal.append("phase", {})
    assert listener.seen == [1, 2]


def test_a_listener_that_fails_is_reported_once_and_stops_nothing(tmp_path):
    with Journal(tmp_path) as journal:
        journal.listen(Listening(fails=True))
        journal.append("phase", {})
        journal.append("phase", {})
        messages = [entry.data["text"] for entry in journal if entry.kind == "message"]
    assert messages == ["Listening failed: RuntimeError: no screen"]


def test_no_study_is_a_clear_error(tmp_path):
    with pytest.raises(JournalError, match=r"there is no study here \(no journal\.jsonl\)"):
        read_journal(tmp_path / "nothing")


WRITER = """
import sys
from pathlib import Path
from lightning_autoresearch.journal import Journal
with Journal(Path(sys.argv[1])) as journal:
    while True:
        entry = journal.append("phase", {"text": "x" * 500})
        sys.stdout.write(f"{entry.n}\\n"); sys.stdout.flush()
"""


def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path):
    """A kill keeps the page cache, so this shows the order of writes, not the worth of fsync."""
    acknowledged = 0
    for _ in range(5):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        lines = [int(writer.stdout.readline()) for _ in range(20)]
        writer.send_signal(signal.SIGKILL)
        rest, _ = writer.communicate()
        acknowledged = max([*lines, *(int(line) for line in rest.splitlines() if line.isdecimal())])
        assert len(read_journal(tmp_path)) >= acknowledged
    assert acknowledged >= 100


def test_the_file_is_json_lines(tmp_path):
    with Journal(tmp_path, clock=lambda: 1.0) as journal:
        journal.append("phase", {"phase": "done"})
    assert json.loads(Path(tmp_path / FILE_NAME).read_text()) == {
        "n": 1,
        "time": 1.0,
        "kind": "phase",
        "key": "",
        "data": {"phase": "done"},
    }
