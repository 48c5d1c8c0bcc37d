"""The process beside each trial: it starts it, enforces the limits, sweeps what is left and writes `outcome.json`.

It runs in a session of its own, so neither a signal to the controller's group nor the controller's death reaches it:
the trial goes on and its outcome is written all the same.  What lies in a trial's folder:

    job.json      what to run (the controller writes it)         run.lock      held while a supervisor or trial lives
    launch.json   with what: cores, cards, memory                process.json  who the supervisor is
    cancel        asks the supervisor to end the trial           log.txt       stdout and stderr of the trial
    result.json   what the trial itself measured                 stack.txt     where a hung trial stood
    outcome.json  how it ended: written last, whole or not at all

Outside Linux there is no child subreaper, no death signal and no proportional memory: a daemon that left its process
group escapes the sweep there, and memory is the plain sum of resident sizes.
"""

from __future__ import annotations

import ctypes
import dataclasses
import faulthandler
import fcntl
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn

from lightning_autoresearch.codec import from_json, read_json, to_json, write_json
from lightning_autoresearch.devices import pin, thread_environment
from lightning_autoresearch.tracebacks import stuck_lines
from lightning_autoresearch.trial import Job, TrialResult, TrialStatus

_POLL_SECONDS = 0.05
_MEMORY_SECONDS = 0.2
_STACK_SECONDS = 0.5
_AFTER_RESULT_SECONDS = 5.0
_SWEEP_SECONDS = 10.0
_TAIL_BYTES, _MOST_OF_A_SECRET = 16384, 200
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


@dataclass(frozen=True, kw_only=True, slots=True)
class Launch:
    """With what a trial is started."""

    slot: int
    """Number of the slot it occupies."""
    cores: tuple[int, ...]
    """Cores that it is bound to."""
    threads: int
    """Threads of numeric libraries, per process of the trial."""
    cards: tuple[str, ...]
    """GPUs as CUDA_VISIBLE_DEVICES calls them; empty for none."""
    memory_gb: float | None
    """Largest memory of all its processes, in 1e9 bytes; null for no limit."""
    start: Literal["fork", "exec"]
    """`fork`: straight from the warm server; `exec`: a new interpreter, which DDP can start again for other ranks."""
    submitted_at: float
    """Seconds since the epoch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProcessIdentity:
    """A process, beyond the reuse of its number and beyond a reboot."""

    boot: str
    """The kernel's boot id, or the time of boot."""
    pid: int
    """Process number."""
    started: str
    """Start time as the kernel gives it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Ending:
    """Why and how the trial's process ended."""

    code: int | None
    """Exit code, or minus the signal; null where it is unknown."""
    status: TrialStatus | None = None
    """Set when the supervisor ended it."""
    reason: str = ""
    """Why the supervisor ended it."""


def supervise(folder: Path, *, to_close: tuple[int, ...] = ()) -> None:
    """Run the folder's trial to its outcome; does nothing where it already runs or has ended.

    `to_close` are descriptors that the trial must not inherit.
    """
    with open(folder / "run.lock", "w") as lock:
        if not try_lock(lock.fileno()) or (folder / "outcome.json").exists():
            return
        identity = identity_of(os.getpid())
        write_json(folder / "process.json", to_json(identity), survives="crash")
        job = from_json(read_json(folder / "job.json"), Job)
        launch = from_json(read_json(folder / "launch.json"), Launch)
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)
        pin(launch.cores)
        kills = _kernel_kills()
        trial = _start(folder, launch, to_close=to_close)
        ending = _Watch(job, launch, folder, trial).until_end()
        sweep(trial)
        result = _outcome(job, folder, ending, kernel_kills=_kernel_kills() - kills)
        wall_seconds = max(time.time() - launch.submitted_at, 0.0)
        write_json(folder / "outcome.json", to_json(dataclasses.replace(result, wall_seconds=wall_seconds)))


def settle(folder: Path) -> TrialResult | None:
    """The outcome of a trial whose supervisor died: its own result if it left one, else LOST; None while it lives."""
    with open(folder / "run.lock", "w") as lock:
        if not try_lock(lock.fileno()):
            return None
        known = outcome_of(folder)
        if known is None:
            job = from_json(read_json(folder / "job.json"), Job)
            lost = TrialResult(
                trial_id=job.trial_id, status=TrialStatus.LOST, failure="its supervisor ended without an outcome"
            )
            known = _own_result(folder, job) or lost
            write_json(folder / "outcome.json", to_json(known))
        return known


def outcome_of(folder: Path) -> TrialResult | None:
    """The outcome in a trial's folder, if it has one."""
    data = read_json(folder / "outcome.json")
    return None if data is None else from_json(data, TrialResult)


