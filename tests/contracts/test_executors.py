"""What every executor owes, and what one with processes owes beyond it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from lightning_autoresearch import supervisor
from lightning_autoresearch.codec import from_json, read_json, to_json, write_json
from lightning_autoresearch.devices import usable_cores
from lightning_autoresearch.errors import ExecutorError
from lightning_autoresearch.executor import (
    Executor,
    InlineExecutor,
    ProcessExecutor,
    make_executor,
    needs_new_interpreter,
)
from lightning_autoresearch.space import apply_overrides
from lightning_autoresearch.spec import Execution, Guard, Objective
from lightning_autoresearch.trial import Job, TrialResult, TrialStatus

TESTS = str(Path(__file__).parent.parent)
TASK: Mapping[str, Any] = {
    "model": {"class_path": "tasks.Regression", "init_args": {"lr": 0.1}},
    "data": {"class_path": "tasks.Points"},
    "trainer": {"max_steps": 10, "accelerator": "cpu"},
}
SLOTS = 2

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and a child subreaper")
two_cores = pytest.mark.skipif(len(usable_cores()) < SLOTS, reason="needs a core for each of two slots")


def make_job(changes: Mapping[str, Any] | None = None, *, timeout_seconds: float = 120.0, **fields: Any) -> Job:
    job = Job(
        trial_id="00007",
        task=apply_overrides(TASK, changes or {}),
        requested={},
        objective=Objective(metric="val_loss", mode="min"),
        guards=(),
        seed=1,
        search_path=(TESTS,),
        timeout_seconds=timeout_seconds,
        memory_gb=None,
    )
    return dataclasses.replace(job, **fields)


def faulty(fault: str, **kwargs: Any) -> Job:
    return make_job({"model.class_path": "tasks.Faulty", "model.init_args.fault": fault}, **kwargs)


def slow(steps: int = 20, *, model: str = "tasks.Slow", step_seconds: float = 0.1, **kwargs: Any) -> Job:
    changes = {
        "model.class_path": model,
        "model.init_args.step_seconds": step_seconds,
        "trainer.max_steps": steps,
    }
    return make_job(changes, **kwargs)


def await_outcome(executor: Executor, folder: Path, *, seconds: float = 120.0) -> TrialResult:
    deadline = time.monotonic() + seconds
    while (result := executor.outcome(folder)) is None:
        assert time.monotonic() < deadline, f"no outcome: {[path.name for path in folder.iterdir()]}"
        executor.wait(5.0)
    return result


def await_file(path: Path, *, seconds: float = 120.0) -> Any:
    deadline = time.monotonic() + seconds
    while (data := read_json(path)) is None:
        assert time.monotonic() < deadline, f"{path} did not come"
        time.sleep(0.01)
    return data


def run(executor: Executor, job: Job, folder: Path) -> TrialResult:
    executor.submit(job, folder)
    return await_outcome(executor, folder)


@pytest.fixture(scope="module")
def warm() -> Iterator[ProcessExecutor]:
    """One executor for the whole module, since its server takes seconds to start; it must stay usable throughout."""
    with ProcessExecutor(slots=SLOTS, search_path=(TESTS,)) as executor:
        yield executor


@pytest.fixture(params=["inline", "process"])
def executor(request: pytest.FixtureRequest) -> Executor:
    chosen: Executor = InlineExecutor() if request.param == "inline" else request.getfixturevalue("warm")
    return chosen


def test_a_good_trial_finishes(executor: Executor, tmp_path: Path) -> None:
    folder = tmp_path / "00007"
    assert executor.outcome(folder) is None
    assert executor.capacity() >= 1
    result = run(executor, make_job(), folder)
    assert result.status is TrialStatus.FINISHED, result
    assert (result.trial_id, result.steps, result.samples) == ("00007", 10, 160)
    assert result.objective == result.metrics["val_loss"]
    assert 0 < result.train_seconds < result.fit_seconds < result.wall_seconds
    assert executor.outcome(folder) == result


@pytest.mark.parametrize(
    ("changes", "status", "failure"),
    [
        ({"model.class_path": "tasks.NotANumber"}, TrialStatus.NOT_FINITE, "is nan"),
        ({"model.class_path": "tasks.Silent"}, TrialStatus.METRIC_MISSING, "'val_loss' was never logged"),
        ({"model.class_path": "tasks.TooLarge"}, TrialStatus.OUT_OF_MEMORY, "no room for the embedding"),
        ({"model.class_path": "tasks.Absent"}, TrialStatus.ERROR, "Absent"),
        ({"trainer.max_stepz": 3}, TrialStatus.ERROR, "max_stepz"),
    ],
)
def test_a_task_that_cannot_be_scored_is_classified(
    executor: Executor, tmp_path: Path, changes: Mapping[str, Any], status: TrialStatus, failure: str
) -> None:
    result = run(executor, make_job(changes), tmp_path / "trial")
    assert (result.status, result.objective) == (status, None), result
    assert result.failure is not None
    assert failure in result.failure


@pytest.mark.parametrize(
    ("fault", "status", "failure"),
    [
        ("fail", TrialStatus.ERROR, "RuntimeError: the gradient went for a walk"),
        ("lack_memory", TrialStatus.OUT_OF_MEMORY, "can't allocate memory"),
        ("leave", TrialStatus.ERROR, r"the task left by exit(3)"),
    ],
)
def test_a_step_that_goes_wrong_is_classified(
    executor: Executor, tmp_path: Path, fault: str, status: TrialStatus, failure: str
) -> None:
    result = run(executor, faulty(fault), tmp_path / "trial")
    assert result.status is status, result
    assert result.failure is not None
    assert failure in result.failure
    assert any("tasks.py" in line for line in result.traceback)


def test_a_missing_guard_is_classified(executor: Executor, tmp_path: Path) -> None:
    result = run(executor, make_job(guards=(Guard(metric="absent", max=1.0),)), tmp_path / "trial")
    assert result.status is TrialStatus.METRIC_MISSING


def test_a_folder_takes_one_trial_only(executor: Executor, tmp_path: Path) -> None:
    run(executor, make_job(), tmp_path)
    with pytest.raises(ExecutorError, match="has an outcome already; a retry needs a folder of its own"):
        executor.submit(make_job(), tmp_path)


def test_a_job_that_is_no_json_is_refused(executor: Executor, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"task\.model\.init_args\.lr is not finite"):
        executor.submit(make_job({"model.init_args.lr": float("nan")}), tmp_path / "trial")
    assert executor.outcome(tmp_path / "trial") is None
    assert executor.capacity() >= 1


def test_an_ended_trial_cannot_be_adopted(executor: Executor, tmp_path: Path) -> None:
    run(executor, make_job(), tmp_path)
    assert not executor.adopt(tmp_path)
    assert not executor.adopt(tmp_path / "absent")


def test_waiting_for_nothing_returns_at_once(executor: Executor) -> None:
    started = time.monotonic()
    executor.wait(30.0)
    assert time.monotonic() - started < 5.0


@pytest.mark.slow
def test_metrics_are_bit_identical_in_process_forked_and_in_a_new_interpreter(
    warm: ProcessExecutor, tmp_path: Path
) -> None:
    job = make_job({"model.init_args.width": 8, "data.init_args.workers": 1})
    threads = len(usable_cores()) // SLOTS or 1
    with ProcessExecutor(slots=SLOTS, search_path=(TESTS,), start="exec") as cold:
        results = [
            run(InlineExecutor(threads=threads), job, tmp_path / "inline"),
            run(warm, job, tmp_path / "forked"),
            run(cold, job, tmp_path / "cold"),
        ]
    assert [result.status for result in results] == [TrialStatus.FINISHED] * 3, results
    measured = {"train_seconds", "peak_memory_gb"}
    logged = [{k: v for k, v in result.metrics.items() if k not in measured} for result in results]
    assert logged[0] == logged[1] == logged[2]
    assert len({result.curve for result in results}) == 1
    assert len({(result.config_digest, result.shapes_digest) for result in results}) == 1


@pytest.mark.parametrize(
    ("fault", "status", "failure"),
    [
        ("leave_at_once", TrialStatus.ERROR, "ended without a result (exit code 0)"),
        ("die", TrialStatus.KILLED, "ended by SIGKILL, which the executor did not send"),
        ("crash", TrialStatus.KILLED, "ended by SIGSEGV, which the executor did not send"),
        ("terminate", TrialStatus.KILLED, "ended by SIGTERM from outside"),
    ],
)
def test_a_death_is_no_success(
    warm: ProcessExecutor, tmp_path: Path, fault: str, status: TrialStatus, failure: str
) -> None:
    result = run(warm, faulty(fault), tmp_path / "trial")
    assert (result.status, result.failure, result.objective) == (status, failure, None)


def test_a_crash_shows_where_it_happened(warm: ProcessExecutor, tmp_path: Path) -> None:
    result = run(warm, faulty("crash"), tmp_path / "trial")
    assert any("tasks.py" in line and line.endswith("in crash") for line in result.traceback)


def test_a_hang_that_ignores_signals_is_ended_at_its_deadline_and_says_where_it_stood(
    warm: ProcessExecutor, tmp_path: Path
) -> None:
    run(warm, make_job(), tmp_path / "first")  # so that the server is up and the clock measures the trial
    started = time.monotonic()
    result = run(warm, faulty("hang_for_good", timeout_seconds=3.0), tmp_path / "trial")
    assert 3.0 <= time.monotonic() - started < 5.0
    assert (result.status, result.failure) == (TrialStatus.TIMED_OUT, "took longer than 3 s")
    assert result.traceback[-1].endswith("in hang_for_good")
    assert len(result.traceback) <= 10


def test_a_trial_that_is_cancelled_is_gone_within_half_a_second(warm: ProcessExecutor, tmp_path: Path) -> None:
    folder = tmp_path / "trial"
    warm.submit(slow(10_000, model="tasks.Witness"), folder)
    pid = await_file(folder / "seen.json")["pid"]
    started = time.monotonic()
    warm.cancel(folder)
    result = await_outcome(warm, folder)
    assert time.monotonic() - started < 0.5
    assert (result.status, result.failure) == (TrialStatus.CANCELLED, "cancelled")
    assert not psutil.pid_exists(pid)


@linux_only
@pytest.mark.parametrize("fault", ["eat_memory", "eat_memory_in_a_child"])
def test_a_trial_that_takes_too_much_memory_is_ended(warm: ProcessExecutor, tmp_path: Path, fault: str) -> None:
    result = run(warm, faulty(fault, memory_gb=1.0), tmp_path / "trial")
    assert result.status is TrialStatus.OUT_OF_MEMORY, result
    assert result.failure is not None
    assert result.failure.endswith("GB of memory, 1.00 GB are allowed")


@linux_only
def test_nothing_is_left_of_a_trial_daemons_included(warm: ProcessExecutor, tmp_path: Path) -> None:
    run(warm, make_job(), tmp_path / "first")
    before = set(psutil.pids())
    result = run(warm, faulty("leave_a_daemon"), tmp_path / "trial")
    assert result.status is TrialStatus.FINISHED, result
    sleepers = [pid for pid in set(psutil.pids()) - before if "time.sleep(600)" in _command_of(pid)]
    assert sleepers == []


def _command_of(pid: int) -> str:
    try:
        return " ".join(psutil.Process(pid).cmdline())
    except psutil.Error:
        return ""


@linux_only
@two_cores
def test_slots_run_at_once_on_disjoint_cores(warm: ProcessExecutor, tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        warm.submit(slow(20, model="tasks.Witness"), folder)
    assert warm.capacity() == 0
    with pytest.raises(ExecutorError, match="all 2 slots are taken"):
        warm.submit(make_job(), tmp_path / "c")
    seen = [await_file(folder / "seen.json") for folder in folders]
    assert [warm.outcome(folder) for folder in folders] == [None, None]
    results = [await_outcome(warm, folder) for folder in folders]
    assert [result.status for result in results] == [TrialStatus.FINISHED] * 2
    cores = [set(one["cores"]) for one in seen]
    assert cores[0]
    assert cores[0].isdisjoint(cores[1])
    assert [one["threads"] for one in seen] == [len(one) for one in cores]
    assert warm.capacity() == 2


def test_secrets_stay_outside_and_the_own_environment_stays_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    monkeypatch.setenv("DATA_TOKEN", "needed")
    monkeypatch.setenv("MYLLM", "a key, too")
    before = dict(os.environ)
    settings = Execution(keep_environment=("DATA_TOKEN",))
    with contextlib.closing(make_executor(settings, task=TASK, search_path=(TESTS,), key_variable="MYLLM")) as executor:
        run(executor, slow(2, model="tasks.Witness"), tmp_path)
    seen = read_json(tmp_path / "seen.json")["environment"]
    assert not {"OPENAI_API_KEY", "MYLLM"} & set(seen)
    assert seen["DATA_TOKEN"] == "needed"
    assert dict(os.environ) == before


@pytest.mark.slow
def test_inside_a_slurm_job_lightning_starts_the_ranks_of_a_trial_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = {"SLURM_NTASKS": "1", "SLURM_NTASKS_PER_NODE": "1", "SLURM_JOB_ID": "12", "SLURM_JOB_NAME": "study"}
    for name, value in {**job, "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}.items():
        monkeypatch.setenv(name, value)
    two = make_job({"trainer.devices": 2, "trainer.strategy": "ddp", "trainer.max_steps": 2})
    with ProcessExecutor(search_path=(TESTS,)) as executor:
        result = run(executor, two, tmp_path)
    assert result.status is TrialStatus.FINISHED, result
    assert result.samples == 2 * 2 * 16


def test_the_callers_main_module_is_not_imported_again(warm: ProcessExecutor, tmp_path: Path) -> None:
    run(warm, slow(2, model="tasks.Witness"), tmp_path)
    assert Path(read_json(tmp_path / "seen.json")["main"]).name == "forkserver.py"


def test_what_a_trial_prints_is_in_its_log(warm: ProcessExecutor, tmp_path: Path, capfd: Any) -> None:
    run(warm, faulty("crash"), tmp_path)
    assert "Segmentation fault" in (tmp_path / "log.txt").read_text()
    assert capfd.readouterr() == ("", "")


def test_a_module_that_cannot_be_preloaded_is_the_executors_failure(tmp_path: Path) -> None:
    with ProcessExecutor(preload=("no_such_module_here",)) as executor:
        executor.submit(make_job(), tmp_path)
        with pytest.raises(ExecutorError, match=r"fork server ended .*No module named 'no_such_module_here'"):
            await_outcome(executor, tmp_path)


@linux_only
def test_a_trial_whose_supervisor_is_killed_dies_with_it_and_is_lost(warm: ProcessExecutor, tmp_path: Path) -> None:
    warm.submit(slow(10_000, model="tasks.Witness"), tmp_path)
    pid = await_file(tmp_path / "seen.json")["pid"]
    os.kill(read_json(tmp_path / "process.json")["pid"], signal.SIGKILL)
    result = await_outcome(warm, tmp_path)
    assert (result.status, result.failure) == (TrialStatus.LOST, "its supervisor ended without an outcome")
    _until(lambda: not psutil.pid_exists(pid))


@linux_only
def test_trials_outlive_their_server_and_the_next_one_gets_a_new_server(warm: ProcessExecutor, tmp_path: Path) -> None:
    warm.submit(slow(20, model="tasks.Witness"), tmp_path / "first")
    await_file(tmp_path / "first" / "seen.json")
    children = psutil.Process().children()
    servers = [child for child in children if child.is_running() and "forkserver" in _command_of(child.pid)]
    assert len(servers) == 1
    servers[0].kill()
    _until(lambda: servers[0].status() == psutil.STATUS_ZOMBIE)
    result = run(warm, make_job(), tmp_path / "second")
    assert result.status is TrialStatus.FINISHED, result
    assert await_outcome(warm, tmp_path / "first").status is TrialStatus.FINISHED


def _until(condition: Callable[[], bool], *, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


CONTROLLER = """
import sys, time
from pathlib import Path
from lightning_autoresearch.codec import from_json, read_json
from lightning_autoresearch.executor import ProcessExecutor
from lightning_autoresearch.trial import Job
folder = Path(sys.argv[1])
executor = ProcessExecutor(slots=3, search_path=(sys.argv[2],))
job = from_json(read_json(folder / "wanted.json"), Job)
for name in ("adopted", "alone", "cancelled"):
    executor.submit(job, folder / name)
