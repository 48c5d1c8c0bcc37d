"""Trials of a fit that several processes share: each rank runs the program once more, as a worker for trials.

A failed rank leaves its process group unusable, and the others waiting in it.  So a trial is never run in the
processes of the user's own fit.  Every rank starts a worker: the same command with the same rank and another port for
the process group.  The workers take one trial after the other; after a failure they are ended and, for the next trial,
started anew.  Ranks talk through a store that rank zero holds, and only wait in slices of seconds, never in a
collective operation: however long rank zero thinks, no time-out of a process group runs.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.fabric.strategies.launchers.subprocess_script import _basic_subprocess_cmd
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from lightning_autoresearch import supervisor
from lightning_autoresearch.codec import from_json, to_json, write_json
from lightning_autoresearch.errors import ExecutorError, ResearchError
from lightning_autoresearch.trial import Job, TrialResult, TrialStatus

WORKER = "LIGHTNING_AUTORESEARCH_WORKER"
"""Environment variable that makes a program a worker: JSON of `Post`'s place."""
_LONGEST_PAUSE_SECONDS = 0.05
_GRACE_SECONDS = 3.0
_START_SECONDS = 600.0
_LOG_LINES = 10

RunJob = Callable[[Job, Path], TrialResult]


class Post:
    """Messages between the ranks, each of them written once, through a store that rank zero holds.

    Args:
        host: name or address of rank zero's machine.
        port: port of the store; 0 to open one here.
        holder: whether the store is held here.
    """

    def __init__(self, host: str, port: int, *, holder: bool):
        self.host = host
        self._store = TCPStore(host, port, is_master=holder, wait_for_workers=False, timeout=timedelta(seconds=60))
        self.port = int(self._store.port)

    def put(self, key: str, message: Mapping[str, Any]) -> None:
        """Write a message."""
        self._store.set(key, json.dumps(message))

    def get(self, key: str, *, seconds: float = 1.0) -> dict[str, Any] | None:
        """A message, or None where none has come after so many seconds.

        Raises:
            ResearchError: rank zero is gone.
        """
        deadline, pause = time.monotonic() + seconds, 0.001
        while (message := self.look(key)) is None and time.monotonic() < deadline:
            time.sleep(pause)  # the store's own wait would write a warning for every slice
            pause = min(1.5 * pause, _LONGEST_PAUSE_SECONDS)
        return message

    def look(self, key: str) -> dict[str, Any] | None:
        """A message, if it is there now.

        Raises:
            ResearchError: rank zero is gone.
        """
        try:
            if not self._store.check([key]):
                return None
            message: dict[str, Any] = json.loads(self._store.get(key))
        except RuntimeError as error:
            raise ResearchError(f"rank zero is gone: {error}") from error
        return message

    def number(self) -> int:
        """The next number, the same count for all."""
        return int(self._store.add("numbers", 1))