def try_lock(descriptor: int) -> bool:
    """Take the lock of an open file for this process and all that inherit it; False where another has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def is_locked(folder: Path) -> bool:
    """Whether a supervisor or trial of this folder lives."""
    try:
        with open(folder / "run.lock") as lock:
            return not try_lock(lock.fileno())
    except OSError:
        return False


def identity_of(pid: int) -> ProcessIdentity | None:
    """Who has this process number now; None where nobody has, or only a zombie."""
    if not Path("/proc/self/stat").exists():
        return _identity_without_proc(pid)
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
    return None if state in "ZX" else ProcessIdentity(boot=boot, pid=pid, started=fields[18])


def _identity_without_proc(pid: int) -> ProcessIdentity | None:
    import psutil

    try:
        process = psutil.Process(pid)
        alive = process.status() != psutil.STATUS_ZOMBIE
        started = str(process.create_time())
    except psutil.Error:
        return None
    return ProcessIdentity(boot=str(round(psutil.boot_time())), pid=pid, started=started) if alive else None


def descendants(pid: int) -> list[int]:
    """Every living or unreaped process below this one."""
    if not Path(f"/proc/self/task/{os.getpid()}/children").exists():
        import psutil

        with suppress(psutil.Error):
            return [child.pid for child in psutil.Process(pid).children(recursive=True)]
        return []
    found: list[int] = []
    todo = [pid]
    while todo:
        children = list(_children(todo.pop()))
        found += children
        todo += children
    return found


def _children(pid: int) -> Iterator[int]:
    with suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with suppress(OSError):
                yield from map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())


def sweep(group: int) -> None:
    """End the trial's process group and every other descendant, daemons included, and wait until they are gone."""
    deadline = time.monotonic() + _SWEEP_SECONDS
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)
    _reap()
    while (left := descendants(os.getpid())) and time.monotonic() < deadline:
        for pid in left:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.002)
        _reap()


def _reap() -> dict[int, int]:
    """Exit codes (or minus the signal) of the children that have ended."""
    ended: dict[int, int] = {}
    with suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            ended[pid] = os.waitstatus_to_exitcode(status)
    return ended


class _Watch:
    """Waits for a trial and ends it when a limit is passed."""

    def __init__(self, job: Job, launch: Launch, folder: Path, trial: int):
        self.job, self.launch, self.folder, self.trial = job, launch, folder, trial
        self.deadline = time.monotonic() + job.timeout_seconds
        self.terminated = False
        self._next_memory = 0.0
        self._result_seen: float | None = None
        signal.signal(signal.SIGTERM, lambda *_: setattr(self, "terminated", True))

    def until_end(self) -> _Ending:
        """The end of the trial, brought about if need be."""
        sleep = _sleeper(self.trial)
        while True:
            ended = _reap()
            if self.trial in ended:
                return _Ending(code=ended[self.trial])
            status, reason = self._limit_passed()
            if reason:
                return _Ending(code=None, status=status, reason=reason)
            sleep(min(_POLL_SECONDS, max(self.deadline - time.monotonic(), 0.001)))

    def _limit_passed(self) -> tuple[TrialStatus | None, str]:
        now = time.monotonic()
        if (self.folder / "cancel").exists():
            return TrialStatus.CANCELLED, "cancelled"
        if self.terminated:
            return TrialStatus.KILLED, "its supervisor was told to end (SIGTERM)"
        if now >= self.deadline:
            self._ask_where_it_stands()
            return TrialStatus.TIMED_OUT, f"took longer than {self.job.timeout_seconds:g} s"
        if self._lingers(now):
            return None, "did not exit after its result"
        return self._memory_passed(now)

    def _memory_passed(self, now: float) -> tuple[TrialStatus | None, str]:
        limit = self.launch.memory_gb
        if limit is None or now < self._next_memory:
            return None, ""
        self._next_memory = now + _MEMORY_SECONDS
        used = _memory_gb(above=limit)
        if used <= limit:
            return None, ""
        return TrialStatus.OUT_OF_MEMORY, f"took {used:.2f} GB of memory, {limit:.2f} GB are allowed"

    def _lingers(self, now: float) -> bool:
        """Whether the result is written and the process, or a rank of it, does not come to its end."""
        if self._result_seen is None and (self.folder / "result.json").exists():
            self._result_seen = now
        return self._result_seen is not None and now > self._result_seen + _AFTER_RESULT_SECONDS

    def _ask_where_it_stands(self) -> None:
        """Have `faulthandler` write the stack; it answers even where Python code can no longer run."""
        stack, size = self.folder / "stack.txt", 0
        if not stack.exists():  # nobody listens yet, and the signal would only end the trial
            return
        with suppress(ProcessLookupError):
            os.kill(self.trial, signal.SIGUSR1)
        give_up = time.monotonic() + _STACK_SECONDS
        while time.monotonic() < give_up:
            time.sleep(0.02)
            before, size = size, stack.stat().st_size
            if size and size == before:
                break


def _sleeper(pid: int) -> Callable[[float], object]:
    """A sleep that the end of the process cuts short, where the system can tell."""
    with suppress(OSError, AttributeError):
        poll = select.poll()
        poll.register(os.pidfd_open(pid), select.POLLIN)
        return lambda seconds: poll.poll(seconds * 1000)
    return lambda seconds: time.sleep(min(seconds, 0.01))


