from __future__ import annotations

import itertools
import json
import math
import textwrap
from pathlib import Path

import pytest

from lightning_autoresearch.bench import Bench
from lightning_autoresearch.decision import Verdict
from lightning_autoresearch.dispatch import Dispatcher
from lightning_autoresearch.errors import JournalError, StudyLocked, StudyMismatch
from lightning_autoresearch.fold import summarize
from lightning_autoresearch.journal import FILE_NAME, Journal, read_journal
from lightning_autoresearch.spec import parse_spec
from lightning_autoresearch.study import Study, make_job
from lightning_autoresearch.trial import Purpose, TrialStatus
from tests.worlds import SPEC, World, flat, loss, quicken


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    quicken(monkeypatch)


def spec_of(text=SPEC, **overrides):
    return parse_spec(
        text,
        path=Path("world.yaml"),
        overrides=[f"{key.replace('__', '.')}={value}" for key, value in overrides.items()],
    )


def run(folder, world=None, *, text=SPEC, **overrides):
    world = world or World()
    return Study(spec_of(text, **overrides), folder=folder, executor=world).run()


def true_gain(summary, truth=loss):
    def at(config):
        args = {key.rsplit(".", 1)[1]: value for key, value in config.items()}
        return truth({"model": {"init_args": args}})

    return at(summary.base) - at(summary.incumbent)


def trials_by_step(folder):
    return [
        (entry.kind, entry.key) for entry in read_journal(folder) if entry.kind in ("trial_started", "trial_finished")
    ]


# -- what a study finds ------------------------------------------------------------------------------------------------


def test_a_study_confirms_a_gain_and_rewrites_the_spec(tmp_path):
    summary = run(tmp_path)
    assert summary.done
    assert summary.phase == "done"
    assert summary.confirmed_gain.low > 0
    assert summary.incumbent["model.init_args.lr"] > summary.base["model.init_args.lr"]
    text = (tmp_path / "specs" / "0001.yaml").read_text()
    assert "# ten times too small" in text
    assert "name: world   # a simulated one" in text
    latest = parse_spec(
        (tmp_path / "specs" / f"{len(summary.revisions) - 1:04d}.yaml").read_text(), path=Path("x.yaml")
    )
    assert latest.base.items() <= dict(summary.incumbent).items()


def test_revision_0_is_the_users_text_byte_for_byte(tmp_path):
    run(tmp_path, budget__trials=20)
    assert (tmp_path / "specs" / "0000.yaml").read_bytes() == SPEC.encode()


def test_a_task_value_that_was_set_for_the_call_is_in_the_revision_because_it_was_measured(tmp_path):
    run(tmp_path, text=SPEC.replace("depth: 2", "depth: 2  # hers"), **{"task__model__init_args__idle": 0.25})
    assert "idle: 0.25" in (tmp_path / "specs" / "0001.yaml").read_text()


def test_other_values_that_were_set_for_the_call_do_not_enter_a_revision(tmp_path):
    summary = run(tmp_path, budget__trials=120, decision__seed=3)
    assert summary.budget_trials == 120
    text = (tmp_path / "specs" / "0001.yaml").read_text()
    assert "budget: {trials: 150}" in text
    assert "seed" not in text


@pytest.mark.slow
@pytest.mark.parametrize("correlation", [0.0, 0.9])
def test_on_a_task_whose_knobs_do_nothing_studies_promote_nothing(tmp_path, correlation):
    promoted = 0
    for seed in range(10):
        summary = run(
            tmp_path / str(seed), World(truth=flat, correlation=correlation), decision__seed=seed, budget__trials=100
        )
        promoted += len(summary.revisions) > 1
        assert summary.hypotheses
    assert promoted <= 1  # alpha is 0.1


def test_on_a_task_without_any_effect_or_noise_nothing_is_promoted(tmp_path):
    summary = run(tmp_path, World(truth=flat, sd=0.0))
    assert summary.confirmed_gain is None
    assert len(summary.revisions) == 1
    assert {row.verdict for row in summary.hypotheses} == {Verdict.DROP}


@pytest.mark.slow
def test_on_a_task_with_a_known_optimum_the_interval_of_the_claimed_gain_covers_the_true_gain(tmp_path):
    covered = []
    for seed in range(24):
        summary = run(tmp_path / str(seed), World(correlation=0.5), decision__seed=seed, budget__trials=90)
        gain = summary.confirmed_gain
        if gain is not None:
            covered.append(gain.low <= true_gain(summary) <= gain.high)
    assert len(covered) >= 20
    assert sum(covered) / len(covered) >= 0.9


