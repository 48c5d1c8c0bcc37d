from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_autoresearch.asking import FREE, Line
from lightning_autoresearch.chat import ChatMessage, ChatRequest, Outcome, Usage
from lightning_autoresearch.journal import Journal
from lightning_autoresearch.mailbox import INSTRUCTIONS, MOST_BYTES, Mailbox
from lightning_autoresearch.spec import Budget, ScientistSettings, parse_spec

PAGE = (Path(__file__).parent.parent / "docs" / "scientist" / "mailbox.md").read_text(encoding="utf-8")
SCHEMA = {"type": "object", "properties": {"analysis": {"type": "string"}}}
MESSAGES = (ChatMessage(role="system", content="rules"), ChatMessage(role="user", content="what now? ü"))
START = 1_772_353_800.0  # 2026-03-01T08:30:00Z


class Person:
    """Somebody who does things while the mailbox waits, at so many seconds after the start."""

    def __init__(self, deeds=()):
        self.now = START
        self.sleeps = []
        self._deeds = sorted(deeds, key=lambda deed: deed[0])

    def clock(self):
        return self.now

    def sleep(self, seconds):
        self.sleeps.append(seconds)
        self.now += seconds
        while self._deeds and START + self._deeds[0][0] <= self.now:
            self._deeds.pop(0)[1]()


def request(key="3/7/1", *, messages=MESSAGES, timeout=60.0, study=""):
    return ChatRequest(key=key, messages=messages, schema=SCHEMA, max_tokens=100, timeout_seconds=timeout, study=study)


def ask(folder, deeds=(), *, asked=None, stop_after=None):
    person = Person(deeds)
    box = Mailbox(folder, sleep=person.sleep, clock=person.clock)
    reply = box.ask(asked or request(), stop=lambda: stop_after is not None and person.now >= START + stop_after)
    assert not person.sleeps or max(person.sleeps) <= 0.2
    return reply


def open_requests(folder):
    return sorted(folder.glob("*.request.json"))


def writes(folder, text):
    """A deed: answer the one open request, in place."""

    def write():
        (path,) = open_requests(folder)
        data = text if isinstance(text, bytes) else text.encode()
        (folder / json.loads(path.read_text())["reply_to"]).write_bytes(data)

    return write


def test_a_request_holds_all_that_is_needed_to_answer_it(tmp_path):
    seen = []

    def look():
        (path,) = open_requests(tmp_path)
        seen.append((path.name, json.loads(path.read_text(encoding="utf-8"))))

    ask(tmp_path, [(1, look)])
    ((name, data),) = seen
    digest = data.pop("digest")
    assert name == f"3-7-1-{digest[:8]}.request.json"
    assert data == {
        "format": 1,
        "instructions": INSTRUCTIONS,
        "key": "3/7/1",
        "reply_to": f"3-7-1-{digest[:8]}.reply.json",
        "asked_at": "2026-03-01T08:30:00Z",
        "deadline": "2026-03-01T08:31:00Z",
        "messages": [{"role": "system", "content": "rules"}, {"role": "user", "content": "what now? ü"}],
        "schema": SCHEMA,
    }


def test_the_reply_is_the_whole_text_and_costs_nothing(tmp_path):
    reply = ask(tmp_path / "new" / "box", [(5, writes(tmp_path / "new" / "box", '{"analysis": "ä"}\n'))])
    assert (reply.outcome, reply.text) == (Outcome.ANSWERED, '{"analysis": "ä"}\n')
    assert (reply.usage, reply.may_cost) == (Usage(input_tokens=0, output_tokens=0), False)
    assert 5 <= reply.seconds <= 5.5


def test_an_answered_request_is_moved_to_done_and_its_reply_with_the_next(tmp_path):
    ask(tmp_path, [(1, writes(tmp_path, "{}"))])
    assert [path.name.split(".", 1)[1] for path in sorted(tmp_path.glob("*.json"))] == ["reply.json"]
    assert len(list((tmp_path / "done").glob("*.request.json"))) == 1
    ask(tmp_path, [(1, writes(tmp_path, "{}"))], asked=request("3/8/1"))
    assert len(list((tmp_path / "done").glob("3-7-1-*"))) == 2
    assert len(list(tmp_path.glob("3-7-1-*"))) == 0