def _start(folder: Path, launch: Launch, *, to_close: tuple[int, ...]) -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    supervisor = os.getpid()
    pid = os.fork()
    if pid == 0:
        _be_trial(folder, launch, supervisor=supervisor, to_close=to_close)
    with suppress(OSError):  # the child does it as well; whoever comes first
        os.setpgid(pid, pid)
    return pid


def _be_trial(folder: Path, launch: Launch, *, supervisor: int, to_close: tuple[int, ...]) -> NoReturn:
    """The child's side of the fork; it never returns."""
    try:
        _prepare(folder, launch, supervisor=supervisor, to_close=to_close)
        if launch.start == "exec":
            arguments = [sys.executable, "-m", "lightning_autoresearch.runner", str(folder)]
            os.execve(sys.executable, arguments, os.environ)
        from lightning_autoresearch.runner import run_folder

        run_folder(folder)
    except BaseException:  # nothing may climb into the server's own frames
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # interpreter shutdown takes up to a second


def _prepare(folder: Path, launch: Launch, *, supervisor: int, to_close: tuple[int, ...]) -> None:
    with suppress(OSError):
        os.setpgid(0, 0)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != supervisor:
        os._exit(1)  # it died before the line above
    with suppress(OSError):  # if memory runs out, the kernel takes a trial, not the study
        Path("/proc/self/oom_score_adj").write_text("1000")
    for descriptor in to_close:
        os.close(descriptor)
    log = os.open(folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    faulthandler.enable(file=2)
    os.environ.update(thread_environment(launch.threads))
    if launch.cards:
        os.environ |= {"CUDA_VISIBLE_DEVICES": ",".join(launch.cards), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


def _outcome(job: Job, folder: Path, ending: _Ending, *, kernel_kills: int) -> TrialResult:
    """The trial's own result where it left one; nothing else proves that it came to its end."""
    result = _own_result(folder, job)
    if result is not None:
        return result
    status, failure = _in_words(ending, kernel_kills=kernel_kills)
    # A hung trial was asked for its stack; one that crashed left it in the log, by faulthandler.
    stack = stuck_lines(_tail(folder / "stack.txt")) or stuck_lines(_tail(folder / "log.txt"))
    # All of the log's end is told: it is cut to a few lines where secrets are known and have been taken out.
    log = tuple(line.rstrip() for line in _tail(folder / "log.txt").splitlines() if line.strip())
    return TrialResult(trial_id=job.trial_id, status=status, failure=failure, traceback=stack or log)


def _in_words(ending: _Ending, *, kernel_kills: int) -> tuple[TrialStatus, str]:
    if ending.status is not None:
        return ending.status, ending.reason
    code = ending.code or 0
    if code == -signal.SIGKILL and kernel_kills > 0:
        return TrialStatus.OUT_OF_MEMORY, "the kernel ended it for want of memory"
    if code < 0:
        return TrialStatus.KILLED, f"ended by {_signal_name(-code)}, which the executor did not send"
    return TrialStatus.ERROR, f"ended without a result (exit code {code})"


def _own_result(folder: Path, job: Job) -> TrialResult | None:
    data = read_json(folder / "result.json")
    if data is None:
        return None
    try:
        result = from_json(data, TrialResult)
    except ValueError:
        return None
    return result if result.trial_id == job.trial_id else None


def _tail(path: Path) -> str:
    """The end of a file; where it does not begin with the file, so much later that no half of a secret is left."""
    try:
        with open(path, "rb") as stream:
            start = max(stream.seek(0, os.SEEK_END) - _TAIL_BYTES, 0)
            stream.seek(start)
            return stream.read().decode(errors="replace")[_MOST_OF_A_SECRET if start else 0 :]
    except OSError:
        return ""


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _memory_gb(*, above: float) -> float:
    """Memory of all descendants, shared pages counted once (proportional set size).

    The sum of resident sizes is an upper bound and cheap to read, so the exact sum is taken only when that one passes
    `above`.
    """
    pids = descendants(os.getpid())
    resident = sum(map(_resident_bytes, pids)) / 1e9
    return resident if resident <= above else sum(map(_proportional_bytes, pids)) / 1e9


def _resident_bytes(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return _resident_without_proc(pid) if not Path("/proc/self/statm").exists() else 0


def _proportional_bytes(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return _resident_bytes(pid)


def _resident_without_proc(pid: int) -> int:
    import psutil

    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0


def _kernel_kills() -> int:
    """How many processes the kernel has ended for want of memory, in this container or else on this machine."""
    for path in (Path("/sys/fs/cgroup/memory.events"), Path("/proc/vmstat")):
        with suppress(OSError):
            for line in path.read_text().splitlines():
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
    return 0


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def main() -> None:
    """Supervise the folder named on the command line, for trials that need a new interpreter.

    The second argument is the descriptor whose closing tells the controller that this process is gone.
    """
    notify = int(sys.argv[2])
    supervise(Path(sys.argv[1]), to_close=(notify,))
    os.close(notify)
    os._exit(0)


if __name__ == "__main__":
    main()