class Worker:
    """This rank's worker, while it lives.

    Args:
        post: where the ranks talk.
        ranks: what Lightning calls this process: `local_rank`, `node_rank`, `global_rank`, `world_size`.
        port: port of the workers' process group.
        generation: number of the crew.
        study: the study's folder.
        drop: names of environment variables that a worker is not given.
    """

    def __init__(
        self, post: Post, *, ranks: Mapping[str, int], port: int, generation: int, study: Path, drop: tuple[str, ...]
    ):
        self.rank, self.generation = ranks["global_rank"], generation
        self.log = study / "workers" / f"rank-{self.rank}.log"
        self.log.parent.mkdir(parents=True, exist_ok=True)
        place = {"host": post.host, "port": post.port, "generation": generation, "rank": self.rank}
        environment = {name: value for name, value in os.environ.items() if name not in drop}
        environment.pop("TORCHELASTIC_USE_AGENT_STORE", None)  # the agent's store belongs to the other process group
        environment |= {
            "MASTER_PORT": str(port),
            "LOCAL_RANK": str(ranks["local_rank"]),
            "NODE_RANK": str(ranks["node_rank"]),
            "WORLD_SIZE": str(ranks["world_size"]),
        }
        lives, self._alive = os.pipe()  # the worker ends itself when its end tells that this process is gone
        environment[WORKER] = json.dumps({**place, "study": str(study.resolve()), "parent": lives})
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                _command(),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(lives,),
                start_new_session=True,
            )
        os.close(lives)

    def ended(self) -> int | None:
        """How it ended by itself; None while it lives."""
        return self._process.poll()

    def last_words(self) -> tuple[str, ...]:
        """The end of what it wrote."""
        with suppress(OSError):
            return tuple(self.log.read_text(errors="replace").splitlines()[-_LOG_LINES:])
        return ()

    def stop(self) -> None:
        """End it with all that it started."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        with suppress(OSError):
            os.close(self._alive)


def _command() -> list[str]:
    """The command that runs this program again, as Lightning runs it for the other ranks.

    Raises:
        ExecutorError: there is none, because it was typed in or read from standard input.
    """
    if not sys.argv or sys.argv[0] in ("", "-c", "-"):
        raise ExecutorError("on several devices, trials run the program again: put it into a file and run that")
    return list(_basic_subprocess_cmd())


class Crew:
    """Rank zero's executor: trials by workers of all ranks, one trial at a time.

    Args:
        post: where the ranks talk.
        ranks: as for `Worker`.
        study: the study's folder.
        drop: names of environment variables that workers are not given.
        interrupted: whether the person asked to stop; then a trial is cancelled.
    """

    def __init__(
        self,
        post: Post,
        *,
        ranks: Mapping[str, int],
        study: Path,
        drop: tuple[str, ...] = (),
        interrupted: Callable[[], bool] = lambda: False,
    ):
        self._post, self._ranks, self._study, self._drop = post, ranks, study, drop
        self._interrupted = interrupted
        self._orders = self._generation = self._count = 0
        self._worker: Worker | None = None
        self._job: Job | None = None
        self._folder: Path | None = None
        self._started = 0.0
        self._failing: float | None = None

    def submit(self, job: Job, folder: Path) -> None:
        """Hand the job to the workers, which are started if there are none."""
        folder.mkdir(parents=True, exist_ok=True)
        if self._folder is not None:
            raise ExecutorError("a trial is running; wait for its outcome first")
        if self._worker is None:
            self._start()
        write_json(folder / "job.json", to_json(job), survives="crash")
        self._count += 1
        self._job, self._folder, self._started, self._failing = job, folder, time.monotonic(), None
        self._post.put(self._key("job"), {"job": to_json(job), "folder": str(folder.resolve())})

    def outcome(self, folder: Path) -> TrialResult | None:
        """How the folder's trial ended."""
        if folder == self._folder and (result := self._look()):
            write_json(folder / "outcome.json", to_json(result), survives="crash")
            self._job = self._folder = None
            if result.status is not TrialStatus.FINISHED:
                self._stop()
        return supervisor.outcome_of(folder)

    def cancel(self, folder: Path) -> None:
        """End the folder's trial."""
        if folder == self._folder:
            self._stop()

    def capacity(self) -> int:
        """One, unless a trial runs."""
        return int(self._folder is None)

    def wait(self, timeout_seconds: float) -> None:
        """Return when the trial may have ended, or after so long."""
        if self._folder is not None:
            self._post.get(f"{self._key('result')}/0", seconds=timeout_seconds)

    def adopt(self, folder: Path) -> bool:
        """A worker ends with its program."""
        return False

    def close(self) -> None:
        """End the workers."""
        self._stop()

    def finish(self, message: Mapping[str, Any]) -> None:
        """Tell the other ranks how the research ended; they go on then."""
        self._stop()
        self._order({"what": "end", **message})

    def _start(self) -> None:
        self._generation, self._count = self._generation + 1, 0
        port = _free_port()
        self._order({"what": "start", "port": port, "generation": self._generation})
        self._worker = Worker(
            self._post, ranks=self._ranks, port=port, generation=self._generation, study=self._study, drop=self._drop
        )
        deadline = time.monotonic() + _START_SECONDS
        for rank in range(self._ranks["world_size"]):
            while self._post.get(f"ready/{self._generation}/{rank}") is None:
                if (gone := self._gone()) or time.monotonic() > deadline or self._interrupted():
                    words = gone or {"rank": rank, "code": "no answer in time", "log": []}
                    self._stop()
                    if self._interrupted():
                        return
                    raise ExecutorError(_never_ready(words))

    def _stop(self) -> None:
        if self._worker is not None:
            self._order({"what": "stop"})
            self._worker.stop()
            self._worker = None

    def _order(self, message: Mapping[str, Any]) -> None:
        self._post.put(f"order/{self._orders}", message)
        self._orders += 1

    def _key(self, what: str) -> str:
        return f"{what}/{self._generation}/{self._count}"

    def _look(self) -> TrialResult | None:
        """What has become of the trial that runs; None while it is not decided."""
        assert self._job is not None
        if self._worker is None:
            return self._ending(TrialStatus.CANCELLED, "the study was asked to stop")
        found = [self._post.look(f"{self._key('result')}/{rank}") for rank in range(self._ranks["world_size"])]
        results = [(one["number"], from_json(one["result"], TrialResult)) for one in found if one]
        if len(results) == len(found) and all(result.finished for _, result in results):
            peaks = [result.peak_memory_gb or 0.0 for _, result in results]
            return replace(results[0][1], peak_memory_gb=max(peaks))
        if self._interrupted():
            return self._ending(TrialStatus.CANCELLED, "the study was asked to stop")
        if self._passed() > self._job.timeout_seconds:
            return self._ending(TrialStatus.TIMED_OUT, f"took longer than {self._job.timeout_seconds:g} s")
        failed = [(number, result) for number, result in results if not result.finished]
        gone = self._gone()
        if not failed and gone is None:
            return None
        if len(results) < len(found):  # the others may yet say something, or hang
            self._failing = self._failing or time.monotonic()
            if gone is None and time.monotonic() - self._failing < _GRACE_SECONDS:
                return None
        if gone is not None:
            return self._ending(*_how_it_died(gone))
        return min(failed, key=lambda one: one[0])[1]

    def _ending(self, status: TrialStatus, failure: str, log: tuple[str, ...] = ()) -> TrialResult:
        assert self._job is not None
        return TrialResult(
            trial_id=self._job.trial_id,
            status=status,
            failure=failure,
            traceback=log,
            wall_seconds=self._passed(),
        )

    def _passed(self) -> float:
        return time.monotonic() - self._started

    def _gone(self) -> dict[str, Any] | None:
        """What is known of a worker that ended by itself."""
        assert self._worker is not None
        if (code := self._worker.ended()) is not None:
            return {"rank": 0, "code": code, "log": self._worker.last_words()}
        for rank in range(1, self._ranks["world_size"]):
            if gone := self._post.look(f"gone/{self._generation}/{rank}"):
                return gone
        return None