def test_the_mode_max_is_oriented(tmp_path):
    text = SPEC.replace("mode: min", "mode: max")
    summary = run(tmp_path, World(truth=lambda task: -loss(task)), text=text)
    assert summary.confirmed_gain.low > 0


def test_rounds_follow_each_other_and_each_gate_has_fresh_seeds(tmp_path):
    run(tmp_path, budget__trials=250)
    started = [entry.data for entry in read_journal(tmp_path) if entry.kind == "trial_started"]
    judged = [one["seed"] for one in started if one["purpose"] in (Purpose.GATE.value, Purpose.CONFIRM.value)]
    before = set()
    for one in started:
        if one["purpose"] in (Purpose.GATE.value, Purpose.CONFIRM.value):
            assert one["seed"] not in before
        else:
            before.add(one["seed"])
    assert judged


# -- stopping and going on ---------------------------------------------------------------------------------------------


class Stopped(Exception):
    """Stands for kill -9: nothing after it is executed."""


def killed_at(number):
    def check(count):
        if count == number:
            raise Stopped

    return check


def outcome_of(folder):
    kinds = ("screened", "gate_decided", "spec_revised", "calibrated", "hypothesis_stated", "space_revised")
    return [(entry.kind, entry.key, entry.data) for entry in read_journal(folder) if entry.kind in kinds]


@pytest.mark.slow
@pytest.mark.parametrize("every", [1, 7, 23])
def test_a_study_that_is_killed_again_and_again_ends_like_one_that_is_not(tmp_path, every):
    run(tmp_path / "whole", budget__trials=70)
    world = World()
    for attempt in itertools.count():
        world.submitted.clear()
        world.on_submit = killed_at(every + 1)
        try:
            run(tmp_path / "killed", world, budget__trials=70)
            break
        except Stopped:
            assert attempt < 200
    assert outcome_of(tmp_path / "killed") == outcome_of(tmp_path / "whole")
    finished = [key for kind, key in trials_by_step(tmp_path / "killed") if kind == "trial_finished"]
    assert len(finished) == len(set(finished))


def test_a_study_that_is_done_is_shown_and_not_run_again(tmp_path):
    first = run(tmp_path, budget__trials=30)
    world = World()
    assert run(tmp_path, world, budget__trials=30).reason == first.reason
    assert world.submitted == []


def test_an_interrupt_stops_after_a_clean_write_and_the_same_call_goes_on(tmp_path):
    spec = spec_of(budget__trials=40)
    world = World()
    study = Study(spec, folder=tmp_path, executor=world)
    world.on_submit = lambda count: study.interrupt() if count == 15 else None
    summary = study.run()
    assert (summary.phase, summary.done) == ("interrupted", False)
    assert "goes on where it stopped" in summary.reason
    assert all(row.result for row in summary.trials), "nothing runs between sessions"
    assert run(tmp_path, budget__trials=40).done


def test_another_spec_in_the_same_folder_is_a_clear_error(tmp_path):
    run(tmp_path, budget__trials=20)
    with pytest.raises(
        StudyMismatch, match=r"/budget/trials was 20, is 21.*specs/0000\.yaml.*another folder with --study"
    ):
        run(tmp_path, budget__trials=21)
    with pytest.raises(StudyMismatch, match="/objective/metric was 'loss', is 'x'"):
        run(tmp_path, budget__trials=20, objective__metric="x")


def test_a_comment_in_the_spec_does_not_make_another_study(tmp_path):
    run(tmp_path, budget__trials=20)
    world = World()
    run(tmp_path, world, text=SPEC + "# later thought\n", budget__trials=20)
    assert world.submitted == []


def test_two_processes_do_not_work_on_one_study(tmp_path):
    with Journal(tmp_path), pytest.raises(StudyLocked):
        run(tmp_path)


