"""From trials that are wanted to results that are journaled: at most `capacity` at once, each done exactly once.

Work comes as chains.  A chain is a generator that yields the trial it wants next and is sent its result; what it
returns is its answer.  So a hypothesis that fails on its first seed frees its slot, and the caller still reads from top
to bottom.

A trial is known by its configuration, scale and seed.  Asked for again (in a resumed study, or because two steps want
the same run), the journaled result is given without running anything.
"""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

from lightning_autoresearch import codec
from lightning_autoresearch.executor import Executor
from lightning_autoresearch.journal import Journal
from lightning_autoresearch.redaction import redact
from lightning_autoresearch.sealed import Sealed
from lightning_autoresearch.steps import Steps
from lightning_autoresearch.trial import INFRASTRUCTURE, Job, Trial, TrialResult, TrialStatus, digest_of

Answer = TypeVar("Answer")
Chain = Generator[Trial, TrialResult, Answer]

POLL_SECONDS = 0.2

MOST_LINES, MOST_CHARACTERS = 10, 400
"""Lines of a traceback or log that are told of a failure, and characters of each."""


class Interrupted(Exception):
    """The person asked to stop; everything known so far is in the journal."""


@dataclass(slots=True)
class _Link(Generic[Answer]):
    """A chain at work: where it is, and what it waits for."""

    index: int
    chain: Chain[Answer]
    trial: Trial | None = None