def follow(post: Post, *, ranks: Mapping[str, int], study: Path, drop: tuple[str, ...] = ()) -> dict[str, Any]:
    """What another rank than zero does while there is research: start and end its worker when it is told to.

    Returns:
        What rank zero said at the end.

    Raises:
        ResearchError: rank zero is gone.
    """
    worker: Worker | None = None
    try:
        for number in range(sys.maxsize):
            while (order := post.get(f"order/{number}")) is None:
                if worker is not None and (code := worker.ended()) is not None:
                    gone = {"rank": worker.rank, "code": code, "log": worker.last_words()}
                    post.put(f"gone/{worker.generation}/{worker.rank}", gone)
            if worker is not None:
                worker.stop()
                worker = None
            if order["what"] == "end":
                return order
            if order["what"] == "start":
                port, generation = order["port"], order["generation"]
                worker = Worker(post, ranks=ranks, port=port, generation=generation, study=study, drop=drop)
    finally:
        if worker is not None:
            worker.stop()
    raise AssertionError("unreachable")


# -- the worker itself -----------------------------------------------------------------------------------------------


def place_of_worker() -> dict[str, Any] | None:
    """Where this process stands as a worker; None where it is none."""
    text = os.environ.get(WORKER)
    return json.loads(text) if text else None


def end_with_parent(place: Mapping[str, Any]) -> None:
    """Have this process and all that it starts ended as soon as the one that started it is gone."""

    def watch() -> None:
        with suppress(OSError):
            while os.read(place["parent"], 1):
                pass
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()


def serve(place: Mapping[str, Any], run: RunJob) -> None:
    """Run trials until the process is ended.

    Args:
        place: what `place_of_worker` gave.
        run: runs one trial together with the other ranks.
    """
    post = Post(place["host"], place["port"], holder=False)
    generation, rank = place["generation"], place["rank"]
    post.put(f"ready/{generation}/{rank}", {})
    for count in range(1, sys.maxsize):
        while (message := post.get(f"job/{generation}/{count}")) is None:
            pass
        result = run(from_json(message["job"], Job), Path(message["folder"]))
        post.put(f"result/{generation}/{count}/{rank}", {"number": post.number(), "result": to_json(result)})


def _how_it_died(gone: Mapping[str, Any]) -> tuple[TrialStatus, str, tuple[str, ...]]:
    code, log = gone["code"], tuple(gone["log"])
    if code in (-signal.SIGKILL, -signal.SIGTERM):
        return TrialStatus.KILLED, f"rank {gone['rank']} was ended by signal {-code}", log
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    return TrialStatus.ERROR, f"rank {gone['rank']} ended with {how}", log


def _never_ready(gone: Mapping[str, Any]) -> str:
    log = "".join(f"\n    {line}" for line in gone["log"])
    return (
        f"the program, run again as a worker for trials, did not reach its fit on rank {gone['rank']} "
        f"({gone['code']}); it must come to the same `fit` when it is started a second time{log}"
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def ranks_of(trainer: pl.Trainer) -> dict[str, int]:
    """What Lightning calls this process."""
    names = ("local_rank", "node_rank", "global_rank", "world_size")
    return {name: int(getattr(trainer, name)) for name in names}


def open_post(trainer: pl.Trainer) -> Post:
    """The store through which the ranks of a Trainer talk; rank zero holds it."""
    environment = trainer._accelerator_connector.cluster_environment
    host = environment.main_address
    post = Post(host, 0, holder=True) if trainer.is_global_zero else None
    port = trainer.strategy.broadcast(post.port if post else 0, src=0)
    return post or Post(host, port, holder=False)