def test_a_journal_that_was_edited_is_found_out_on_resume(tmp_path):
    spec = spec_of(budget__trials=60)
    world = World()
    study = Study(spec, folder=tmp_path, executor=world)
    world.on_submit = lambda count: study.interrupt() if count == 30 else None
    study.run()
    lines = (tmp_path / FILE_NAME).read_text().splitlines()
    at = next(i for i, line in enumerate(lines) if '"kind": "screened"' in line)
    entry = json.loads(lines[at])
    entry["data"]["decision"]["verdict"] = "KEEP" if entry["data"]["decision"]["verdict"] == "DROP" else "DROP"
    lines[at] = json.dumps(entry)
    (tmp_path / FILE_NAME).write_text("\n".join(lines) + "\n")
    with pytest.raises(JournalError, match=r"entry \d+ of the journal \(screened h\d+\) differs"):
        run(tmp_path, budget__trials=60)


# -- budgets -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trials", [1, 2, 5, 8, 9, 10, 11, 12, 14, 17, 20, 26, 33, 47, 64])
def test_no_study_runs_more_trials_than_its_budget(tmp_path, trials):
    world = World()
    summary = run(tmp_path, world, budget__trials=trials)
    assert len(world.submitted) <= trials
    assert summary.done
    assert f"budget of {trials} trials" in summary.reason


class Clock:
    """Time goes on by a minute with every trial."""

    def __init__(self):
        self.now = 1e9

    def __call__(self):
        return self.now


def test_a_study_ends_when_its_hours_are_over_and_still_gates_what_it_found(tmp_path):
    clock = Clock()
    world = World()

    def tick(count):
        clock.now += 60

    world.on_submit = tick
    summary = Study(spec_of(budget__hours=1.5), folder=tmp_path, executor=world, clock=clock).run()
    assert "the budget of 1.5 hours is spent" in summary.reason
    assert summary.cost.wall_seconds <= 1.5 * 3600 + 20 * 60
    assert summary.gates


def test_time_between_sessions_does_not_count(tmp_path):
    clock = Clock()
    for _ in range(3):
        world = World()
        study = Study(spec_of(budget__hours=1), folder=tmp_path, executor=world, clock=clock)

        def tick(count, study=study):
            clock.now += 60
            if count == 10:
                study.interrupt()

        world.on_submit = tick
        summary = study.run()
        clock.now += 1e6
    assert summary.phase == "interrupted"
    assert 25 * 60 <= summary.cost.wall_seconds <= 35 * 60


# -- failures ----------------------------------------------------------------------------------------------------------


def test_a_baseline_that_never_trains_fails_the_study_with_the_reason(tmp_path):
    world = World(fails=lambda job: TrialStatus.ERROR)
    summary = run(tmp_path, world)
    assert (summary.phase, summary.done) == ("failed", True)
    assert "the baseline does not train at scale nano: 2 of 2 runs ended with error: simulated" in summary.reason
    assert len(world.submitted) == 2


def test_a_study_whose_baseline_failed_begins_anew_once_the_task_is_mended(tmp_path):
    run(tmp_path, World(fails=lambda job: TrialStatus.ERROR), budget__trials=30)
    assert run(tmp_path, budget__trials=30).phase == "done"
    assert (tmp_path / "failed-1" / FILE_NAME).is_file()


def deep_fails(job):
    return TrialStatus.OUT_OF_MEMORY if job.task["model"]["init_args"]["depth"] > 2 else None


def test_failures_of_hypotheses_are_verdicts_of_their_own_and_the_study_goes_on(tmp_path):
    summary = run(tmp_path, World(fails=deep_fails))
    failed = [row for row in summary.hypotheses if row.status is TrialStatus.OUT_OF_MEMORY]
    assert failed
    assert all(row.verdict is Verdict.DROP and "out of memory" in row.sentence for row in failed)
    assert summary.confirmed_gain.low > 0
    assert summary.incumbent["model.init_args.depth"] <= 2


def test_an_infrastructure_failure_is_tried_once_more_and_is_not_held_against_the_idea(tmp_path):
    world = World()
    world.fails = lambda job: (
        TrialStatus.KILLED if world.submitted.count(job.trial_id) == 1 and int(job.trial_id) % 3 == 0 else None
    )
    summary = run(tmp_path, world, budget__trials=40)
    assert all(row.result.finished for row in summary.trials)
    assert {row.result.attempts for row in summary.trials} == {1, 2}
    assert max(map(world.submitted.count, world.submitted)) == 2


