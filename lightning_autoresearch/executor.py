"""How trials are run: the protocol, an executor in this process, and one with a process per trial.

A trial's folder is all that an executor and a later one share, so a study that was killed finds its trials again.
"""

from __future__ import annotations

import dataclasses
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol

from lightning_autoresearch import supervisor
from lightning_autoresearch.codec import from_json, read_json, to_json, write_json
from lightning_autoresearch.devices import (
    Lease,
    device_count,
    free_memory_gb,
    lease_cards,
    split_cores,
    thread_environment,
    visible_cards,
    wanted_cards,
)
from lightning_autoresearch.errors import ExecutorError
from lightning_autoresearch.forkserver import ForkServer
from lightning_autoresearch.redaction import without_secrets
from lightning_autoresearch.space import apply_overrides
from lightning_autoresearch.spec import Execution
from lightning_autoresearch.supervisor import Launch, ProcessIdentity
from lightning_autoresearch.trial import Job, TrialResult

_SHARE_OF_MEMORY = 0.9
_CLOSE_SECONDS = 10.0
_POLL_SECONDS = 0.05
_ADOPT_SECONDS = 2.0


class Executor(Protocol):
    """Runs trials, each in a folder of its own."""

    def submit(self, job: Job, folder: Path) -> None:
        """Start the job in the folder, which is made; a folder takes one trial only, a retry needs another.

        Raises:
            ExecutorError: no slot is free, the folder has an outcome, or the device is not to be had.
            ValueError: the job holds a number that is not finite.
        """
        ...

    def outcome(self, folder: Path) -> TrialResult | None:
        """How the folder's trial ended; None while it runs or where none was started."""
        ...

    def cancel(self, folder: Path) -> None:
        """Have the folder's trial ended soon; its outcome is CANCELLED unless it ended before."""
        ...

    def capacity(self) -> int:
        """How many more trials can be submitted now."""
        ...

    def wait(self, timeout_seconds: float) -> None:
        """Return when a trial may have ended, when none runs, or after so long."""
        ...

    def adopt(self, folder: Path) -> bool:
        """Take on a trial that an earlier process started: True when it still runs; it then counts as an own one."""
        ...

    def close(self) -> None:
        """End all that runs here, adopted trials included."""
        ...


def make_executor(
    execution: Execution, *, task: Mapping[str, Any], search_path: tuple[str, ...], key_variable: str | None = None
) -> Executor:
    """The executor that the spec asks for.

    Args:
        execution: the spec's section.
        task: the task, which says what devices are needed.
        search_path: where the task's classes are looked for.
        key_variable: the environment variable that holds the scientist's key, which no trial is given.

    Raises:
        ExecutorError: the task asks for GPUs and there are too few.
    """
    if execution.executor == "inline":
        return InlineExecutor(threads=len(split_cores(execution.slots)[0]))
    wanted_cards(task, available=len(visible_cards()))
    executor = ProcessExecutor(
        slots=execution.slots,
        search_path=search_path,
        preload=execution.preload,
        keep_environment=execution.keep_environment,
        drop_environment=(key_variable,) if key_variable else (),
        memory_gb=execution.memory_gb,
    )
    if not needs_new_interpreter(task):
        executor.warm()
    return executor


def needs_new_interpreter(task: Mapping[str, Any]) -> bool:
    """Whether Lightning may start this trial's command again for other ranks; that cannot be done to a forked one."""
    trainer = task.get("trainer") or {}
    several = device_count(task) > 1 or (trainer.get("num_nodes") or 1) > 1
    return several or (trainer.get("strategy") or "auto") not in ("auto", "single_device")


