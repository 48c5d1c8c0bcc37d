"""AutoResearch in programs that the tests start, kill and count: one process, and two that share a fit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from lightning_autoresearch.journal import read_journal
from tests.live_project import BETTER, SPEC, WORSE

ROOT = Path(__file__).parent.parent
PROGRAM = str(ROOT / "tests" / "live_program.py")
MARK = "LIVE_PROGRAM_TEST"


class Programs:
    """Starts programs in a folder, and knows their descendants, whatever these do, by a mark in their environment."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.mark = uuid.uuid4().hex

    def start(self, *arguments: str, by: tuple[str, ...] = (sys.executable,)) -> subprocess.Popen[str]:
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("PL_", "MASTER_"))}
        environment |= {MARK: self.mark, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            [*by, PROGRAM, *arguments],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str, by: tuple[str, ...] = (sys.executable,)) -> str:
        """Run one to its end; nothing of it may be left."""
        process = self.start(*arguments, by=by)
        output, _ = process.communicate(timeout=240)
        assert process.returncode == 0, output[-6000:]
        self.nothing_is_left()
        return output

    def alive(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def nothing_is_left(self, *, seconds: float = 20.0) -> None:
        deadline = time.monotonic() + seconds
        while (alive := self.alive()) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not alive, [process.cmdline() for process in alive]

    def outcome(self, rank: int = 0) -> dict[str, Any]:
        outcome: dict[str, Any] = json.loads((self.folder / f"outcome-{rank}.json").read_text())
        return outcome

    def wait_for_trials(self, count: int) -> None:
        deadline = time.monotonic() + 120
        while len(statuses(self.folder)) < count:
            assert time.monotonic() < deadline, "the trials did not come"
            time.sleep(0.02)


def statuses(folder: Path) -> list[str]:
    if not (folder / "studies/live/journal.jsonl").is_file():
        return []
    entries = read_journal(folder / "studies/live")
    return [entry.data["status"] for entry in entries if entry.kind == "trial_finished"]


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[Programs]:
    (tmp_path / "spec.yaml").write_text(SPEC)
    made = Programs(tmp_path)
    yield made
    for process in made.alive():
        process.kill()


def propose(*overrides: Any) -> tuple[str, str]:
    return "--propose", json.dumps(overrides)


DDP = ("--devices", "2")


@pytest.mark.slow
def test_after_kill_9_in_the_middle_of_research_the_final_fit_is_that_of_an_uninterrupted_run(
    programs: Programs, tmp_path: Path
) -> None:
    whole = Programs(tmp_path / "whole")
    whole.folder.mkdir()
    (whole.folder / "spec.yaml").write_text(SPEC)
    whole.run(*propose(BETTER))
    process = programs.start(*propose(BETTER))
    programs.wait_for_trials(7)
    process.kill()
    process.communicate()
    programs.nothing_is_left()
    assert len(statuses(programs.folder)) < len(statuses(whole.folder))
    programs.run(*propose(BETTER))
    assert whole.outcome() == programs.outcome()
    assert whole.outcome()["lr"] == 0.1
    assert statuses(whole.folder) == statuses(programs.folder)


FAULTS = SPEC.replace(
    "  model.width:",
    "  model.fault: {type: categorical, choices: [none, raise_on_rank_one, die_on_rank_one, die]}\n  model.width:",
)


def failures(folder: Path) -> list[str]:
    entries = read_journal(folder / "studies/live")
    return [entry.data["failure"] for entry in entries if entry.kind == "trial_finished" and entry.data["failure"]]


@pytest.mark.slow
def test_two_processes_by_lightnings_launcher_with_kill_9_a_failing_rank_and_a_scientist_slower_than_the_group(
    programs: Programs,
) -> None:
    (programs.folder / "spec.yaml").write_text(FAULTS)
    arguments = (*DDP, *propose({"model.fault": "raise_on_rank_one"}, BETTER), "--thinks", "8", "--group-seconds", "6")
    process = programs.start(*arguments)
    programs.wait_for_trials(2)
    process.kill()  # rank zero alone: the other rank and the workers have to notice it
    process.communicate()
    programs.nothing_is_left()
    output = programs.run(*arguments)
    one, other = programs.outcome(0), programs.outcome(1)
    assert one["world"] == other["world"] == 2
    assert one["lr"] == other["lr"] == 0.1
    assert one["weights"] == other["weights"]
    assert one["environment"] == ["PL_GLOBAL_SEED", "PL_SEED_WORKERS"]
    assert len(failures(programs.folder)) == 1
    assert "the gradient went for a walk on rank one" in failures(programs.folder)[0]
    for leak in ("destroy_process_group", "leaked", "resource_tracker", "Traceback", "TCPStore"):
        assert leak not in output


@pytest.mark.slow
def test_two_processes_by_torchrun_with_a_rank_that_crashes(programs: Programs) -> None:
    (programs.folder / "spec.yaml").write_text(FAULTS)
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    output = programs.run(*DDP, *propose({"model.fault": "die_on_rank_one"}, BETTER), by=torchrun)
    one, other = programs.outcome(0), programs.outcome(1)
    assert one["lr"] == other["lr"] == 0.1
    assert one["weights"] == other["weights"]
    assert failures(programs.folder) == ["rank 1 ended with signal 11"]
    assert "Traceback" not in output


@pytest.mark.slow
def test_ctrl_c_ends_all_processes_of_a_shared_fit(programs: Programs) -> None:
    process = programs.start(*DDP, *propose(BETTER), "--step-seconds", "0.05")
    programs.wait_for_trials(2)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    process.communicate(timeout=60)
    programs.nothing_is_left()
    assert [entry.kind for entry in read_journal(programs.folder / "studies/live")][-1] == "session_ended"


@pytest.mark.slow
def test_a_trial_in_a_process_of_its_own_may_even_crash(programs: Programs) -> None:
    """`execution.executor: process` has the same workers for a fit of one process."""
    (programs.folder / "spec.yaml").write_text(FAULTS + "execution: {executor: process}\n")
    programs.run(*propose({"model.fault": "die"}, WORSE))
    assert statuses(programs.folder).count("error") == 1
    assert programs.outcome()["lr"] == 0.01