def test_a_branch_that_diverges_in_the_gate_is_not_promoted(tmp_path):
    seen = {}

    def fails(job):
        seeds = seen.setdefault(canonical_task(job), set())
        seeds.add(job.seed)
        return TrialStatus.NOT_FINITE if len(seeds) > 2 and job.task["model"]["init_args"]["lr"] > 0.001 else None

    summary = run(tmp_path, World(fails=fails))
    assert len(summary.revisions) == 1
    assert any(gate.verdict is Verdict.FAIL and "not finite" in gate.sentence for gate in summary.gates)


def canonical_task(job):
    return json.dumps(job.task, sort_keys=True)


# -- guards, scales, rules ---------------------------------------------------------------------------------------------

GUARDED = SPEC.replace("search_space:", "guards:\n  - {metric: accuracy, mode: max}\nsearch_space:")


def test_a_promotion_that_worsens_a_guard_is_refused_with_the_reason(tmp_path):
    def accuracy(job):
        return {
            "accuracy": 0.9 - 0.1 * math.log10(job.task["model"]["init_args"]["lr"] / 0.001) - 1e-4 * (job.seed % 7)
        }

    summary = run(tmp_path, World(extra=accuracy), text=GUARDED)
    refused = [gate for gate in summary.gates if "accuracy got worse" in gate.sentence]
    assert refused
    assert all(gate.verdict is Verdict.FAIL for gate in refused)
    assert summary.incumbent["model.init_args.lr"] <= 0.001


def test_a_bound_drops_a_hypothesis_in_the_screen(tmp_path):
    text = SPEC.replace("search_space:", "guards:\n  - {metric: peak, max: 3}\nsearch_space:")
    summary = run(tmp_path, World(extra=lambda job: {"peak": job.task["model"]["init_args"]["depth"]}), text=text)
    assert any("peak = 4 is above its bound 3" in row.sentence for row in summary.hypotheses)
    assert summary.incumbent["model.init_args.depth"] <= 3


TWO_SCALES = SPEC.replace(
    "  - {name: nano, set: {trainer.max_steps: 10}}\n",
    "  - {name: nano, set: {trainer.max_steps: 10}}\n  - {name: target, set: {trainer.max_steps: 100}}\n",
)


def test_a_branch_climbs_the_ladder_and_is_confirmed_at_the_target(tmp_path):
    summary = run(tmp_path, text=TWO_SCALES, budget__trials=250)
    assert [gate.scale for gate in summary.gates][:2] == ["nano", "target"]
    assert summary.confirmed_gain.scale == "target"
    assert set(summary.noise_sd) == {"nano", "target"}


def test_a_gain_that_exists_at_the_proxy_only_is_not_adopted(tmp_path):
    def proxy_only(task):
        return loss(task) if task["trainer"]["max_steps"] == 10 else 1.0

    summary = run(tmp_path, World(truth=proxy_only), text=TWO_SCALES, budget__trials=200)
    assert any(gate.scale == "nano" and gate.verdict is Verdict.PROMOTE for gate in summary.gates)
    assert len(summary.revisions) == 1
    assert summary.confirmed_gain is None


def test_adopt_at_names_the_scale_that_suffices(tmp_path):
    summary = run(tmp_path, text=TWO_SCALES, decision__adopt_at="nano")
    assert {gate.scale for gate in summary.gates} == {"nano"}
    assert summary.confirmed_gain.scale == "nano"


@pytest.mark.parametrize("rule", ["greedy", "mean"])
def test_the_rules_for_comparison_promote_without_a_gate(tmp_path, rule):
    summary = run(tmp_path, decision__rule=rule, budget__trials=100)
    assert summary.rule == rule
    assert summary.gates == ()
    assert len(summary.revisions) > 1
    assert f"rule {rule}: no gate, no error guarantee" in (tmp_path / "specs" / "0001.yaml").read_text()


def test_greedy_keeps_noise_where_the_gate_does_not(tmp_path):
    greedy = run(tmp_path / "greedy", World(truth=flat), decision__rule="greedy")
    assert len(greedy.revisions) > 1
    assert len(run(tmp_path / "gate", World(truth=flat)).revisions) == 1


def test_the_self_test_gates_the_baseline_against_itself_and_does_not_promote_it(tmp_path):
    summary = run(tmp_path, decision__self_test="true", budget__trials=60)
    assert summary.gates[0].round == 0
    assert summary.gates[0].verdict is Verdict.FAIL


def test_a_summary_from_disk_equals_the_one_that_run_returns(tmp_path):
    assert run(tmp_path) == summarize(tmp_path)