time.sleep(600)
"""


@pytest.fixture(scope="module")
def orphans(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Trials of a controller in a session of its own that was killed with all of its group; they wait for a file."""
    folder = tmp_path_factory.mktemp("orphans")
    trials = [folder / name for name in ("adopted", "alone", "cancelled")]
    write_json(folder / "wanted.json", to_json(slow(3, model="tasks.Waiting")))
    process = subprocess.Popen([sys.executable, "-c", CONTROLLER, str(folder), TESTS], start_new_session=True)
    try:
        for trial in trials:
            await_file(trial / "seen.json")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    yield folder
    for trial in trials:
        (trial / "cancel").touch()


@pytest.mark.slow
@linux_only
def test_a_trial_outlives_its_killed_controller_and_is_adopted(orphans: Path) -> None:
    trial = orphans / "adopted"
    with ProcessExecutor() as executor:
        assert executor.outcome(trial) is None
        assert executor.adopt(trial)
        assert executor.capacity() == 0
        with pytest.raises(ExecutorError, match="all 1 slots are taken"):
            executor.submit(make_job(), trial)
        (trial / "go").touch()
        result = await_outcome(executor, trial)
        assert executor.capacity() == 1
    assert result.status is TrialStatus.FINISHED, result
    assert result.steps == 3
    assert (trial / "runs.txt").read_text() == "once\n"


