"""Ask and tell: trials that the program's own loop fits, one after the other, each under its own control."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities.seed import isolate_rng

from lightning_autoresearch import supervisor
from lightning_autoresearch.building import Training
from lightning_autoresearch.codec import to_json, write_json
from lightning_autoresearch.errors import InputError
from lightning_autoresearch.live import changed
from lightning_autoresearch.plain import plain
from lightning_autoresearch.runner import Run, cuda_in_use, same_environment
from lightning_autoresearch.space import get_key, has_key
from lightning_autoresearch.study import Study
from lightning_autoresearch.summary import StudySummary
from lightning_autoresearch.trainers import settings_of, validation_data
from lightning_autoresearch.trial import Job, TrialResult, digest_of


@dataclass(kw_only=True)
class Asked:
    """A trial that the program is to fit: `with trial:` makes an exception of its fit the trial's outcome.

    Attributes:
        id: number of the trial in its study, five digits.
        seed: seed of everything random in it; it has been set when the trial is handed over.
        task: the values to use, in sections `model`, `data` and `trainer`: `Net(**trial.task["model"])`.
    """

    id: str
    seed: int
    task: Mapping[str, Any]
    failure: BaseException | None = field(default=None, init=False, repr=False)

    def __getitem__(self, key: str) -> Any:
        """The value of a dotted key, for example `trial["model.lr"]`."""
        return get_key(self.task, key)

    def __enter__(self) -> Asked:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self.failure = error if isinstance(error, Exception) and not isinstance(error, InputError) else None
        return self.failure is not None


class HandOver:
    """An executor that hands every job to the program's own loop, in another thread, and waits for its outcome."""

    def __init__(self) -> None:
        self.jobs: queue.Queue[tuple[Job, Path]] = queue.Queue()
        self._told = threading.Event()
        self._running: Path | None = None

    def submit(self, job: Job, folder: Path) -> None:
        """Hand the job over."""
        folder.mkdir(parents=True, exist_ok=True)
        self._told.clear()
        self._running = folder
        self.jobs.put((job, folder))

    def tell(self, folder: Path, result: TrialResult) -> None:
        """Take the outcome of a job that was handed over."""
        write_json(folder / "outcome.json", to_json(result), survives="crash")
        self._told.set()

    def outcome(self, folder: Path) -> TrialResult | None:
        """How the folder's trial ended."""
        result = supervisor.outcome_of(folder)
        if result is not None and folder == self._running:
            self._running = None
        return result

    def cancel(self, folder: Path) -> None:
        """The program's fit is its own."""

    def capacity(self) -> int:
        """One, unless a trial is handed over."""
        return int(self._running is None)

    def wait(self, timeout_seconds: float) -> None:
        """Return when an outcome was told, or after so long."""
        self._told.wait(timeout_seconds)

    def adopt(self, folder: Path) -> bool:
        """A fit ends with its program."""
        return False

    def close(self) -> None:
        """Nothing is open."""


class OwnFits:
    """The trials of a study whose fits are the program's own.

    Args:
        make_study: makes the study with an executor.
    """

    def __init__(self, make_study: Callable[[HandOver], Study]) -> None:
        self._executor = HandOver()
        self._study = make_study(self._executor)
        self._run: Run | None = None
        self._trial: Asked | None = None
        self.summary: StudySummary | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="study", daemon=True)

    def watch(self, trainer: pl.Trainer, model: pl.LightningModule) -> None:
        """Take part in the fit of the trial that was handed over last.

        Raises:
            InputError: no trial is handed over, its fit has run already, or it has other values than asked for.
        """
        run = self._run
        if trainer.world_size > 1:
            raise InputError("trials() serves fits of one process; on several devices use the callback, or `fit`")
        if run is None:
            raise InputError("there is no trial to fit: after trials() was called, the callback works in its loop only")
        if run.training is not None:
            raise InputError(f"trial {run.job.trial_id} has had its fit: one trial is one fit")
        if fault := _other_value(run.job, trainer, model):
            raise InputError(f"trial {run.job.trial_id} {fault}")
        digest = digest_of(dict(run.job.task))
        run.watch(Training(trainer=trainer, model=model, validate=validation_data(trainer), digest=lambda: digest))

    def fitted(self) -> None:
        """The fit of the trial that was handed over last has ended."""
        if self._run is not None and self._run.training is not None:
            self._run.fitted()

    def failed(self, error: BaseException) -> None:
        """That fit has raised: it has no outcome but this, whether the program's loop catches it or not."""
        if self._trial is not None and isinstance(error, Exception):
            self._trial.failure = error

    def trials(self) -> Iterator[Asked]:
        """Every trial of the study, in the order in which it asks for them.

        Raises:
            ResearchError: whatever ends the study before its time.
            InputError: a trial's fit did not have the callback.
        """
        self._thread.start()
        try:
            with isolate_rng(include_cuda=cuda_in_use()):
                while (asked := self._next()) is not None:
                    yield from self._hand_over(*asked)
        finally:
            self._run = None
            self._study.interrupt()
            self._thread.join()
        if self._error is not None:
            raise self._error

    def _hand_over(self, job: Job, folder: Path) -> Iterator[Asked]:
        """Yield one trial; take its outcome when the program's loop comes back."""
        run = self._run = Run(job)
        trial = Asked(id=job.trial_id, seed=job.seed, task={"model": {}, "data": {}, "trainer": {}, **job.task})
        self._trial = trial
        started = time.monotonic()
        with same_environment():
            pl.seed_everything(job.seed, workers=True, verbose=False)
            yield trial
        if run.training is None and trial.failure is None:
            raise InputError(
                f"trial {job.trial_id} had no fit with the callback: give it to the Trainer, "
                "Trainer(..., callbacks=[research])"
            )
        result = run.result(partial(_conclude, run, trial))
        self._executor.tell(folder, replace(result, wall_seconds=time.monotonic() - started))

    def _next(self) -> tuple[Job, Path] | None:
        """The next job; None once the study has ended."""
        while True:
            try:
                return self._executor.jobs.get(timeout=0.05)
            except queue.Empty:
                if not self._thread.is_alive():
                    return None

    def _work(self) -> None:
        try:
            self.summary = self._study.run()
        except BaseException as error:
            self._error = error


def _conclude(run: Run, trial: Asked) -> float:
    if trial.failure is not None:
        raise trial.failure
    return run.conclude()


def _other_value(job: Job, trainer: pl.Trainer, model: pl.LightningModule) -> str:
    """Which value of a fit is not the one that was asked for, in words."""
    data = trainer.datamodule  # type: ignore[attr-defined]
    saved: dict[str, Any] = {"model": plain(dict(model.hparams)), "trainer": settings_of(trainer)}
    saved |= {"data": plain(dict(data.hparams))} if data is not None else {}
    for key, value in changed(saved, job.task).items():
        if has_key(saved, key):
            return f"asks for {key}: {value!r}, and its fit has {get_key(saved, key)!r}"
    return ""