def test_failed_trials_keep_their_folder_and_finished_ones_do_not(tmp_path):
    summary = run(tmp_path, World(fails=deep_fails), budget__trials=60)
    kept = {path.name for path in (tmp_path / "trials").iterdir()}
    assert kept == {row.trial.id for row in summary.trials if not row.result.finished}


@pytest.mark.parametrize("case", ["gain", "failures", "baseline fails"])
def test_every_entry_of_a_journal_fits_its_schema(tmp_path, case):
    from jsonschema import Draft202012Validator

    from lightning_autoresearch.bundled import resource

    world = {
        "gain": World(),
        "failures": World(fails=deep_fails),
        "baseline fails": World(fails=lambda job: TrialStatus.ERROR),
    }[case]
    run(tmp_path, world, text=TWO_SCALES, budget__trials=120)
    validator = Draft202012Validator(json.loads(resource("schemas", "journal.schema.json").read_text()))
    entries = [json.loads(line) for line in (tmp_path / FILE_NAME).read_text().splitlines()]
    assert [error.message for entry in entries for error in validator.iter_errors(entry)] == []


# -- found in review: each of these went wrong once ----------------------------------------------------------------


@pytest.mark.parametrize("slots", [1, 2, 3, 4, 8])
def test_all_slots_are_used_and_no_more(tmp_path, slots):
    world = World(slots=slots)
    run(tmp_path, world, execution__slots=slots, budget__trials=40)
    assert world.peak == slots


def test_two_steps_that_want_the_same_run_get_it_from_one(tmp_path):
    world = World(slots=1)
    study = Study(spec_of(execution__slots=1), folder=tmp_path, executor=world)
    with Journal(tmp_path) as journal:
        dispatcher = Dispatcher(
            journal,
            executor=world,
            folder=tmp_path / "trials",
            slots=1,
            make_job=lambda trial: make_job(study.spec, trial),
        )
        bench = Bench(study.spec, dispatcher=dispatcher)
        one, other = bench.seeds.fresh(), bench.seeds.fresh()
        wanted = [(bench.base, one), (bench.base, one), (bench.base, other)]
        runs = bench.run_all(wanted, study.spec.scales.search, purpose=Purpose.BAR)
    assert runs[0].result == runs[1].result != runs[2].result
    assert world.submitted == ["00001", "00002"]


@pytest.mark.parametrize("rule", ["greedy", "mean", "gate"])
@pytest.mark.parametrize("slots", [1, 2, 8])
@pytest.mark.parametrize("trials", [12, 31, 60])
def test_no_rule_exceeds_the_budget_however_many_slots_there_are(tmp_path, rule, slots, trials):
    world = World(slots=slots)
    settings = {"decision__rule": rule, "execution__slots": slots, "budget__trials": trials, "decision__gate_pairs": 4}
    summary = run(tmp_path, world, text=TWO_SCALES, **settings)
    assert len(world.submitted) <= trials
    assert summary.done


def test_a_trial_cancelled_at_the_end_of_a_session_is_run_and_held_against_nobody(tmp_path):
    world = World()
    world.fails = lambda job: TrialStatus.CANCELLED if world.submitted.count(job.trial_id) == 1 else None
    summary = run(tmp_path, world, budget__trials=40)
    assert all(row.result.finished for row in summary.trials)


def test_a_comment_added_between_sessions_changes_nothing(tmp_path):
    spec = spec_of(budget__trials=120)
    world = World()
    study = Study(spec, folder=tmp_path, executor=world)
    world.on_submit = lambda count: study.interrupt() if (tmp_path / "specs/0001.yaml").exists() else None
    assert study.run().phase == "interrupted"
    assert run(tmp_path, text=SPEC + "# later thought\n", budget__trials=120).phase == "done"
    assert (tmp_path / "specs/0000.yaml").read_bytes() == SPEC.encode()
    assert "later thought" not in (tmp_path / "specs/0001.yaml").read_text()