def test_a_reply_that_is_being_written_is_not_read_half(tmp_path):
    whole = b'{"analysis": "the loss \xc3\xbc"}'
    deeds = [(n * 1.5, writes(tmp_path, whole[:cut])) for n, cut in enumerate((0, 1, 14, 24, 25, len(whole)), start=1)]
    reply = ask(tmp_path, deeds)
    assert reply.text.encode() == whole
    assert reply.seconds >= 9


def test_a_reply_that_is_no_json_is_taken_once_it_has_settled(tmp_path):
    reply = ask(tmp_path, [(1, writes(tmp_path, "I think that"))])
    assert (reply.outcome, reply.text) == (Outcome.ANSWERED, "I think that")
    assert 3 <= reply.seconds <= 3.5


def test_an_empty_file_is_no_reply(tmp_path):
    reply = ask(tmp_path, [(1, writes(tmp_path, " \n")), (30, writes(tmp_path, "{}"))])
    assert (reply.text, round(reply.seconds)) == ("{}", 30)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_encodings_that_editors_write_are_understood(tmp_path, encoding):
    assert json.loads(ask(tmp_path, [(1, writes(tmp_path, '{"a": "ü"}'.encode(encoding)))]).text) == {"a": "ü"}


def test_bytes_that_are_no_text_are_replaced(tmp_path):
    assert ask(tmp_path, [(1, writes(tmp_path, b'{"a": "\xff"}'))]).text == '{"a": "�"}'


def test_json_nested_beyond_all_measure_is_handed_on_as_text(tmp_path):
    assert ask(tmp_path, [(1, writes(tmp_path, "[" * 100_000))]).text == "[" * 100_000


def test_a_reply_beyond_the_cap_is_refused(tmp_path):
    reply = ask(tmp_path, [(1, writes(tmp_path, " " + "x" * MOST_BYTES))])
    assert (reply.outcome, reply.text) == (Outcome.TOO_LARGE, "")
    assert reply.detail == "the reply has more than 4000000 bytes"


def test_a_request_without_a_reply_expires_and_can_be_seen_to_have(tmp_path):
    reply = ask(tmp_path)
    assert reply.outcome is Outcome.TIMED_OUT
    assert re.fullmatch(r"no reply came to 3-7-1-[0-9a-f]{8}\.request\.json in time", reply.detail)
    assert (round(reply.seconds), reply.may_cost) == (60, False)
    assert [path.name.split(".", 1)[1] for path in tmp_path.iterdir()] == ["expired.json"]


def test_a_reply_that_cannot_be_read_is_named_when_the_time_is_up(tmp_path, monkeypatch):
    opened = os.open

    def refuse(path, *args, **kwargs):
        if str(path).endswith(".reply.json"):
            raise PermissionError("not yours")
        return opened(path, *args, **kwargs)

    def answer():
        writes(tmp_path, "{}")()
        monkeypatch.setattr(os, "open", refuse)

    reply = ask(tmp_path, [(1, answer)])
    assert reply.outcome is Outcome.TIMED_OUT
    assert reply.detail.endswith("in time; its reply cannot be read (not yours)")


def test_a_stop_leaves_the_request_open_and_it_is_found_again(tmp_path):
    reply = ask(tmp_path, stop_after=10)
    assert (reply.outcome, reply.detail) == (Outcome.TIMED_OUT, "the study was asked to stop; the request stays open")
    assert reply.seconds <= 10.3
    (path,) = open_requests(tmp_path)
    first = json.loads(path.read_text())
    again = ask(tmp_path, asked=request(timeout=600.0), stop_after=1)
    assert again.outcome is Outcome.TIMED_OUT
    assert open_requests(tmp_path) == [path]
    assert json.loads(path.read_text()) == {**first, "deadline": "2026-03-01T08:40:00Z"}


