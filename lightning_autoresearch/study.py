"""A study: one run of the loop over a spec, in a folder of its own; it can be stopped and resumed at any moment."""

from __future__ import annotations

import contextlib
import math
import os
import platform
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning_autoresearch.asking import spending
from lightning_autoresearch.bundled import recipes_root
from lightning_autoresearch.chat import ChatModel
from lightning_autoresearch.classes import ClassText, read_class
from lightning_autoresearch.dispatch import Dispatcher, Interrupted
from lightning_autoresearch.errors import InputError, JournalError, ResearchError, StudyFailed, StudyMismatch
from lightning_autoresearch.executor import Executor, make_executor
from lightning_autoresearch.fold import Fold, summarize
from lightning_autoresearch.hypothesis import Proposer
from lightning_autoresearch.journal import FILE_NAME, Journal, Listener
from lightning_autoresearch.knobs import Knob, class_choices, fitted, guard_task, knobs_of, unfitting_keys
from lightning_autoresearch.loop import Loop
from lightning_autoresearch.redaction import secrets_of
from lightning_autoresearch.report import write_report
from lightning_autoresearch.revise import Reviser, task_file
from lightning_autoresearch.rewrite import protected_digest, text_digest
from lightning_autoresearch.sampler import Sampler
from lightning_autoresearch.scientist import make_chat, settings_fault
from lightning_autoresearch.sealed import Sealed
from lightning_autoresearch.space import apply_overrides
from lightning_autoresearch.spec import Spec
from lightning_autoresearch.steps import Steps
from lightning_autoresearch.summary import StudySummary
from lightning_autoresearch.team import make_team
from lightning_autoresearch.trial import Job, Trial, TrialStatus
from lightning_autoresearch.version import __version__

REPORT_NAME = "report.html"

_REACHED_BY = ("base_url", "api_key_env", "timeout_seconds")


