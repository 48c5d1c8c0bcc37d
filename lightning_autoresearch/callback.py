"""Research inside a program that has a Lightning Trainer already: one callback, before the program's own fit."""

from __future__ import annotations

import inspect
import os
import sys
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher
from lightning.pytorch.trainer import call
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.seed import isolate_rng

from lightning_autoresearch.chat import ChatModel
from lightning_autoresearch.crew import (
    Crew,
    end_with_parent,
    follow,
    open_post,
    place_of_worker,
    ranks_of,
    serve,
)
from lightning_autoresearch.errors import InputError, ResearchError, StudyFailed
from lightning_autoresearch.executor import Executor, InlineExecutor
from lightning_autoresearch.fold import Watcher, summarize
from lightning_autoresearch.hypothesis import Proposer
from lightning_autoresearch.journal import FILE_NAME
from lightning_autoresearch.live import Build, LiveTask, changed
from lightning_autoresearch.redaction import without_secret_arguments
from lightning_autoresearch.runner import Halted, cuda_in_use, isolated, run_job
from lightning_autoresearch.source import Settings
from lightning_autoresearch.space import apply_overrides, get_key
from lightning_autoresearch.spec import Spec, load_live_spec
from lightning_autoresearch.stopping import Stop, ignored, requeue_signal, stopping
from lightning_autoresearch.study import Study
from lightning_autoresearch.summary import StudySummary
from lightning_autoresearch.trainers import OwnParameters
from lightning_autoresearch.trial import Job, TrialResult, TrialStatus
from lightning_autoresearch.trials import Asked, OwnFits
from lightning_autoresearch.view import LiveView, PlainView, closing_text, say, view_for

Mode = Literal["research-then-fit", "research-only"]


