"""The real command line with real Lightning trials in real processes."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lightning_autoresearch.bundled import resource
from lightning_autoresearch.journal import read_journal

ROOT = Path(__file__).parent.parent

MODULE = '''
import os, time, torch
from tests.tasks import Regression

class Marked(Regression):
    """Says when a run begins and ends; starts from zero, so that seeds differ little."""
    def __init__(self, lr: float = 0.1, width: int = 0, momentum: float = 0.0):
        super().__init__(lr=lr, width=width, momentum=momentum)
        for parameter in self.parameters():
            torch.nn.init.zeros_(parameter)
    def mark(self, what):
        line = f"{what} {os.environ.get('PL_GLOBAL_SEED')} {self.hparams.lr} {self.hparams.momentum}\\n".encode()
        descriptor = os.open(os.environ["MARKS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(descriptor, line); os.close(descriptor)
    def on_train_batch_start(self, *_): time.sleep(float(os.environ.get("STEP_SECONDS", "0")))
    def on_train_start(self): self.mark("begin")
    def on_train_end(self): self.mark("end")

class Hot(Marked):
    """Cannot be trained with a large learning rate."""
    def on_train_start(self):
        if self.hparams.lr > 0.01:
            raise ValueError("too hot")
'''

SPEC = """\
version: 1
name: marked
task:
  model: {class_path: marked.Marked, init_args: {lr: 0.002, momentum: 0.0, width: 0}}
  data: {class_path: tests.tasks.Points, init_args: {samples: 1024}}
objective: {metric: val_loss, mode: min}
search_space:
  model.init_args.lr: {type: float, low: 0.0001, high: 0.5, scale: log}
  model.init_args.momentum: {type: float, low: 0.0, high: 0.9}
scales:
  - {name: short, set: {trainer.max_steps: 12}}
decision: {calibration_seeds: 4, keeps_per_round: 2}
budget: {trials: 50}
execution: {slots: 2, timeout_seconds: 60}
"""


class Folder:
    """A user's folder: her module, her spec, and the command line run in it."""

    def __init__(self, path, spec=SPEC):
        self.path = path
        (path / "marked.py").write_text(MODULE)
        (path / "spec.yaml").write_text(spec)
        self.environment = {
            **os.environ,
            "MARKS": str(path / "marks"),
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "120",
        }

    def start(self, *arguments):
        return subprocess.Popen(
            [sys.executable, "-m", "lightning_autoresearch", *arguments],
            cwd=self.path,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments, timeout=240):
        process = self.start(*arguments)
        out, err = process.communicate(timeout=timeout)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def status(self, study="studies/marked"):
        done = self.run("status", study, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def marks(self, what):
        return [
            line.split(" ", 1)[1] for line in (self.path / "marks").read_text().splitlines() if line.startswith(what)
        ]


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path)


@dataclass(frozen=True)
class Finished:
    """A study that nobody disturbed, as it was when it had ended."""

    folder: Folder
    fitted: subprocess.CompletedProcess[str]
    status: dict[str, Any]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = Folder(tmp_path_factory.mktemp("finished"))
    fitted = folder.run("fit", "spec.yaml")
    return Finished(folder, fitted, folder.status())