@pytest.mark.slow
@linux_only
def test_a_trial_that_nobody_adopts_still_writes_its_outcome(orphans: Path) -> None:
    (orphans / "alone" / "go").touch()
    outcome = from_json(await_file(orphans / "alone" / "outcome.json"), TrialResult)
    assert outcome.status is TrialStatus.FINISHED


@pytest.mark.slow
@linux_only
def test_an_adopted_trial_can_be_cancelled(orphans: Path) -> None:
    trial = orphans / "cancelled"
    with ProcessExecutor() as executor:
        assert executor.adopt(trial)
        executor.cancel(trial)
        assert await_outcome(executor, trial).status is TrialStatus.CANCELLED


@linux_only
def test_a_process_that_only_reuses_the_number_is_not_adopted(tmp_path: Path) -> None:
    identity = supervisor.identity_of(os.getpid())
    assert identity is not None
    write_json(tmp_path / "process.json", to_json(dataclasses.replace(identity, started="1")))
    with open(tmp_path / "run.lock", "w") as lock, ProcessExecutor() as executor:
        assert supervisor.try_lock(lock.fileno())
        assert not executor.adopt(tmp_path)


@linux_only
def test_a_running_trial_is_never_started_twice(warm: ProcessExecutor, tmp_path: Path) -> None:
    warm.submit(slow(15, model="tasks.Witness"), tmp_path)
    await_file(tmp_path / "seen.json")
    with pytest.raises(ExecutorError, match=r"a trial runs in .*; adopt it instead"):
        warm.submit(make_job(), tmp_path)
    supervisor.supervise(tmp_path)  # a second supervisor finds the folder locked and leaves it alone
    result = await_outcome(warm, tmp_path)
    assert result.status is TrialStatus.FINISHED
    supervisor.supervise(tmp_path)  # and a third finds the outcome
    assert (tmp_path / "runs.txt").read_text() == "once\n"