class AutoResearch(pl.Callback):
    """Research before the fit of a Trainer: trials as fits of copies of it, then the fit with what was confirmed.

    The task is what the program gives to `Trainer.fit`: hyperparameters that model and datamodule saved, and settings
    of the Trainer, under the keys `model.*`, `data.*` and `trainer.*`.  Random state, loggers and checkpoints of the
    program are as they would be without the callback.  Where nothing was confirmed, its objects are not touched.

    Args:
        spec: path of the spec; its `task` may be left out.
        mode: `research-then-fit`, or `research-only`: then `Trainer.fit` returns without a step, nothing is changed,
            and `summary` has the result.
        study: folder of the study; `studies/<name>` below the working directory by default.  One that is there is
            gone on with; one that is done only gives its result.
        build: makes the model from named values with defaults, where its hyperparameters are not saved.
        without: classes of callbacks that trials do without, beside checkpoints, progress bars and model summaries.
        overrides: `KEY=VALUE` texts, or a map, with dotted paths into the spec.
        proposer: what states hypotheses; as the spec says by default.
        chat: whoever answers as the spec's scientist.

    Attributes:
        summary: the study's summary once the research is over, on rank zero; None before, and where there was none.
        values: dotted keys and values that were confirmed and differ from the program's; empty where there are none.
        task: all values with those in their places, in sections: `Net(**callback.task["model"])`.

    Raises:
        SpecError: the spec is not valid.
        InputError: the mode is none.

    >>> trainer = pl.Trainer(callbacks=[AutoResearch("spec.yaml")])  # doctest: +SKIP
    >>> trainer.fit(model, datamodule=data)  # doctest: +SKIP
    """

    def __init__(
        self,
        spec: str | os.PathLike[str],
        *,
        mode: Mode = "research-then-fit",
        study: str | os.PathLike[str] | None = None,
        build: Build | None = None,
        without: Sequence[type[pl.Callback]] = (),
        overrides: Settings | str = (),
        proposer: Proposer | None = None,
        chat: ChatModel | None = None,
    ) -> None:
        if mode not in ("research-then-fit", "research-only"):
            raise InputError(f"mode: {mode!r} is neither 'research-then-fit' nor 'research-only'")
        self._spec = load_live_spec(spec, overrides=[overrides] if isinstance(overrides, str) else overrides)
        self.mode = mode
        self.folder = Path(study) if study is not None else Path("studies") / self._spec.name
        self._build = build
        self._without: tuple[type[pl.Callback], ...] = (AutoResearch, *without)
        self._proposer, self._chat = proposer, chat
        self._fitted: weakref.ref[pl.LightningModule] | None = None
        self._own_fits: OwnFits | None = None
        self.summary: StudySummary | None = None
        self.values: Mapping[str, Any] = {}
        self.task: Mapping[str, Any] = {}
        self._limits: tuple[Any, ...] | None = None
        self._replaced: list[torch.nn.Parameter] = []
        self._place = place_of_worker()
        if self._place is not None and self._is_for(self._place):
            end_with_parent(self._place)
            _take_over(self, self._serve)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Do the research, and put what was confirmed into the objects of the fit that is about to begin.

        Raises:
            SpecError: the spec names what the objects do not have.
            InputError: the objects cannot be copied or built again; the message says what to do.
            StudyMismatch: the folder holds a study of another spec, or of other values in the program.
            StudyFailed: the baseline does not train, with `mode="research-only"`.
        """
        if stage != "fit":
            return
        _refuse(trainer)
        if self._own_fits is not None:
            self._own_fits.watch(trainer, pl_module)
            return
        if self._fitted is not None and (self._fitted() is pl_module or self.mode == "research-only"):
            return
        why = self._no_research(trainer)
        if why:
            rank_zero_info(f"AutoResearch: no research, {why}")
        live = LiveTask(trainer, build=self._build, without=self._without)
        spec = self._spec.with_task(live.task)
        task = self._known_winner(spec) if why else self._research(trainer, live, spec)
        self.values = changed(live.task, task)
        self._fitted = weakref.ref(pl_module)
        self.task = task
        if self.mode == "research-only":
            self._block(trainer)
        elif changed(live.task, task):
            self._put_in(task, live, trainer, pl_module)

    def _put_in(
        self, task: Mapping[str, Any], live: LiveTask, trainer: pl.Trainer, pl_module: pl.LightningModule
    ) -> None:
        """Let the fit begin with the values of a task."""
        before = list(pl_module.parameters())
        with isolated(()):
            pl.seed_everything(torch.initial_seed() % 2**32, workers=True, verbose=False)
            changes = live.put_in(task)
        now = {id(parameter) for parameter in pl_module.parameters()}
        self._replaced = [parameter for parameter in before if id(parameter) not in now]
        if self._replaced:
            self._set_up_again(trainer, pl_module)
        lines = (f"\n  {key}: {get_key(live.task, key)!r} -> {value!r}" for key, value in changes.items())
        rank_zero_info(f"AutoResearch: your fit begins with{''.join(lines)}")

    def _block(self, trainer: pl.Trainer) -> None:
        """Have the fit that has begun end without a step."""
        loop = trainer.fit_loop
        self._limits = trainer.num_sanity_val_steps, loop.min_epochs, loop.epoch_loop.min_steps
        trainer.num_sanity_val_steps, loop.min_epochs, loop.epoch_loop.min_steps = 0, 0, None
        trainer.should_stop = True

    def _unblock(self, trainer: pl.Trainer) -> None:
        if self._limits is not None:
            loop = trainer.fit_loop
            trainer.num_sanity_val_steps, loop.min_epochs, loop.epoch_loop.min_steps = self._limits
            trainer.should_stop = False
            self._limits = None

    def _set_up_again(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Callbacks that stand before this one have seen the model before it got the winner's values."""
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if callback is self:
                return
            callback.setup(trainer, pl_module, "fit")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look that the optimizers are those of the model with the winner's values.

        Raises:
            TrialError: one holds the parameters that the model had before.
        """
        OwnParameters(self._replaced).on_train_start(trainer, pl_module)
        self._replaced = []

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Take the outcome of a trial's own fit; give the Trainer back as it was, after `mode="research-only"`."""
        if stage == "fit":
            self._unblock(trainer)
            if self._own_fits is not None:
                self._own_fits.fitted()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """The same: Lightning calls no `teardown` then."""
        self._unblock(trainer)
        if self._own_fits is not None:
            self._own_fits.failed(exception)

    def trials(self) -> Iterator[Asked]:
        """The study's trials, to be fitted one by one by the program itself.

        The spec's `task` holds the values that the study begins with.  Every trial is one fit of a Trainer that has
        this callback; when the loop comes back for the next trial, its outcome is taken.  A fit that raises ends the
        loop, unless it stands in `with trial:`; then that is the trial's outcome.

        >>> research = AutoResearch("spec.yaml")  # doctest: +SKIP
        >>> for trial in research.trials():  # doctest: +SKIP
        ...     trainer = pl.Trainer(**trial.task["trainer"], callbacks=[research])
        ...     trainer.fit(Net(**trial.task["model"]), datamodule=data)

        Raises:
            SpecError: the spec has no task, or is not valid with it.
            InputError: a fit has other values than were asked for, or no callback.
            StudyMismatch: the folder holds a study of another spec.
        """
        spec = self._spec.with_own_task()
        with view_for(sys.stdout, plain=True) as view:
            self._own_fits = OwnFits(partial(self._make_study, spec, view))
            try:
                yield from self._own_fits.trials()
            finally:
                self.summary = self._own_fits.summary
        if self.summary is not None:
            say(closing_text(self.summary))
            self.task = apply_overrides(spec.task, self.summary.incumbent)
            self.values = changed(self.summary.base, self.summary.incumbent)

    # -- whether -----------------------------------------------------------------------------------------------------

    def _no_research(self, trainer: pl.Trainer) -> str:
        """Why there is none; empty where there is."""
        if (checkpoint := _checkpoint_of(trainer)) is not None:
            return f"because the fit goes on from {checkpoint}"
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return "because the Trainer has fast_dev_run"
        if self._place is not None:
            return "because this is a worker of another study"
        return "" if self._spec.trials else "because budget.trials is 0"

    def _known_winner(self, spec: Spec) -> dict[str, Any]:
        """The task with what an earlier run has confirmed: a checkpoint of its fit needs the same model."""
        if not self._spec.trials or not (self.folder / FILE_NAME).is_file():
            return dict(spec.task)
        summary = summarize(self.folder)
        return apply_overrides(spec.task, changed(summary.base, summary.incumbent))

    # -- research ----------------------------------------------------------------------------------------------------

    def _research(self, trainer: pl.Trainer, live: LiveTask, spec: Spec) -> dict[str, Any]:
        """Run the study, or go on with it.

        Returns:
            The task with what was confirmed, on every rank.
        """
        several = trainer.world_size > 1
        asked = spec.data.get("execution", {}).get("executor")
        if several and asked == "inline":
            raise InputError(
                "execution.executor: inline is for one device; on several, trials need their own processes"
            )
        with isolate_rng(include_cuda=cuda_in_use()):
            if several or asked == "process":
                return self._research_by_crew(trainer, live, spec)
            stop = Stop(requeue=requeue_signal(trainer))
            executor = InlineExecutor(run=partial(_run_live, live, stop))
            return self._study(spec, executor, stop, live=live)

    def _research_by_crew(self, trainer: pl.Trainer, live: LiveTask, spec: Spec) -> dict[str, Any]:
        """The same with workers that run the program again, one on each rank."""
        post, ranks = open_post(trainer), ranks_of(trainer)
        key = spec.scientist.key_variable if spec.scientist else None
        drop = (key,) if key else ()
        if not trainer.is_global_zero:
            with ignored(requeue_signal(trainer)):
                message = follow(post, ranks=ranks, study=self.folder, drop=drop)
        else:
            stop = Stop(requeue=requeue_signal(trainer))
            crew = Crew(post, ranks=ranks, study=self.folder, drop=drop, interrupted=lambda: stop.asked)
            message = {"error": "rank zero ended without a word"}
            try:
                message = {"task": self._study(spec, crew, stop, live=live)}
            except BaseException as error:
                message = {"error": f"{type(error).__name__}: {error}"}
                raise
            finally:
                crew.finish(message)
        if "error" in message:
            raise ResearchError(f"the research ended on rank zero: {message['error']}")
        trainer.strategy.barrier("autoresearch")  # the store lives as long as rank zero's post does
        task: dict[str, Any] = message["task"]
        return task

    def _study(self, spec: Spec, executor: Executor, stop: Stop, *, live: LiveTask) -> dict[str, Any]:
        """Run the study on this process, which is rank zero's."""
        if not self._ended():
            live.check()
            rank_zero_info(
                "AutoResearch: your values are " + ", ".join(f"{key}={one!r}" for key, one in spec.base.items())
            )
        with view_for(sys.stdout) as view:
            study = self._make_study(spec, view, executor)
            with stopping(stop, study.interrupt):
                summary = self.summary = study.run()
            view.update(summary)
        say(closing_text(summary))
        if stop.asked:
            stop.act()
        if summary.phase == "failed":
            if self.mode == "research-only":
                raise StudyFailed(f"{self.folder}: {summary.reason}")
            rank_zero_warn(f"AutoResearch: no research, {summary.reason}; your fit goes on as it is")
        return apply_overrides(spec.task, summary.incumbent)

    def _make_study(self, spec: Spec, view: LiveView | PlainView, executor: Executor) -> Study:
        study = Study(
            spec,
            folder=self.folder,
            proposer=self._proposer,
            chat=self._chat,
            executor=executor,
            command=without_secret_arguments(["python", *sys.argv]),
        )
        study.listen(Watcher(view.update, folder=study.folder, interval_seconds=view.interval_seconds))
        return study

    def _ended(self) -> bool:
        return (self.folder / FILE_NAME).is_file() and summarize(self.folder).done

    # -- the worker --------------------------------------------------------------------------------------------------

    def _is_for(self, place: Mapping[str, Any]) -> bool:
        return Path(place["study"]) == self.folder.resolve()

    def _serve(self, trainer: pl.Trainer) -> None:
        """Run trials instead of the fit, until this process is ended."""
        assert self._place is not None
        live = LiveTask(trainer, build=self._build, without=self._without)
        with ignored(requeue_signal(trainer)):
            serve(self._place, partial(_run_live, live, Stop()))