class Study:
    """A study of a spec.

    Args:
        spec: what `load_spec` gave.
        folder: where it lives; `studies/<name>` below the working directory by default.  One that is there is resumed.
        proposer: what states hypotheses; by default the spec's scientist with the sampler, or the sampler alone.
        chat: whoever answers as the spec's scientist; by default the server or mailbox that the spec names.
        executor: what runs trials; as the spec's `execution` says by default.
        command: how the study was started, for the report.
        clock: gives seconds since 1970.

    >>> from lightning_autoresearch import Study, load_spec  # doctest: +SKIP
    >>> summary = Study(load_spec("specs/quickstart.yaml")).run()  # doctest: +SKIP
    """

    def __init__(
        self,
        spec: Spec,
        *,
        folder: Path | str | None = None,
        proposer: Proposer | None = None,
        chat: ChatModel | None = None,
        executor: Executor | None = None,
        command: str = "",
        clock: Callable[[], float] = time.time,
    ):
        self.spec = spec
        self.folder = Path(folder) if folder is not None else Path("studies") / spec.name
        self._proposer = proposer
        self._chat = chat
        self._executor = executor
        self._listeners: list[Listener] = []
        self._command = command or shlex.join(["lightning-autoresearch", "fit", str(spec.path)])
        self._stop = False
        self._clock = clock
        self._fold = Fold(folder=self.folder, clock=clock)

    def run(self) -> StudySummary:
        """Run the loop until it ends, or go on where an earlier call was stopped.

        Returns:
            The summary; `done` tells whether the study has ended, `phase` whether it failed or was interrupted.

        Raises:
            StudyMismatch: the folder holds a study of another spec.
            StudyLocked: another process works on it.
            JournalError: the journal is damaged, or the disk is full.
            SpecError: the executor cannot serve the task (no such device).
            InputError: the spec's scientist cannot be asked from here (no key, no price for a cap in US dollars).
        """
        self._check_scientist()
        self._fold = Fold(folder=self.folder, clock=self._clock)
        set_failed_start_aside(self.folder)
        with Journal(self.folder, clock=self._clock) as journal:
            self._open(journal)
            if self._fold.summary().done:
                return self._finish(journal)
            journal.append("session_started", {"pid": os.getpid(), "host": platform.node(), "version": __version__})
            executor = self._executor or make_executor(
                self.spec.execution,
                task=self.spec.task,
                search_path=search_path(self.spec),
                key_variable=self.spec.scientist.key_variable if self.spec.scientist else None,
            )
            try:
                self._work(journal, executor)
            finally:
                executor.close()
                self._stop = False
            return self._finish(journal)

    def listen(self, listener: Listener) -> None:
        """Tell a listener of every journal entry, from the first on, once the study runs."""
        self._listeners.append(listener)

    def interrupt(self) -> None:
        """Ask a running study to stop soon; safe from a signal handler or another thread."""
        self._stop = True

    def _check_scientist(self) -> None:
        """Tell of a missing key or price at once, not in the middle of the night."""
        if self._proposer is None and self._chat is None and not self._fold_of_the_past().done:
            fault = settings_fault(self.spec, environ=os.environ)
            if fault:
                raise InputError(f"{self.spec.path}: {fault}")

    def _fold_of_the_past(self) -> StudySummary:
        return summarize(self.folder) if (self.folder / FILE_NAME).is_file() else self._fold.summary()

    def _open(self, journal: Journal) -> None:
        """Begin the journal, or check that it belongs to this spec; then let everybody read it."""
        created = journal.find("study_created", "")
        if created is None:
            journal.append("study_created", self._header())
        elif created.data["spec_digest"] != self.spec.digest and _lasting(created.data["spec"]) != _lasting(
            self.spec.data
        ):
            raise StudyMismatch(
                f"{self.folder}: this is a study of another spec "
                f"({_difference(created.data['spec'], self.spec.data)}); "
                f"it began with: {created.data['command']} (the spec's text is in {self.folder}/specs/0000.yaml); "
                "use that (with the spec as it was), or another folder with --study (in the callback study=), "
                "for example after `adopt`"
            )
        journal.listen(self._fold)
        for listener in self._listeners:
            journal.listen(listener)
        if journal.repaired:
            journal.append("message", {"text": journal.repaired})

    def _header(self) -> dict[str, Any]:
        spec = self.spec
        return {
            "name": spec.name,
            "goal": spec.goal,
            "metric": spec.objective.metric,
            "mode": spec.objective.mode,
            "read": spec.objective.read,
            "rule": spec.decision.rule,
            "alpha": spec.decision.alpha,
            "scales": [scale.name for scale in spec.scales],
            "base": dict(spec.base),
            "spec": dict(spec.data),
            "spec_digest": spec.digest,
            "spec_path": str(spec.path.resolve()),
            "text": spec.text,
            "config_text": _config_text(spec),
            "text_digest": text_digest(spec.text),
            "protected_digest": protected_digest(spec.data),
            "notes": list(spec.notes),
            "command": self._command,
            "budget_trials": spec.budget.trials,
            "budget_hours": spec.budget.hours,
            "slots": spec.execution.slots,
            "environment": {
                "lightning_autoresearch": __version__,
                "python": platform.python_version(),
                "platform": platform.platform(),
                "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
            },
        }

    def _work(self, journal: Journal, executor: Executor) -> None:
        """The loop, and how it ended as an entry of the journal."""
        created = journal.find("study_created", "")
        assert created is not None
        begun = created.data
        knobs = knobs_of(self.spec, search_path=search_path(self.spec)) if self.spec.scientist else {}
        texts = {path: read_class(path, search_path=search_path(self.spec)) for path in class_choices(self.spec)}
        protected = begun["protected_digest"]
        reviser = Reviser(
            self.spec, text=begun["text"], config_text=begun["config_text"], folder=self.folder, class_texts=texts
        )
        _sweep(journal, self.folder / "trials")
        dispatcher = Dispatcher(
            journal,
            executor=executor,
            folder=self.folder / "trials",
            slots=self.spec.execution.slots,
            make_job=lambda trial: self._guarded_job(trial, protected=protected, knobs=knobs, texts=texts),
            sealed=Sealed(self.folder, hidden=[guard.metric for guard in self.spec.guards if guard.hidden]),
            secrets=secrets_of(self.spec.scientist, os.environ),
            interrupted=lambda: self._stop,
        )
        loop = Loop(
            self.spec,
            journal=journal,
            dispatcher=dispatcher,
            proposer=self._proposer or self._default_proposer(journal, dispatcher.steps, knobs, reviser),
            reviser=reviser,
            elapsed=self._elapsed,
            knobs=knobs,
            usd_spent=lambda: spending(journal.entries).usd,
        )
        try:
            end = {"phase": "done", "done": True, "reason": loop.go()}
        except StudyFailed as error:
            end = {"phase": "failed", "done": True, "reason": str(error)}
        except Interrupted:
            end = {
                "phase": "interrupted",
                "done": False,
                "reason": "interrupted; the same command goes on where it stopped",
            }
        except Exception as error:
            end = {"phase": "interrupted", "done": False, "reason": f"stopped by {type(error).__name__}: {error}"}
            with contextlib.suppress(JournalError):
                journal.append("session_ended", end)
            raise
        journal.append("session_ended", end)

    def _default_proposer(
        self, journal: Journal, steps: Steps, knobs: Mapping[str, Knob], reviser: Reviser
    ) -> Proposer:
        if self.spec.scientist is None:
            return Sampler(without_effect=reviser.without_effect)
        return make_team(
            self.spec,
            chat=self._chat or make_chat(self.spec),
            journal=journal,
            steps=steps,
            stop=lambda: self._stop,
            seconds_left=self._seconds_left,
            knobs=knobs,
            search_path=search_path(self.spec),
            without_effect=reviser.without_effect,
        )

    def _elapsed(self) -> float:
        """Wall-clock seconds of the study, over all sessions."""
        return self._fold.wall_seconds(live=True)

    def _seconds_left(self) -> float:
        hours = self.spec.budget.hours
        return math.inf if hours is None else 3600 * hours - self._elapsed()

    def _guarded_job(
        self, trial: Trial, *, protected: str, knobs: Mapping[str, Knob], texts: Mapping[str, ClassText | None]
    ) -> Job:
        """A trial made concrete, after a look that nothing which judges it has changed since the study began.

        Raises:
            StudyFailed: a protected section of the spec differs, or the task differs outside of what may be varied.
        """
        if protected_digest(self.spec.data) != protected:
            raise StudyFailed("a protected section of the spec has changed in memory since the study began")
        job = make_job(self.spec, trial)
        base = apply_overrides(self.spec.task, self.spec.scales[trial.scale].set)
        allowed = {*self.spec.search_space, *knobs}
        classes = class_choices(self.spec)
        if problems := guard_task(base, job.task, allowed_keys=allowed, allowed_classes=classes):
            raise StudyFailed(f"trial {trial.id} would change what no hypothesis may: {'; '.join(problems)}")
        gone = unfitting_keys(job.task, base_task=self.spec.task, class_texts=texts)
        requested = {
            key: value
            for key, value in job.requested.items()
            if not any(key == one or key.startswith(f"{one}.") for one in gone)
        }
        task = fitted(job.task, base_task=self.spec.task, class_texts=texts)
        return replace(job, task=task, requested=requested)

    def _finish(self, journal: Journal) -> StudySummary:
        summary = self._fold.summary()
        try:
            write_report(summary, self.folder / REPORT_NAME)
        except (ResearchError, OSError) as error:  # a report can be written again, a study cannot
            journal.append("message", {"text": f"the report could not be written: {error}"})
        return self._fold.summary()