def test_a_reply_that_came_while_the_study_was_down_is_used_at_once(tmp_path):
    ask(tmp_path, stop_after=1)
    writes(tmp_path, '{"late": true}')()
    reply = ask(tmp_path)
    assert (reply.text, reply.seconds) == ('{"late": true}', 0.0)
    assert open_requests(tmp_path) == []


def test_an_answer_is_not_lost_when_the_study_is_killed_before_it_journals_it(tmp_path):
    ask(tmp_path, [(1, writes(tmp_path, '{"a": 1}'))])
    reply = ask(tmp_path, asked=request(timeout=600.0))
    assert (reply.text, reply.seconds, open_requests(tmp_path)) == ('{"a": 1}', 0.0, [])
    (done,) = (tmp_path / "done").iterdir()
    assert json.loads(done.read_text())["deadline"] == "2026-03-01T08:31:00Z", "it was not written a second time"


def test_another_prompt_under_the_same_key_is_another_request(tmp_path):
    ask(tmp_path, [(1, writes(tmp_path, '{"a": 1}'))])
    assert ask(tmp_path, asked=request(messages=MESSAGES[:1])).outcome is Outcome.TIMED_OUT


def test_a_request_that_somebody_spoiled_is_written_again(tmp_path):
    ask(tmp_path, stop_after=1)
    (path,) = open_requests(tmp_path)
    for spoiled in ("[1]", "{}", "{", '{"asked_at": NaN}', '{"asked_at": "\\ud800"}'):
        path.write_text(spoiled)
        ask(tmp_path, stop_after=1)
        assert json.loads(path.read_text())["key"] == "3/7/1"


def test_an_expired_request_that_is_asked_again_is_open_again(tmp_path):
    ask(tmp_path)
    ask(tmp_path, stop_after=1)
    assert [path.name.split(".", 1)[1] for path in tmp_path.iterdir()] == ["request.json"]


def test_a_folder_that_vanishes_while_it_waits_does_no_harm(tmp_path):
    box = tmp_path / "box"

    def remove():
        for path in box.iterdir():
            path.unlink()
        box.rmdir()

    assert ask(box, [(5, remove)]).outcome is Outcome.TIMED_OUT


@pytest.mark.parametrize("name", ["file", "file/box", "x" * 300, "a\0b"])
def test_a_folder_that_cannot_be_is_a_classified_outcome(tmp_path, name):
    (tmp_path / "file").write_text("")
    reply = ask(tmp_path / name)
    assert (reply.outcome, reply.may_cost) == (Outcome.NOT_FOUND, False)
    assert "cannot be used" in reply.detail
    assert reply.detail.endswith("make it a writable folder")


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (PermissionError(13, "Permission denied"), Outcome.NOT_FOUND),
        (OSError(30, "Read-only file system"), Outcome.NOT_FOUND),
        (OSError(28, "No space left on device"), Outcome.DISCONNECTED),
    ],
)
def test_a_folder_that_cannot_be_written_is_a_classified_outcome(tmp_path, monkeypatch, error, outcome):
    def refuse(source, target):
        raise error

    monkeypatch.setattr(os, "replace", refuse)
    reply = ask(tmp_path)
    assert reply.outcome is outcome
    assert error.strerror in reply.detail


def test_a_stopped_study_finds_its_request_through_the_journal(tmp_path):
    """Through the line, with its own numbers of tries."""
    box, settings = tmp_path / "box", ScientistSettings(mailbox="box")

    def asked(journal, person, stop):
        mailbox = Mailbox(box, sleep=person.sleep, clock=person.clock)
        line = Line(mailbox, journal=journal, settings=settings, budget=Budget(), price=FREE, stop=stop, secrets=())
        return line.ask(MESSAGES, schema=SCHEMA, key="1/1/1"), line.spent

    person = Person()
    with Journal(tmp_path) as journal:
        assert not asked(journal, person, stop=lambda: person.now > START + 1)[0].answered
        (path,) = open_requests(box)
        assert path.name == f"1-1-1-{journal.entries[0].data['digest'][:8]}.request.json"
    with Journal(tmp_path) as journal:
        writes(box, '{"a": 1}')()
        reply, spent = asked(journal, Person(), stop=lambda: False)
        assert (reply.text, spent.tokens, spent.usd) == ('{"a": 1}', 0, 0.0)
        assert [entry.key for entry in journal] == ["1/1/1/1", "1/1/1/1", "1/1/1/2", "1/1/1/2"]