class InlineExecutor:
    """Runs each trial at once in this process, without a limit of memory.

    Args:
        threads: number of torch's threads; as it is by default.
        run: runs a job in its folder; by default from its LightningCLI config.
    """

    def __init__(self, *, threads: int | None = None, run: Callable[[Job, Path], TrialResult] | None = None):
        self._threads = threads
        self._run = run or self._run_config

    def submit(self, job: Job, folder: Path) -> None:
        """Run the job to its end."""
        _prepare_folder(folder)
        write_json(folder / "job.json", to_json(job), survives="crash")
        write_json(folder / "outcome.json", to_json(self._run(job, folder)), survives="crash")  # the journal follows

    def _run_config(self, job: Job, folder: Path) -> TrialResult:
        from lightning_autoresearch.runner import run_job

        return run_job(job, folder, threads=self._threads)

    def outcome(self, folder: Path) -> TrialResult | None:
        """How the folder's trial ended."""
        return supervisor.outcome_of(folder)

    def cancel(self, folder: Path) -> None:
        """Nothing runs between two calls."""

    def capacity(self) -> int:
        """Always one."""
        return 1

    def wait(self, timeout_seconds: float) -> None:
        """Nothing runs between two calls."""

    def adopt(self, folder: Path) -> bool:
        """A trial in a process ends with it."""
        return False

    def close(self) -> None:
        """Nothing is open."""


@dataclass(slots=True)
class _Slot:
    """Cores of a slot, and its cards once it has had any; they stay leased to it."""

    cores: tuple[int, ...]
    lease: Lease = dataclasses.field(default_factory=Lease)
    folder: Path | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Running:
    """A trial that runs."""

    gone: int | None
    """A descriptor that becomes readable when the supervisor is gone; None where the system has no such thing."""
    process: subprocess.Popen[bytes] | None = None
    """The supervisor, where it is this process's child."""