@pytest.mark.slow
def test_two_devices_train_in_a_new_interpreter_each(tmp_path: Path) -> None:
    job = make_job({"trainer.devices": 2, "trainer.strategy": "ddp", "trainer.max_steps": 4})
    with ProcessExecutor(search_path=(TESTS,)) as executor:
        result = run(executor, job, tmp_path)
    assert result.status is TrialStatus.FINISHED, (result, (tmp_path / "log.txt").read_text())
    assert (result.steps, result.samples) == (4, 4 * 16 * 2)
    assert json.loads((tmp_path / "launch.json").read_text())["start"] == "exec"


@pytest.mark.parametrize(
    ("trainer", "expected"),
    [
        ({}, False),
        ({"devices": 1, "strategy": "auto"}, False),
        ({"devices": "auto", "num_nodes": 1}, False),
        ({"devices": 2}, True),
        ({"devices": [0, 1]}, True),
        ({"num_nodes": 2}, True),
        ({"strategy": "ddp"}, True),
        ({"strategy": {"class_path": "lightning.pytorch.strategies.FSDPStrategy"}}, True),
    ],
)
def test_only_one_device_without_a_strategy_is_forked(trainer: Mapping[str, Any], expected: bool) -> None:
    assert needs_new_interpreter({"trainer": trainer}) is expected