def test_a_task_in_a_file_of_its_own_is_put_in_place_as_it_was_when_the_study_began(tmp_path):
    start, end = SPEC.index("  model:\n"), SPEC.index("objective:")
    config = tmp_path / "config.yaml"
    config.write_text("# hers\n" + textwrap.dedent(SPEC[start:end]))
    text = SPEC[:start].replace("task:\n", "task: {config: config.yaml}\n") + SPEC[end:]
    spec = parse_spec(text, path=tmp_path / "world.yaml", overrides=["budget.trials=120"])
    world = World()
    world.on_submit = lambda count: config.unlink(missing_ok=True)
    summary = Study(spec, folder=tmp_path / "study", executor=world).run()
    assert summary.confirmed_gain.low > 0
    revision = (tmp_path / "study/specs/0001.yaml").read_text()
    assert "# ten times too small" in revision
    assert parse_spec(revision, path=Path("x.yaml")).base["model.init_args.depth"] >= 1


def test_what_the_machine_does_is_not_blamed_on_the_baseline(tmp_path):
    summary = run(tmp_path, World(fails=lambda job: TrialStatus.KILLED), budget__trials=30)
    assert summary.phase == "failed"
    assert "the machine ended 8 of 8 runs of the incumbent at scale nano" in summary.reason


def test_entries_written_between_sessions_do_not_count_as_time(tmp_path):
    clock = Clock()
    world = World()
    spec = spec_of(budget__hours=1)
    study = Study(spec, folder=tmp_path, executor=world, clock=clock)
    world.on_submit = lambda count: study.interrupt() if count == 5 else None
    study.run()
    clock.now += 1e6
    with Journal(tmp_path, clock=clock) as journal:
        journal.append("message", {"text": "a note"})
    assert summarize(tmp_path).cost.wall_seconds < 60


def test_a_repaired_journal_is_told(tmp_path):
    spec = spec_of(budget__trials=40)
    world = World()
    study = Study(spec, folder=tmp_path, executor=world)
    world.on_submit = lambda count: study.interrupt() if count == 5 else None
    study.run()
    with (tmp_path / FILE_NAME).open("ab") as file:
        file.write(b'{"n": 99')
    summary = run(tmp_path, budget__trials=40)
    assert any("the last record of the journal was torn (8 bytes" in message for message in summary.messages)


def test_the_phase_of_a_resumed_study_is_what_it_does(tmp_path):
    spec = spec_of(budget__trials=60)
    world = World()
    study = Study(spec, folder=tmp_path, executor=world)
    world.on_submit = lambda count: study.interrupt() if count == 20 else None
    study.run()
    phases = []
    world = World(on_submit=lambda count: phases.append(summarize(tmp_path).phase))
    run(tmp_path, world, budget__trials=60)
    assert phases
    assert "interrupted" not in phases[1:]


def test_one_study_object_can_run_twice(tmp_path):
    world = World()
    study = Study(spec_of(budget__trials=40), folder=tmp_path, executor=world)
    world.on_submit = lambda count: study.interrupt() if count == 5 else None
    first = study.run()
    second = study.run()
    assert (first.phase, second.phase) == ("interrupted", "done")
    assert second == summarize(tmp_path)


def test_an_empty_search_space_ends_the_study_in_words(tmp_path):
    text = SPEC[: SPEC.index("search_space:")] + "search_space: {}\n" + SPEC[SPEC.index("scales:") :]
    assert "exhausted" in run(tmp_path, text=text).reason


def test_a_round_closes_at_its_keeps_whatever_the_slots(tmp_path):
    summary = run(tmp_path, World(slots=8), execution__slots=8, decision__keeps_per_round=1, budget__trials=200)
    assert summary.gates
    assert all(len(gate.hypotheses) == 1 for gate in summary.gates)


def test_folders_that_a_kill_left_behind_are_swept(tmp_path):
    spec = spec_of(budget__trials=40)
    world = World()
    study = Study(spec, folder=tmp_path, executor=world)
    world.on_submit = lambda count: study.interrupt() if count == 8 else None
    study.run()
    (tmp_path / "trials/00001").mkdir(parents=True)
    run(tmp_path, budget__trials=40)
    assert not (tmp_path / "trials/00001").exists()


def test_an_exception_of_a_proposer_leaves_a_study_that_can_go_on(tmp_path):
    class Broken:
        def propose(self, briefing):
            raise RuntimeError("no ideas")

    with pytest.raises(RuntimeError, match="no ideas"):
        Study(spec_of(budget__trials=40), folder=tmp_path, executor=World(), proposer=Broken()).run()
    summary = summarize(tmp_path)
    assert (summary.phase, summary.reason) == ("interrupted", "stopped by RuntimeError: no ideas")
    assert run(tmp_path, budget__trials=40).done
