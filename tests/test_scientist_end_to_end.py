"""The real command line with a language model: real trials, real sockets, real files, real kills."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from lightning_autoresearch.journal import read_journal
from tests import faults
from tests.faults import FaultServer
from tests.scientists import idea, op, reply
from tests.test_end_to_end import SPEC, Folder

SMALL = SPEC.replace("budget: {trials: 50}", "budget: {trials: 30}")
HALF = reply(
    idea(op("set", "/task/model/init_args/lr", old=0.002, value=0.008), metric="val_loss", statement="A larger lr."),
)


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path, SMALL)


def calls(study: Path, kind: str):
    return [entry for entry in read_journal(study) if entry.kind == kind]


def request_in(mailbox: Path, *, seconds: float = 120.0) -> Path:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := sorted(mailbox.glob("*.request.json")):
            return found[0]
        time.sleep(0.1)
    raise AssertionError("no request came")


@pytest.mark.slow
def test_killed_while_a_mailbox_is_awaited_the_reply_that_came_meanwhile_is_used(folder):
    mailbox = folder.path / "box"
    (folder.path / "spec.yaml").write_text(SMALL + "scientist: {mailbox: box, timeout_seconds: 5}\n")
    process = folder.start("fit", "spec.yaml", "--plain")
    request = request_in(mailbox)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    asked = json.loads(request.read_text())
    draft = mailbox / "answer.part"
    draft.write_text(HALF)
    draft.rename(mailbox / asked["reply_to"])
    process = folder.start("fit", "spec.yaml", "--plain")
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert (mailbox / "done" / request.name).exists()
    assert "sampler" in out
    stated = [entry.data["hypothesis"] for entry in calls(folder.path / "studies/marked", "hypothesis_stated")]
    assert stated[0]["source"] == "mailbox"
    assert stated[0]["overrides"] == {"model.init_args.lr": 0.008}


@pytest.mark.slow
def test_a_study_with_a_server_that_answers_and_then_dies(folder):
    with FaultServer([faults.ok(HALF), faults.reset_before()]) as server:
        scientist = f"scientist: {{model: half, base_url: '{server.url}', timeout_seconds: 4}}\n"
        (folder.path / "spec.yaml").write_text(SMALL + scientist)
        checked = folder.run("check", "--deep", "spec.yaml")
        fitted = folder.run("fit", "spec.yaml", "--plain")
    assert "scientist half: answered as fault-model" in checked.stdout, checked.stderr
    assert fitted.returncode == 0, fitted.stderr
    assert "Traceback" not in fitted.stderr
    assert "the sampler proposes alone" in fitted.stdout + fitted.stderr
    status = folder.status()
    assert status["done"]
    assert status["cost"]["llm_calls"] >= 1
    exported = folder.run("export", "studies/marked", "--format", "chat-jsonl", "--output", "lines.jsonl")
    assert exported.returncode == 0, exported.stderr
    report = (folder.path / "studies/marked/report.html").read_text()
    assert "disconnected" in report


@pytest.mark.slow
def test_a_switch_of_class_is_trained_and_written_without_the_arguments_that_the_new_class_does_not_take(folder):
    module = (
        (folder.path / "marked.py").read_text()
        + '''

class Plain(Marked):
    """The same with a better start, and without momentum."""
    def __init__(self, lr: float = 0.1, width: int = 0):
        super().__init__(lr=lr * 4, width=width)
        self.save_hyperparameters({"lr": lr * 4, "width": width, "momentum": 0.0})
'''
    )
    (folder.path / "marked.py").write_text(module)
    spec = SMALL.replace("budget: {trials: 30}", "budget: {trials: 60}")
    switch = reply(
        idea(
            op("set", "/task/model/class_path", old="marked.Marked", value="marked.Plain"),
            metric="val_loss",
            kind="class",
            probability=0.9,
        )
    )
    with FaultServer([faults.ok(switch), faults.ok(reply())]) as server:
        text = spec + (
            f"scientist: {{model: half, base_url: '{server.url}', share: 1.0}}\n"
            "policy: {allowed_classes: [marked.Plain]}\n"
        )
        (folder.path / "spec.yaml").write_text(text)
        fitted = folder.run("fit", "spec.yaml", "--plain")
    assert fitted.returncode == 0, fitted.stderr
    status = folder.status()
    first = next(row for row in status["hypotheses"] if row["kind"] == "class")
    assert first["overrides"] == {"model.class_path": "marked.Plain"}
    assert first["gain"] > 0, first
    if status["incumbent"].get("model.class_path") == "marked.Plain":
        latest = max((folder.path / "studies/marked/specs").glob("*.yaml")).read_text()
        assert "marked.Plain" in latest
        assert "momentum" not in latest.split("search_space")[0].split("task:")[1]


def test_a_missing_key_is_told_by_check_and_refused_by_fit(folder):
    folder.environment.pop("OPENAI_API_KEY", None)
    (folder.path / "spec.yaml").write_text(SMALL + "scientist: {model: gpt-5.5}\n")
    checked = folder.run("check", "spec.yaml")
    assert checked.returncode == 0
    assert "OPENAI_API_KEY" in checked.stderr
    fitted = folder.run("fit", "spec.yaml")
    assert fitted.returncode == 2
    assert "OPENAI_API_KEY" in fitted.stderr
    assert not (folder.path / "studies").exists()