def _run_live(live: LiveTask, stop: Stop, job: Job, folder: Path) -> TrialResult:
    """One trial in this process."""
    deadline = time.monotonic() + job.timeout_seconds

    def halt() -> None:
        if stop.asked:
            raise Halted(TrialStatus.CANCELLED, "the study was asked to stop")
        if time.monotonic() > deadline:
            raise Halted(TrialStatus.TIMED_OUT, f"took longer than {job.timeout_seconds:g} s")

    return run_job(job, folder, make=live.training, halt=halt, search_path=())


def _refuse(trainer: Any) -> None:
    """Say clearly what cannot work.

    Raises:
        InputError: it is a Trainer of the other package, or one that spawns its processes.
    """
    if not isinstance(trainer, pl.Trainer):
        raise InputError(
            f"this Trainer is of {type(trainer).__module__.partition('.')[0]}, the callback is for lightning's: "
            "write `import lightning.pytorch as pl` wherever your program has pytorch_lightning"
        )
    launcher = trainer.strategy.launcher
    if isinstance(launcher, _MultiProcessingLauncher):
        raise InputError(
            f"this Trainer starts its processes by {launcher._start_method} from the one that you see, "
            'and what they find is lost with them: use strategy="ddp", in a program that is started as a script'
        )


def _take_over(callback: AutoResearch, serve: Callable[[pl.Trainer], None]) -> None:
    """In a worker: have the fit that the callback is in replaced before loggers are opened and data is set up."""
    usual = call._call_setup_hook

    def setup_hook(trainer: pl.Trainer) -> None:
        if callback in trainer.callbacks and trainer.state.fn == "fit":  # type: ignore[attr-defined]
            serve(trainer)
        usual(trainer)

    call._call_setup_hook = setup_hook


def _checkpoint_of(trainer: pl.Trainer) -> Any:
    """The checkpoint that a fit goes on from; None where it begins anew.

    Lightning keeps it in a local variable of `Trainer._run` until the setup hooks have run.
    """
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code.co_name == "_run" and frame.f_locals.get("self") is trainer:
            return frame.f_locals.get("ckpt_path")
        frame = frame.f_back
    return trainer.ckpt_path