@pytest.mark.parametrize("obstacle", ["folder", "empty", "link", "pipe"])
def test_what_cannot_be_read_in_a_replys_place_does_not_keep_the_request_from_being_written(tmp_path, obstacle):
    ask(tmp_path, stop_after=1)
    (path,) = open_requests(tmp_path)
    place = tmp_path / json.loads(path.read_text())["reply_to"]
    path.unlink()
    outside = tmp_path / "outside.txt"
    outside.write_text('{"not": "for the model"}')
    {
        "folder": place.mkdir,
        "empty": lambda: place.write_text(""),
        "link": lambda: place.symlink_to(outside),
        "pipe": lambda: os.mkfifo(place),
    }[obstacle]()

    def mend():
        assert open_requests(tmp_path) == [path]
        place.rmdir() if obstacle == "folder" else place.unlink()
        writes(tmp_path, '{"a": 1}')()

    def next_descriptor():
        descriptor = os.open(os.devnull, os.O_RDONLY)
        os.close(descriptor)
        return descriptor

    free = next_descriptor()
    reply = ask(tmp_path, [(1, mend)])
    assert (reply.text, round(reply.seconds)) == ('{"a": 1}', 1)
    assert next_descriptor() == free


def test_a_linked_reply_is_not_followed_and_named_when_the_time_is_up(tmp_path):
    outside = tmp_path / "outside.txt"
    outside.write_text("{}")

    def link():
        (path,) = open_requests(tmp_path)
        (tmp_path / json.loads(path.read_text())["reply_to"]).symlink_to(outside)

    reply = ask(tmp_path, [(1, link)])
    assert (reply.outcome, reply.text) == (Outcome.TIMED_OUT, "")
    assert "its reply cannot be read" in reply.detail


def test_a_reply_to_an_earlier_study_with_the_same_prompt_is_not_taken(tmp_path):
    ask(tmp_path, [(1, writes(tmp_path, '{"earlier": 1}'))], asked=request(study="one"))
    assert ask(tmp_path, asked=request(study="one")).text == '{"earlier": 1}', "the same study may take it again"
    reply = ask(tmp_path, [(5, writes(tmp_path, '{"mine": 2}'))], asked=request(study="two"))
    assert (reply.text, round(reply.seconds)) == ('{"mine": 2}', 5)
    assert len(list(tmp_path.glob("*.reply.json"))) == 1, "the earlier one is put away"


def test_a_late_reply_to_an_expired_request_is_put_away_with_the_next(tmp_path):
    ask(tmp_path)
    (expired,) = tmp_path.glob("*.expired.json")
    late = tmp_path / json.loads(expired.read_text())["reply_to"]
    late.write_text("{}")
    ask(tmp_path, stop_after=1, asked=request("3/8/1"))
    assert not late.exists()
    assert (tmp_path / "done" / late.name).exists()


@pytest.mark.parametrize("spoiled", ["[" * 200_000, '{"asked_at":' * 50_000])
def test_a_request_that_was_nested_beyond_all_measure_is_written_again(tmp_path, spoiled):
    ask(tmp_path, stop_after=1)
    (path,) = open_requests(tmp_path)
    path.write_text(spoiled)
    assert ask(tmp_path, stop_after=1).outcome is Outcome.TIMED_OUT
    assert json.loads(path.read_text())["key"] == "3/7/1"