def set_failed_start_aside(folder: Path) -> None:
    """A study whose baseline never trained holds nothing: keep its files under another name, and begin anew."""
    if not (folder / FILE_NAME).is_file():
        return
    summary = summarize(folder)
    if summary.phase != "failed" or summary.hypotheses:
        return
    number = 1 + sum(1 for _ in folder.glob("failed-*"))
    with Journal(folder):
        aside = folder / f"failed-{number}"
        aside.mkdir()
        for name in ("trials", FILE_NAME):  # the journal last: until it is gone, this can be done again
            if (folder / name).exists():
                (folder / name).rename(aside / name)


def _sweep(journal: Journal, trials: Path) -> None:
    """Remove the folders of finished trials that a kill left behind."""
    for entry in journal:
        if entry.kind == "trial_finished" and entry.data["status"] == TrialStatus.FINISHED.value:
            shutil.rmtree(trials / entry.data["trial_id"], ignore_errors=True)


def _config_text(spec: Spec) -> str | None:
    """Text of the file that the spec's text names as its task."""
    name = task_file(spec.text)
    return (spec.path.parent / name).read_text(encoding="utf-8") if name else None


def make_job(spec: Spec, trial: Trial) -> Job:
    """A trial made concrete: the task with the trial's overrides, then the scale's keys, which have the last word."""
    scale = spec.scales[trial.scale]
    task = apply_overrides(apply_overrides(spec.task, trial.overrides), scale.set)
    scalars = {key: value for key, value in scale.set.items() if not isinstance(value, (dict, list))}
    return Job(
        trial_id=trial.id,
        task=task,
        requested={**trial.overrides, **scalars},
        objective=spec.objective,
        guards=spec.guards,
        seed=trial.seed,
        search_path=search_path(spec),
        timeout_seconds=spec.execution.timeout_seconds,
        memory_gb=spec.execution.memory_gb,
    )


def search_path(spec: Spec) -> tuple[str, ...]:
    """Where the task's classes are looked for: working directory, the spec's folder, our own path, last the recipes."""
    folders = [os.getcwd(), str(spec.path.resolve().parent), *filter(None, sys.path[1:])]
    return tuple(dict.fromkeys([*folders, str(recipes_root())]))


def _lasting(data: Mapping[str, Any]) -> dict[str, Any]:
    """A spec's data without what says how the scientist is reached, which may change from session to session."""
    settings = data.get("scientist")
    if not isinstance(settings, Mapping):
        return dict(data)
    return {**data, "scientist": {key: value for key, value in settings.items() if key not in _REACHED_BY}}


def _difference(old: Any, new: Any, *, at: str = "") -> str:
    """The first place where two specs differ, in words."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            if key not in old or key not in new:
                return f"{at}/{key} is {'new' if key in new else 'gone'}"
            if old[key] != new[key]:
                return _difference(old[key], new[key], at=f"{at}/{key}")
    return f"{at or '/'} was {old!r}, is {new!r}"