class ProcessExecutor:
    """A process per trial under a supervisor of its own; both outlive this process.

    A trial on one device is forked from a warm server, one on several starts in a new interpreter.  Each slot has its
    own cores and cards.  Without a memory limit, 90 % of the memory that is free now is divided among the slots.
    Variables that look like secrets, and those to drop, are kept from the trials; `os.environ` stays as it is.
    """

    def __init__(
        self,
        *,
        slots: int = 1,
        search_path: tuple[str, ...] = (),
        preload: tuple[str, ...] = (),
        keep_environment: tuple[str, ...] = (),
        drop_environment: tuple[str, ...] = (),
        memory_gb: float | None = None,
        start: Literal["auto", "exec"] = "auto",
        lease_seconds: float = 60.0,
    ):
        self._slots = [_Slot(cores) for cores in split_cores(slots)]
        self._search_path, self._preload = search_path, preload
        self._memory_gb = memory_gb or _SHARE_OF_MEMORY * free_memory_gb() / slots
        self._start, self._lease_seconds = start, lease_seconds
        self._cards = visible_cards()
        # Sets of strings have one order in every trial; CUDA is asked by NVML, which a fork survives.
        fixed = {"PYTHONHASHSEED": "0", "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
        threads = thread_environment(len(self._slots[0].cores))
        if "SLURM_NTASKS" in os.environ:  # a trial is no task of the job: Lightning shall not count itself among them
            threads["SLURM_JOB_NAME"] = "interactive"
        open_to_all = without_secrets(os.environ, keep=keep_environment, drop=drop_environment)
        self._environment = fixed | open_to_all | threads
        self._server: ForkServer | None = None
        self._running: dict[Path, _Running] = {}

    def __enter__(self) -> ProcessExecutor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def warm(self) -> ForkServer:
        """Start the server if there is none; it is ready seconds later, and takes trials until then."""
        if self._server is not None and self._server.failure() is not None:
            self._server.close()
            self._server = None
        if self._server is None:
            self._server = ForkServer(
                environment=self._environment, search_path=self._search_path, preload=self._preload
            )
        return self._server

    def submit(self, job: Job, folder: Path) -> None:
        """Start the job in a free slot."""
        number = self._free_slot()
        _prepare_folder(folder)
        lease = self._lease(number, wanted_cards(job.task, available=len(self._cards)))
        job = _on_cards(job, lease)
        start: Literal["fork", "exec"] = "exec" if self._start == "exec" or needs_new_interpreter(job.task) else "fork"
        write_json(folder / "job.json", to_json(job), survives="crash")
        launch = self._launch(job, number, lease, start=start)
        write_json(folder / "launch.json", to_json(launch), survives="crash")
        gone, notify = os.pipe()
        try:
            process = None
            if start == "fork":
                self._start_warm(folder, notify=notify, lease=lease)
            else:
                process = self._start_cold(folder, notify=notify, lease=lease)
        except BaseException:
            os.close(gone)
            raise
        finally:
            os.close(notify)
        self._slots[number].folder = folder
        self._running[folder] = _Running(gone=gone, process=process)

    def outcome(self, folder: Path) -> TrialResult | None:
        """How the folder's trial ended; a supervisor that vanished leaves the trial LOST.

        Raises:
            ExecutorError: the server could not start.
        """
        known = supervisor.outcome_of(folder)
        running = self._running.get(folder)
        if known is None and running is not None and _is_gone(running, folder):
            self._release(folder)
            known = supervisor.outcome_of(folder)
            if known is None and not self.adopt(folder):
                self._complain_about_server(folder)
                known = supervisor.settle(folder)
        elif known is not None and running is not None:
            self._release(folder)
        return known

    def cancel(self, folder: Path) -> None:
        """Ask the supervisor to end the trial."""
        (folder / "cancel").touch()

    def capacity(self) -> int:
        """Slots without a trial."""
        for folder in list(self._running):
            if supervisor.outcome_of(folder) is not None:
                self._release(folder)
        return max(len(self._slots) - len(self._running), 0)

    def wait(self, timeout_seconds: float) -> None:
        """Return when a supervisor is gone or has written an outcome."""
        deadline = time.monotonic() + timeout_seconds
        watchable = [running.gone for running in self._running.values() if running.gone is not None]
        step = timeout_seconds if len(watchable) == len(self._running) else _POLL_SECONDS
        while self._running and (left := deadline - time.monotonic()) > 0:
            if _readable(watchable, timeout_seconds=min(left, step)):
                return
            if any((folder / "outcome.json").exists() for folder in self._running):
                return

    def adopt(self, folder: Path) -> bool:
        """Take on a running trial, verified by its lock and by boot id, process number and start time."""
        if folder in self._running:
            return True
        deadline = time.monotonic() + _ADOPT_SECONDS
        while supervisor.is_locked(folder) and not (folder / "outcome.json").exists():
            identity = _identity(folder)
            if identity is not None and supervisor.identity_of(identity.pid) == identity:
                self._take_on(folder, identity)
                return True
            if time.monotonic() > deadline:  # the lock is taken just before the identity is written
                return False
            time.sleep(0.01)
        return False

    def close(self) -> None:
        """Cancel what runs, end what does not heed that, stop the server, give the cards back."""
        for folder in self._running:
            self.cancel(folder)
        deadline = time.monotonic() + _CLOSE_SECONDS
        while self._running and time.monotonic() < deadline:
            self.wait(0.1)
            for folder in [folder for folder, running in self._running.items() if _is_gone(running, folder)]:
                self._release(folder)
        for folder in list(self._running):
            identity = _identity(folder)
            if identity is not None and supervisor.identity_of(identity.pid) == identity:
                os.kill(identity.pid, signal.SIGKILL)
            self._release(folder)
        if self._server is not None:
            self._server.close()
            self._server = None
        for slot in self._slots:
            slot.lease.close()
            slot.lease = Lease()

    def _free_slot(self) -> int:
        if self.capacity() > 0:
            for number, slot in enumerate(self._slots):
                if slot.folder is None:
                    return number
        raise ExecutorError(f"all {len(self._slots)} slots are taken; wait for an outcome first")

    def _lease(self, number: int, count: int) -> Lease:
        slot = self._slots[number]
        if len(slot.lease.cards) != count:
            slot.lease.close()
            slot.lease = Lease()
            if count:
                slot.lease = lease_cards(self._cards, count=count, wait_seconds=self._lease_seconds)
        return slot.lease

    def _launch(self, job: Job, number: int, lease: Lease, *, start: Literal["fork", "exec"]) -> Launch:
        cores = self._slots[number].cores
        return Launch(
            slot=number,
            cores=cores,
            threads=max(len(cores) // device_count(job.task), 1),
            cards=tuple(card.name for card in lease.cards),
            memory_gb=job.memory_gb or self._memory_gb,
            start=start,
            submitted_at=time.time(),
        )

    def _start_warm(self, folder: Path, *, notify: int, lease: Lease) -> None:
        server = self.warm()
        try:
            server.start(folder, notify=notify, keep=lease.descriptors)
        except ExecutorError:
            if not server.was_killed():
                raise
            self.warm().start(folder, notify=notify, keep=lease.descriptors)

    def _start_cold(self, folder: Path, *, notify: int, lease: Lease) -> subprocess.Popen[bytes]:
        with open(folder / "log.txt", "ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "lightning_autoresearch.supervisor", str(folder), str(notify)],
                env=self._environment,
                pass_fds=(notify, *lease.descriptors),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _take_on(self, folder: Path, identity: ProcessIdentity) -> None:
        gone = None
        if hasattr(os, "pidfd_open"):
            with suppress(OSError):
                gone = os.pidfd_open(identity.pid)
        self._running[folder] = _Running(gone=gone)
        number = from_json(read_json(folder / "launch.json"), Launch).slot
        if number >= len(self._slots) or self._slots[number].folder is not None:
            number = next((n for n, slot in enumerate(self._slots) if slot.folder is None), -1)
        if number >= 0:
            self._slots[number].folder = folder

    def _release(self, folder: Path) -> None:
        running = self._running.pop(folder)
        if running.gone is not None:
            os.close(running.gone)
        if running.process is not None:
            running.process.wait()
        for slot in self._slots:
            if slot.folder == folder:
                slot.folder = None

    def _complain_about_server(self, folder: Path) -> None:
        """A server that cannot start is the executor's failure; one that was killed only loses what it held."""
        server = self._server
        if server is not None and not (folder / "process.json").exists():
            failure = server.failure(wait_seconds=_ADOPT_SECONDS)
            if failure is not None and not server.was_killed():
                raise ExecutorError(failure)


def _prepare_folder(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "outcome.json").exists():
        raise ExecutorError(f"{folder} has an outcome already; a retry needs a folder of its own")
    if supervisor.is_locked(folder):
        raise ExecutorError(f"a trial runs in {folder}; adopt it instead")
    for name in ("cancel", "result.json", "stack.txt", "process.json"):
        (folder / name).unlink(missing_ok=True)


def _on_cards(job: Job, lease: Lease) -> Job:
    """The job bound to the slot's cards: never on the CPU instead, never on more of them."""
    if not lease.cards:
        return job
    bound = {"trainer.accelerator": "gpu", "trainer.devices": len(lease.cards)}
    return dataclasses.replace(job, task=apply_overrides(job.task, bound))


def _identity(folder: Path) -> ProcessIdentity | None:
    data = read_json(folder / "process.json")
    return None if data is None else from_json(data, ProcessIdentity)


def _is_gone(running: _Running, folder: Path) -> bool:
    if running.gone is not None:
        return _readable([running.gone], timeout_seconds=0)
    return (folder / "outcome.json").exists() or not supervisor.is_locked(folder)


def _readable(descriptors: list[int], *, timeout_seconds: float) -> bool:
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN | select.POLLHUP)
    return bool(poll.poll(timeout_seconds * 1000))