@pytest.mark.parametrize("seconds", [1e15, 1e300])
def test_a_deadline_beyond_all_dates_is_a_classified_outcome(tmp_path, seconds):
    assert ask(tmp_path, asked=request(timeout=seconds)).outcome is Outcome.NOT_FOUND


def test_each_study_has_files_of_its_own_and_finds_them_again(tmp_path):
    box, settings = tmp_path / "box", ScientistSettings(mailbox="box")

    def stem(folder, began):
        with Journal(folder, clock=lambda: began) as journal:
            if journal.find("study_created", "") is None:
                journal.append("study_created", {"name": "same"})
            mailbox = Mailbox(box, sleep=lambda seconds: None, clock=Person().clock)
            stops = iter([False] * 3)
            line = Line(
                mailbox,
                journal=journal,
                settings=settings,
                budget=Budget(),
                price=FREE,
                stop=lambda: next(stops, True),
                secrets=(),
            )
            line.ask(MESSAGES, schema=SCHEMA, key="1/1/1")
        (path,) = open_requests(box)
        path.unlink()
        return path.name

    first = stem(tmp_path / "a", 1.0)
    assert stem(tmp_path / "a", 9.0) == first
    assert stem(tmp_path / "b", 2.0) != first


# -- the page ------------------------------------------------------------------------------------------------------


def block(language):
    (text,) = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, flags=re.M | re.S)
    return text


def end(process):
    os.killpg(process.pid, signal.SIGTERM)
    process.wait(10)


def test_the_spec_block_of_the_page_is_valid():
    spec = parse_spec(
        "version: 1\nname: x\ntask: {model: {class_path: a.B, init_args: {lr: 0.1}}}\n"
        "objective: {metric: loss, mode: min}\n"
        "search_space: {model.init_args.lr: {type: float, low: 0.01, high: 1.0}}\n"
        "scales: [{name: target, set: {trainer.max_steps: 10}}]\n" + block("yaml"),
        path="spec.yaml",
    )
    assert spec.scientist == ScientistSettings(mailbox="mailbox", timeout_seconds=14400.0, share=0.5)


def test_the_page_names_every_key_of_a_request(tmp_path):
    ask(tmp_path, stop_after=1)
    keys = json.loads(open_requests(tmp_path)[0].read_text())
    assert [key for key in keys if f"`{key}`" not in PAGE] == []


def test_the_shell_loop_of_the_page_answers(tmp_path):
    box, programs = tmp_path / "box", tmp_path / "bin"
    box.mkdir()
    programs.mkdir()
    command = programs / "ask-my-model"
    command.write_text(f"#!/bin/sh\nexec {sys.executable} -c '{SHELL_MODEL}'\n")
    command.chmod(0o755)
    environ = {**os.environ, "MAILBOX": str(box), "PATH": f"{programs}:{os.environ['PATH']}"}
    ask(box, stop_after=1)
    process = subprocess.Popen(["sh", "-c", block("sh")], env=environ, start_new_session=True)
    try:
        reply = Mailbox(box).ask(request(timeout=30.0), stop=lambda: process.poll() is not None)
    finally:
        end(process)
    assert json.loads(reply.text) == {"analysis": "what now? ü"}


SHELL_MODEL = (
    'import json, sys; print(json.dumps({"analysis": json.load(open(0, encoding="utf-8"))["messages"][-1]["content"]}))'
)


def test_the_python_script_of_the_page_answers(tmp_path):
    box = tmp_path / "box"
    ask(box, stop_after=1)
    process = subprocess.Popen(
        [sys.executable, "-c", block("python"), str(box)],
        env={**os.environ, "PYTHONIOENCODING": "utf-8", "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        process.stdin.write(b'{"analysis": "mine"}\n')
        process.stdin.flush()
        reply = Mailbox(box).ask(request(timeout=30.0), stop=lambda: process.poll() is not None)
    finally:
        end(process)
        shown = process.stdout.read().decode()
        process.stdin.close()
        process.stdout.close()
    assert reply.answered
    assert json.loads(reply.text) == {"analysis": "mine"}
    assert shown.startswith("what now? ü")