class Dispatcher:
    """Runs trials through an executor for one study.

    Args:
        journal: where intents and outcomes go.
        executor: what runs them.
        folder: parent of the trials' folders.
        slots: trials at once, at most.
        make_job: makes a trial concrete.
        sealed: where the values of hidden guards go instead of the journal; None where there are none.
        secrets: values that a trial's failure may not spread.
        interrupted: asked between polls; true means stop now.
    """

    def __init__(
        self,
        journal: Journal,
        *,
        executor: Executor,
        folder: Path,
        slots: int,
        make_job: Callable[[Trial], Job],
        sealed: Sealed | None = None,
        secrets: Collection[str] = (),
        interrupted: Callable[[], bool] = lambda: False,
    ):
        self.journal = journal
        self.steps = Steps(journal)
        self.executor = executor
        self.folder = folder
        self.slots = slots
        self.make_job = make_job
        self.sealed = sealed or Sealed(folder, hidden=())
        self.secrets = secrets
        self.interrupted = interrupted
        self.used: set[str] = set()
        self._numbers = sum(entry.kind == "trial_started" for entry in journal)

    def _use(self, key: str) -> None:
        self.used.add(key)
        self.steps.met(key)

    def run(self, chains: Sequence[Chain[Answer]]) -> list[Answer]:
        """Run the chains to their ends, as many trials at once as there are slots.

        Returns:
            The chains' answers, in their order.

        Raises:
            Interrupted: the person asked to stop.
        """
        answers: dict[int, Answer] = {}
        waiting: deque[_Link[Answer]] = deque()
        running: dict[str, list[_Link[Answer]]] = {}
        for index, chain in enumerate(chains):
            self._advance(_Link(index=index, chain=chain), None, answers, waiting)
        while waiting or running:
            while waiting and len(running) < self.slots and self.executor.capacity() > 0:
                self._start(self._next(waiting), running, answers, waiting)
            self._collect(running, answers, waiting)
        return [answers[index] for index in range(len(chains))]

    def known(self, trial: Trial) -> TrialResult | None:
        """The journaled result of this very run, if it was run before."""
        key = run_key(trial)
        entry = self.journal.find("trial_finished", key)
        if entry is None:
            return None
        result = codec.from_json(entry.data, TrialResult)
        return replace(result, metrics=self.sealed.whole(key, result.metrics))

    def _advance(
        self, link: _Link[Answer], result: TrialResult | None, answers: dict[int, Answer], waiting: deque[_Link[Answer]]
    ) -> None:
        """Let a chain go on over everything that is known, until it ends or wants a run."""
        try:
            while True:
                trial = link.chain.send(result) if result else next(link.chain)
                result = self.known(trial)
                if result is None:
                    break
                self._use(run_key(trial))
        except StopIteration as end:
            answers[link.index] = end.value
        else:
            waiting.append(replace(link, trial=trial))

    def _next(self, waiting: deque[_Link[Answer]]) -> _Link[Answer]:
        """The link to start next: one whose trial an earlier session started comes first, it may still be alive."""
        for index, link in enumerate(waiting):
            if link.trial is not None and self.journal.find("trial_started", run_key(link.trial)):
                del waiting[index]
                return link
        return waiting.popleft()

    def _start(
        self,
        link: _Link[Answer],
        running: dict[str, list[_Link[Answer]]],
        answers: dict[int, Answer],
        waiting: deque[_Link[Answer]],
    ) -> None:
        assert link.trial is not None
        key = run_key(link.trial)
        if key in running:  # two chains want the same run
            running[key].append(link)
            return
        if result := self.known(link.trial):  # another chain wanted it, and it has ended meanwhile
            self._use(key)
            self._advance(link, result, answers, waiting)
            return
        self._use(key)
        entry = self.journal.find("trial_started", key)
        if entry is None:
            self._numbers += 1
            trial = replace(link.trial, id=f"{self._numbers:05d}")
            entry = self.journal.append("trial_started", codec.to_json(trial), key=key)
        trial = codec.from_json(entry.data, Trial)
        running[key] = [replace(link, trial=trial)]
        folder = self._folder(trial)
        if not self._alive_or_done(folder):
            self._launch(trial, folder)

    def _alive_or_done(self, folder: Path) -> bool:
        """Whether an earlier session's run of this trial still goes on, or left its outcome."""
        if not folder.exists():
            return False
        return self.executor.outcome(folder) is not None or self.executor.adopt(folder)

    def _launch(self, trial: Trial, folder: Path) -> None:
        """Start a trial; a folder that is there without an outcome is used again, so that its lock still holds."""
        folder.mkdir(parents=True, exist_ok=True)
        self.executor.submit(self.make_job(trial), folder)

    def _collect(
        self, running: dict[str, list[_Link[Answer]]], answers: dict[int, Answer], waiting: deque[_Link[Answer]]
    ) -> None:
        """Take in what has finished; wait a moment when nothing has."""
        if self.interrupted():
            raise Interrupted
        finished = {key: result for key, links in running.items() if (result := self._finish(key, links[0].trial))}
        for key, result in finished.items():
            for link in running.pop(key):
                self._advance(link, result, answers, waiting)
        if not finished and (running or waiting):
            self.executor.wait(POLL_SECONDS)

    def _finish(self, key: str, trial: Trial | None) -> TrialResult | None:
        """Journal the outcome of a run if there is one; start it once more after an infrastructure failure."""
        assert trial is not None
        folder = self._folder(trial)
        result = self.executor.outcome(folder)
        if result is None:
            return None
        if result.status is TrialStatus.CANCELLED:  # at the end of an earlier session: it was not run
            shutil.rmtree(folder, ignore_errors=True)
            self._launch(trial, folder)
            return None
        result = redacted(result, secrets=self.secrets)
        retried = self.journal.find("trial_retried", key) is not None
        if result.status in INFRASTRUCTURE and not retried:
            # the folder goes first, so that a kill right here leaves the trial its second try
            shutil.rmtree(folder, ignore_errors=True)
            self.journal.append(
                "trial_retried",
                {"trial_id": trial.id, "status": result.status.value, "failure": result.failure},
                key=key,
            )
            self._launch(trial, folder)
            return None
        result = replace(result, attempts=1 + retried)
        visible = replace(result, metrics=self.sealed.put(key, result.metrics))
        if not result.finished and visible.metrics != result.metrics:
            _rewrite(folder, visible)
        self.journal.append("trial_finished", codec.to_json(visible), key=key)
        if result.finished:  # the folder of a failure is kept: its log is the only witness
            shutil.rmtree(folder, ignore_errors=True)
        return result

    def _folder(self, trial: Trial) -> Path:
        return self.folder / trial.id


def redacted(result: TrialResult, *, secrets: Collection[str]) -> TrialResult:
    """The result without secrets in what a user's code said when it failed; long lines are cut after that."""
    said = redact("\n".join(result.traceback), secrets=secrets).splitlines()
    return replace(
        result,
        failure=result.failure and _short(redact(result.failure, secrets=secrets)),
        traceback=tuple(_short(line) for line in said[-MOST_LINES:]),
    )


def _short(line: str) -> str:
    return line if len(line) <= MOST_CHARACTERS else line[: MOST_CHARACTERS - 3] + "..."


def _rewrite(folder: Path, result: TrialResult) -> None:
    """Put the result without hidden values into the files of a failed trial, whose folder stays."""
    for name in ("outcome.json", "result.json"):
        with suppress(OSError):  # a full disk is told by the journal, right after this
            if (folder / name).exists():
                codec.write_json(folder / name, codec.to_json(result))


def run_key(trial: Trial) -> str:
    """The identity of a run: equal for equal configuration, scale and seed, whatever it is run for."""
    return digest_of([dict(trial.overrides), trial.scale, trial.seed])[:24]
