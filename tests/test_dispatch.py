"""What a trial leaves behind: journaled without secrets, kept without hidden values."""

from __future__ import annotations

import json
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import pytest

from lightning_autoresearch.codec import read_json, to_json, write_json
from lightning_autoresearch.dispatch import Dispatcher, redacted
from lightning_autoresearch.journal import Journal
from lightning_autoresearch.sealed import Sealed
from lightning_autoresearch.tracebacks import in_one_line
from lightning_autoresearch.trial import Job, Purpose, Trial, TrialResult, TrialStatus
from tests.test_study import spec_of
from tests.worlds import World

SECRET = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEF"
HIDDEN = 0.777123
FAILED = TrialResult(trial_id="00001", status=TrialStatus.NOT_FINITE, failure="the loss is nan")


class Leaving(World):
    """Leaves the files of a process: what the trial wrote, and the outcome."""

    def submit(self, job: Job, folder: Path) -> None:
        super().submit(job, folder)
        write_json(folder / "result.json", to_json(self.result(job)))

    def result(self, job: Job) -> TrialResult:
        return replace(FAILED, trial_id=job.trial_id, metrics={"loss": None, "heldout": HIDDEN})


def wanted() -> Generator[Trial, TrialResult, TrialResult]:
    trial = Trial(id="", overrides={}, scale="nano", seed=1, purpose=Purpose.CALIBRATE, round=0)
    return (yield trial)


def dispatched(folder: Path, journal: Journal) -> TrialResult:
    from lightning_autoresearch.study import make_job

    spec = spec_of()
    dispatcher = Dispatcher(
        journal,
        executor=Leaving(),
        folder=folder / "trials",
        slots=1,
        make_job=lambda trial: make_job(spec, trial),
        sealed=Sealed(folder, hidden=["heldout"]),
    )
    (result,) = dispatcher.run([wanted()])
    return result


def test_the_folder_of_a_failed_trial_is_kept_without_hidden_values(tmp_path):
    with Journal(tmp_path) as journal:
        assert dispatched(tmp_path, journal).metrics == {"loss": None, "heldout": HIDDEN}
    left = [path for path in tmp_path.rglob("*") if path.is_file() and str(HIDDEN) in path.read_text()]
    assert left == [tmp_path / "sealed.jsonl"]
    kept = tmp_path / "trials" / "00001"
    assert read_json(kept / "outcome.json")["metrics"] == read_json(kept / "result.json")["metrics"] == {"loss": None}
    with Journal(tmp_path) as journal:
        assert dispatched(tmp_path, journal).metrics == {"loss": None, "heldout": HIDDEN}


def test_a_kill_between_the_folder_and_the_journal_loses_no_hidden_value(tmp_path):
    class Killed(BaseException):
        pass

    def die(*args, **kwargs):
        raise Killed

    with Journal(tmp_path) as journal:
        append = journal.append
        journal.append = lambda kind, data, key="": die() if kind == "trial_finished" else append(kind, data, key=key)
        with pytest.raises(Killed):
            dispatched(tmp_path, journal)
    with Journal(tmp_path) as journal:
        assert journal.find("trial_finished", journal.entries[0].key) is None
        dispatched(tmp_path, journal)
        result = dispatched(tmp_path, journal)
    assert result.metrics == {"loss": None, "heldout": HIDDEN}


def shown(failure: str = "", traceback: tuple[str, ...] = (), *, secrets: tuple[str, ...] = (SECRET,)) -> TrialResult:
    return redacted(replace(FAILED, failure=failure, traceback=traceback), secrets=secrets)


@pytest.mark.parametrize("before", range(340, 402, 3))
def test_no_half_of_a_secret_is_left_where_a_message_is_cut(before):
    line = in_one_line(RuntimeError("y" * before + " " + SECRET + " z" * 300))
    result = shown(line, (line,))
    assert SECRET[:6] not in json.dumps(to_json(result))
    assert len(result.failure) == len(result.traceback[0]) == 400
    assert result.failure.endswith("...")


def test_a_secret_of_several_lines_is_found_in_a_message_and_across_the_lines_of_a_log():
    secret = "line1secret\nline2secret\n\nend"
    result = shown(
        in_one_line(RuntimeError(f"no: {secret}!")), ("a", "line1secret", "line2secret", "end", "b"), secrets=(secret,)
    )
    assert result.failure == "RuntimeError: no: [redacted]!"
    assert result.traceback == ("a", "[redacted]", "b")


def test_of_a_long_log_the_last_lines_are_told_after_secrets_were_taken_out():
    secret = "\n".join(f"line{number}" for number in range(20))
    result = shown("", ("before", *secret.split("\n"), "after"), secrets=(secret,))
    assert result.traceback == ("before", "[redacted]", "after")
    assert shown("", tuple(map(str, range(30)))).traceback == tuple(map(str, range(20, 30)))