def left_over(path):
    """Command lines of processes that still work in a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink().is_relative_to(path) and "Z" not in (process / "stat").read_text().split()[
                2
            ]:
                found.append((process / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


@pytest.mark.slow
def test_fit_status_report_and_adopt_as_a_user_would(finished):
    folder, done, status = finished.folder, finished.fitted, finished.status
    assert done.returncode == 0, done.stderr
    assert "Confirmed gain" in done.stdout
    from jsonschema import Draft202012Validator

    Draft202012Validator(json.loads(resource("schemas", "status.schema.json").read_text())).validate(status)
    assert status["done"]
    assert status["confirmed_gain"]["low"] > 0
    assert status["revision"] >= 1
    assert set(status["incumbent"]) == {"model.init_args.lr", "model.init_args.momentum"}
    assert status["trials"]["finished"] == len(folder.marks("end")) <= 50
    assert (folder.path / "studies/marked/report.html").stat().st_size > 1_000_000
    assert left_over(folder.path) == []
    assert "confirmed" in folder.run("status", "studies/marked").stdout

    again = folder.run("fit", "spec.yaml")
    assert again.returncode == 0
    assert status["trials"] == folder.status()["trials"]

    adopted = folder.run("adopt", "studies/marked")
    assert adopted.returncode == 0, adopted.stderr
    revised = (folder.path / "studies/marked/specs" / f"{status['revision']:04d}.yaml").read_text()
    assert (folder.path / "spec.yaml").read_text() == revised
    assert folder.run("check", "spec.yaml").returncode == 0
    assert "already" in folder.run("adopt", "studies/marked").stdout
    (folder.path / "spec.yaml").write_text(revised.replace("slots: 2", "slots: 1"))
    refused = folder.run("adopt", "studies/marked")
    assert refused.returncode == 2
    assert "it has changed since the study began, so it was left alone" in refused.stderr


@pytest.mark.slow
def test_kill_9_of_the_whole_group_at_random_moments_loses_no_trial_and_runs_none_twice(folder, finished):
    assert finished.fitted.returncode == 0, finished.fitted.stderr
    rng = random.Random(3)
    folder.environment["STEP_SECONDS"] = "0.2"  # long enough that it is not done before the last kill
    for _ in range(12):
        process = folder.start("fit", "spec.yaml")
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=rng.uniform(0.5, 8.0))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    folder.environment["STEP_SECONDS"] = "0"
    done = folder.run("fit", "spec.yaml")
    assert done.returncode == 0, done.stderr
    entries = read_journal(folder.path / "studies/marked")
    for kind in ("trial_started", "trial_finished"):
        assert max(Counter(entry.key for entry in entries if entry.kind == kind).values()) == 1
    assert max(Counter(folder.marks("end")).values()) == 1
    mine, its = folder.status(), finished.status
    for key in ("hypotheses", "gates", "incumbent", "confirmed_gain", "revision", "reason", "trials"):
        assert mine[key] == its[key]
    assert left_over(folder.path) == []


@pytest.mark.slow
def test_ctrl_c_stops_after_a_clean_write_and_says_how_to_go_on(folder):
    process = folder.start("fit", "spec.yaml")
    deadline = time.monotonic() + 60
    while not (folder.path / "marks").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert "lightning-autoresearch fit spec.yaml" in out
    assert "Traceback" not in err
    assert folder.status()["phase"] == "interrupted"
    assert left_over(folder.path) == []
    finished = [entry.key for entry in read_journal(folder.path / "studies/marked") if entry.kind == "trial_finished"]
    assert folder.run("fit", "spec.yaml").returncode == 0
    entries = read_journal(folder.path / "studies/marked")
    keys = [entry.key for entry in entries if entry.kind == "trial_finished"]
    assert keys[: len(finished)] == finished
    assert len(keys) == len(set(keys))
    again = sum(count - 1 for count in Counter(folder.marks("begin")).values())
    assert again <= 2, "only what was in flight is run again"


FAULTS = {
    "raise": ("error", "the gradient went for a walk"),
    "not a number": ("not finite", "finite"),
    "silent": ("metric missing", "these were: parameters, peak_memory_gb, train_loss, train_seconds, val_other"),
    "hang": ("timed out", "timed out"),
    "memory": ("out of memory", "memory"),
}


def faulty_spec(case):
    model = {
        "raise": "{class_path: tests.tasks.Faulty, init_args: {fault: fail, lr: 0.01}}",
        "hang": "{class_path: tests.tasks.Faulty, init_args: {fault: hang_for_good, lr: 0.01}}",
        "memory": "{class_path: tests.tasks.Faulty, init_args: {fault: eat_memory, lr: 0.01}}",
        "not a number": "{class_path: tests.tasks.NotANumber, init_args: {lr: 0.01}}",
        "silent": "{class_path: tests.tasks.Silent, init_args: {lr: 0.01}}",
    }[case]
    spec = SPEC.replace("{class_path: marked.Marked, init_args: {lr: 0.002, momentum: 0.0, width: 0}}", model)
    spec = spec.replace("  model.init_args.momentum: {type: float, low: 0.0, high: 0.9}\n", "")
    seconds = 2 if case == "hang" else 8
    return spec.replace("timeout_seconds: 60", f"timeout_seconds: {seconds}, memory_gb: 1.2")


@pytest.mark.slow
@pytest.mark.parametrize("case", FAULTS)
def test_a_task_that_never_trains_ends_the_study_with_the_reason(tmp_path, case):
    kind, detail = FAULTS[case]
    folder = Folder(tmp_path, faulty_spec(case))
    done = folder.run("fit", "spec.yaml", timeout=120)
    assert done.returncode == 1, done.stdout + done.stderr
    status = folder.status()
    assert (status["phase"], status["done"]) == ("failed", True)
    assert f"the baseline does not train at scale short: 2 of 2 runs ended with {kind}" in status["reason"]
    assert detail in status["reason"]
    assert "Traceback" not in done.stderr
    assert left_over(tmp_path) == []


@pytest.mark.slow
def test_hypotheses_that_fail_are_verdicts_and_the_study_goes_on(tmp_path):
    folder = Folder(tmp_path, SPEC.replace("marked.Marked", "marked.Hot"))
    done = folder.run("fit", "spec.yaml")
    assert done.returncode == 0, done.stderr
    status = folder.status()
    assert status["trials"]["failed"] > 0
    assert status["done"]
    assert 0.002 <= status["incumbent"]["model.init_args.lr"] <= 0.01
    assert "too hot" in (tmp_path / "studies/marked/report.html").read_text()


BAD = {
    "no such file": (None, "nothing.yaml"),
    "no YAML": ("version: [1", "spec.yaml:1:"),
    "unknown key": (SPEC.replace("budget:", "buget:"), "unknown key 'buget'; did you mean 'budget'?"),
    "wrong type": (SPEC.replace("trials: 50", "trials: many"), "/budget/trials"),
    "several": (SPEC.replace("low: 0.0001", "low: 1").replace("mode: min", "mode: low"), "/objective/mode"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("command", ["check", "fit"])
def test_a_bad_spec_is_exit_2_with_positions_and_no_traceback(tmp_path, case, command):
    text, words = BAD[case]
    folder = Folder(tmp_path, text or SPEC)
    done = folder.run(command, "spec.yaml" if text else "nothing.yaml")
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "studies").exists()


def test_a_bad_set_option_is_exit_2(folder):
    done = folder.run("check", "spec.yaml", "--set", "budget.trails=3")
    assert done.returncode == 2
    assert "--set:1" in done.stderr
    assert "trials" in done.stderr


def test_a_folder_without_a_study_is_exit_2(folder):
    for command in ("status", "report", "adopt"):
        done = folder.run(command, "studies/none")
        assert done.returncode == 2
        assert "there is no study here" in done.stderr


def test_nothing_confirmed_is_nothing_to_adopt(folder):
    study = folder.path / "studies" / "marked"
    done = folder.run("fit", "spec.yaml", "--set", "budget.trials=1")
    assert done.returncode == 0
    assert study.is_dir()
    refused = folder.run("adopt", "studies/marked")
    assert refused.returncode == 2
    assert "nothing was confirmed" in refused.stderr


@pytest.mark.slow
def test_check_deep_builds_every_scale_and_names_what_fails(tmp_path):
    folder = Folder(tmp_path)
    done = folder.run("check", "--deep", "spec.yaml")
    assert done.returncode == 0, done.stderr
    assert "scale short: 5 parameters, two steps in" in done.stdout
    broken = folder.run("check", "--deep", "spec.yaml", "--set", "objective.metric=val_los")
    assert broken.returncode == 2
    assert "val_loss" in broken.stderr


def test_init_copies_a_recipe_and_refuses_to_overwrite(folder):
    assert folder.run("init").stdout.split() == ["digits", "existing_project", "gpt", "quickstart"]
    done = folder.run("init", "digits", "here")
    assert done.returncode == 0, done.stderr
    assert (folder.path / "here/recipes/digits.py").is_file()
    (folder.path / "here/digits.yaml").write_text("mine")
    refused = folder.run("init", "digits", "here")
    assert refused.returncode == 2
    assert "is there already and differs; nothing was written" in refused.stderr
    assert folder.run("init", "nonsense").returncode == 2


def test_the_schema_is_printed(folder):
    assert json.loads(folder.run("schema").stdout)["$schema"] == "https://json-schema.org/draft/2020-12/schema"