def test_the_spec_chooses_the_executor(tmp_path: Path) -> None:
    inline = make_executor(Execution(executor="inline"), task=TASK, search_path=(TESTS,))
    assert isinstance(inline, InlineExecutor)
    several = apply_overrides(TASK, {"trainer.devices": 2})
    process = make_executor(Execution(slots=2), task=several, search_path=(TESTS,))
    assert isinstance(process, ProcessExecutor)
    assert process.capacity() == 2
    process.close()


def test_gpus_that_are_not_there_are_said_so_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(sys, "platform", "linux")
    task = apply_overrides(TASK, {"trainer.accelerator": "gpu"})
    with pytest.raises(ExecutorError, match=r"needs 1 GPU\(s\) and 0 can be seen"):
        make_executor(Execution(), task=task, search_path=())


def test_a_leased_card_binds_the_trial_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with ProcessExecutor(slots=2, search_path=(TESTS,), lease_seconds=0.1, start="exec") as executor:
        folders = [tmp_path / "a", tmp_path / "b"]
        for folder in folders:
            executor.submit(make_job({"trainer.accelerator": "auto"}), folder)
        launches = [read_json(folder / "launch.json") for folder in folders]
        jobs = [read_json(folder / "job.json") for folder in folders]
        refusal = pytest.raises(ExecutorError, match=r"0 of 2 free after 0\.1 s")
        with ProcessExecutor(lease_seconds=0.1) as other, refusal:
            other.submit(make_job({"trainer.accelerator": "gpu"}), tmp_path / "c")
    assert [launch["cards"] for launch in launches] == [["5"], ["7"]]
    assert [job["task"]["trainer"]["accelerator"] for job in jobs] == ["gpu", "gpu"]
    assert [job["task"]["trainer"]["devices"] for job in jobs] == [1, 1]


def test_closing_ends_what_runs(warm: ProcessExecutor, tmp_path: Path) -> None:
    """The last one in this module, since whoever comes after it waits for another server."""
    warm.submit(slow(10_000, model="tasks.Witness"), tmp_path)
    pid = await_file(tmp_path / "seen.json")["pid"]
    warm.close()
    assert not psutil.pid_exists(pid)
    outcome = supervisor.outcome_of(tmp_path)
    assert outcome is not None
    assert outcome.status is TrialStatus.CANCELLED
