"""Studies with a scientist, on simulated training: what it gains, what its faults cost, what it cannot reach."""

from __future__ import annotations

import contextlib
import json
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from lightning_autoresearch.asking import prompt_of, spending
from lightning_autoresearch.chat import ChatReply, Outcome, ScriptedChat
from lightning_autoresearch.errors import InputError, StudyMismatch
from lightning_autoresearch.fold import Fold, summarize
from lightning_autoresearch.history import value_text
from lightning_autoresearch.journal import FILE_NAME, read_journal
from lightning_autoresearch.replay import ReplayChat, UnseenPrompt
from lightning_autoresearch.spec import parse_spec
from lightning_autoresearch.status import status_json
from lightning_autoresearch.study import Study
from tests.scientists import WITH_SCIENTIST, Expert, answered, idea, op, reply, setting
from tests.worlds import SPEC, World, flat, loss, quicken

TEXT = SPEC + WITH_SCIENTIST
DEAD = ChatReply(outcome=Outcome.DISCONNECTED, detail="connection refused", may_cost=False)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    quicken(monkeypatch)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr("lightning_autoresearch.asking.BACKOFF_SECONDS", 0.001)


def study_of(folder, chat, *, world=None, text=TEXT, **overrides):
    spec = parse_spec(
        text,
        path=Path("world.yaml"),
        overrides=[f"{key.replace('__', '.')}={value}" for key, value in overrides.items()],
    )
    study = Study(spec, folder=folder, executor=world or World(), chat=chat)
    if isinstance(chat, Expert):
        study.listen(chat.listening_to(Fold(folder=folder)))
    return study


def run(folder, chat, **options):
    return study_of(folder, chat, **options).run()


def kinds(folder, *wanted):
    return [entry for entry in read_journal(folder) if entry.kind in wanted]


def said(summary):
    """What a study came to, without clocks."""
    return (
        [(row.hypothesis, row.gain, row.verdict) for row in summary.hypotheses],
        [(gate.scale, gate.gains, gate.verdict) for gate in summary.gates],
        summary.incumbent,
        summary.confirmed_gain,
    )


# -- division of labour ------------------------------------------------------------------------------------------------


def test_an_expert_and_the_sampler_share_the_hypotheses_and_each_names_its_source(tmp_path):
    chat = Expert()
    summary = run(tmp_path, chat)
    sources = Counter(row.hypothesis.source for row in summary.hypotheses)
    assert set(sources) == {"expert", "sampler"}
    assert 0.3 < sources["expert"] / sources.total() < 0.7
    assert summary.confirmed_gain.low > 0
    assert chat.requests


def test_with_a_share_of_one_the_sampler_only_fills_what_is_missing(tmp_path):
    summary = run(tmp_path, Expert(), scientist__share=1)
    first_round = [row.hypothesis.source for row in summary.hypotheses[:3]]
    assert first_round == ["expert"] * 3


def test_with_a_share_of_none_the_model_is_asked_once_a_round_for_the_space(tmp_path):
    chat = Expert(lambda branch: [])
    summary = run(tmp_path, chat, scientist__share=0)
    assert {row.hypothesis.source for row in summary.hypotheses} == {"sampler"}
    asked = {request.key.split("/")[0] for request in chat.requests}
    assert len(asked) <= summary.round
    assert asked


def test_an_exact_duplicate_is_refused_before_any_training_is_paid_for(tmp_path):
    again = [reply(idea(op("set", "/task/model/init_args/idle", old=0.5, value=0.25)))] * 400
    run(tmp_path, ScriptedChat(again, name="expert"), world=World(truth=flat, sd=0.0), budget__trials=60)
    stated = [entry.data["hypothesis"] for entry in kinds(tmp_path, "hypothesis_stated")]
    same = [one for one in stated if one["overrides"] == {"model.init_args.idle": 0.25}]
    assert len(same) == 1


def test_after_rounds_without_a_promotion_the_model_is_told_to_change_the_kind_of_idea(tmp_path):
    chat = Expert(lambda branch: [setting(branch, "idle", round((branch["model.init_args.idle"] + 0.111) % 1, 3))])
    run(tmp_path, chat, world=World(truth=flat), decision__proposals_per_round=6, budget__trials=120)
    first, last = ("".join(m.content for m in chat.requests[at].messages) for at in (0, -1))
    assert "kind of idea" in last
    assert "rounds without a promotion" not in first.split("</rules>")[-1] or "0 rounds" in first


# -- a knob that is in the task and not in the space -------------------------------------------------------------------

WITH_MOMENTUM = TEXT.replace("      idle: 0.5\n", "      idle: 0.5\n      momentum: 0.5\n")


def momentum_helps(task):
    return loss(task) + (task["model"]["init_args"]["momentum"] - 0.9) ** 2


def add_momentum(branch):
    if "model.init_args.momentum" in branch:
        return []
    path = "/search_space/model.init_args.momentum"
    domain = {"type": "float", "low": 0.0, "high": 0.99}
    change = op("set", "/task/model/init_args/momentum", old=0.5, value=0.9)
    return [idea(op("add", path, value=domain), change, delta=-0.16)]


def test_a_knob_that_the_model_adds_is_searched_promoted_and_written(tmp_path):
    summary = run(tmp_path, Expert(add_momentum), text=WITH_MOMENTUM, world=World(truth=momentum_helps))
    assert summary.incumbent["model.init_args.momentum"] > 0.7
    text = (tmp_path / "specs" / f"{len(summary.revisions) - 1:04d}.yaml").read_text()
    after = parse_spec(text, path=Path("x.yaml"))
    assert "model.init_args.momentum" in after.search_space
    assert after.base["model.init_args.momentum"] == summary.incumbent["model.init_args.momentum"]
    assert any(
        row.hypothesis.source == "sampler" and "model.init_args.momentum" in row.hypothesis.overrides
        for row in summary.hypotheses
    )


def test_old_trials_are_carried_over_when_a_knob_joins_the_space(tmp_path):
    chat = ScriptedChat([reply()] * 3 + [reply(*add_momentum({}))], name="expert")
    summary = run(tmp_path, chat, text=WITH_MOMENTUM, world=World(truth=momentum_helps))
    joined = next(entry for entry in read_journal(tmp_path) if entry.kind == "space_revised")
    assert joined.data["base"] == {"model.init_args.momentum": 0.5}
    runs = [json.dumps([dict(row.trial.overrides), row.trial.seed], sort_keys=True) for row in summary.trials]
    assert len(set(runs)) == len(runs)


# -- faults ------------------------------------------------------------------------------------------------------------


def test_with_the_network_dead_all_along_the_study_ends_with_the_offline_result_and_says_so(tmp_path):
    offline = Study(parse_spec(SPEC, path=Path("world.yaml")), folder=tmp_path / "offline", executor=World()).run()
    chat = ScriptedChat([DEAD] * 10_000, name="expert")
    summary = run(tmp_path / "dead", chat)
    assert said(summary) == said(offline)
    assert any("connection refused" in text and "the sampler proposes alone" in text for text in summary.messages)


def test_after_failures_in_a_row_the_model_is_asked_once_a_round_only(tmp_path):
    chat = ScriptedChat([DEAD] * 10_000, name="expert")
    summary = run(tmp_path, chat)
    proposals = len(kinds(tmp_path, "proposal_received"))
    asked = {entry.key.rsplit("/", 2)[0] for entry in kinds(tmp_path, "call_started")}
    assert len(asked) <= 3 + summary.round < proposals


@pytest.mark.parametrize("outcome", [Outcome.UNAUTHORIZED, Outcome.NOT_FOUND, Outcome.QUOTA_SPENT, Outcome.NO_KEY])
def test_an_outcome_that_stays_is_met_once(tmp_path, outcome):
    chat = ScriptedChat([ChatReply(outcome=outcome, detail="no", may_cost=False)] * 100, name="expert")
    summary = run(tmp_path, chat, budget__trials=60)
    assert len(chat.requests) == 1
    assert summary.done
    assert any("it is not asked again in this session" in text for text in summary.messages)


def test_a_reply_that_breaks_rules_goes_back_with_every_fault_and_is_mended(tmp_path):
    bad = reply(idea(op("set", "/task/trainer/max_steps", old=10, value=99), metric="accuracy"))
    good = reply(idea(op("set", "/task/model/init_args/lr", old=0.001, value=0.003)))
    chat = ScriptedChat([bad, good], name="expert")
    run(tmp_path, chat, budget__trials=40)
    faults = chat.requests[1].messages[-1].content
    assert "/task/trainer/max_steps" in faults
    assert "accuracy" in faults
    first = kinds(tmp_path, "proposal_received")[0].data
    assert first["provenance"]["repairs"] == 1
    assert first["hypotheses"][0]["overrides"] == {"model.init_args.lr": 0.003}


def test_a_reply_that_stays_bad_is_journaled_as_such_and_its_good_part_is_used(tmp_path):
    good = idea(op("set", "/task/model/init_args/lr", old=0.001, value=0.003))
    bad = idea(op("set", "/decision/alpha", old=0.1, value=0.9))
    chat = ScriptedChat([reply(good, bad)] * 3, name="expert")
    summary = run(tmp_path, chat, budget__trials=40)
    first = kinds(tmp_path, "proposal_received")[0].data
    assert first["provenance"]["repairs"] == 2
    assert "/decision/alpha" in first["notes"][0]
    assert first["hypotheses"][0]["source"] == "expert"
    assert any("/decision/alpha" in text for text in summary.messages)


def test_nothing_that_a_reply_says_reaches_the_judge(tmp_path):
    """The whole study, not the reading alone: the same revision 0, the same protected sections, the same scales."""
    grab = reply(
        idea(op("set", "/decision/alpha", old=0.1, value=0.99)),
        idea(op("set", "/scales/0/set/trainer.max_steps", old=10, value=1000)),
        idea(op("add", "/search_space/trainer.max_steps", value={"type": "int", "low": 1, "high": 9999})),
    )
    world = World()
    run(tmp_path, ScriptedChat([grab] * 500, name="expert"), world=world, budget__trials=60)
    assert {job.task["trainer"]["max_steps"] for job in world.jobs} == {10}
    assert (tmp_path / "specs" / "0000.yaml").read_text() == TEXT


def test_a_protected_value_that_changes_in_memory_stops_the_study_before_the_next_fit(tmp_path):
    world = World()
    study = study_of(tmp_path, Expert(), world=world)
    world.on_submit = lambda count: study.spec.data["decision"].update(alpha=0.99) if count == 12 else None
    summary = study.run()
    assert summary.phase == "failed"
    assert "a protected section of the spec has changed" in summary.reason
    assert len(world.submitted) == 12


# -- budget ------------------------------------------------------------------------------------------------------------


def test_the_token_budget_is_never_exceeded_and_the_sampler_goes_on(tmp_path):
    chat = Expert(tokens=4000)
    summary = run(tmp_path, chat, budget__tokens=120_000, scientist__max_tokens=4096)
    assert spending(read_journal(tmp_path)).tokens <= 120_000
    assert summary.cost.llm_tokens == 8000 * len(chat.requests)
    assert any("budget" in text and "the sampler proposes alone" in text for text in summary.messages)
    assert summary.hypotheses[-1].hypothesis.source == "sampler"


def test_a_cap_in_dollars_without_a_known_price_is_refused_at_the_start_with_the_way_out(tmp_path):
    spec = parse_spec(TEXT, path=Path("world.yaml"), overrides=["budget.usd=1"])
    with pytest.raises(InputError, match=r"price of expert is not known; write it as scientist\.price"):
        Study(spec, folder=tmp_path / "s", executor=World()).run()
    assert not (tmp_path / "s").exists()


def test_a_missing_key_is_refused_at_the_start(tmp_path, monkeypatch):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    text = SPEC + "scientist: {model: expert, api_key_env: NO_SUCH_KEY}\n"
    with pytest.raises(InputError, match="NO_SUCH_KEY"):
        Study(parse_spec(text, path=Path("world.yaml")), folder=tmp_path / "s", executor=World()).run()
    assert not (tmp_path / "s").exists()


def test_gains_that_are_too_dear_end_the_study(tmp_path):
    price = "{input_usd_per_million_tokens: 1000, output_usd_per_million_tokens: 1000}"
    summary = run(tmp_path, Expert(), scientist__price=price, budget__usd_per_gain=0.5)
    assert summary.done
    assert "budget.usd_per_gain" in summary.reason
    assert summary.cost.llm_usd > 0.5


# -- resume and replay -------------------------------------------------------------------------------------------------


class Killed(BaseException):
    pass


@pytest.mark.parametrize("every", [1, 7])
def test_killed_after_any_trial_and_resumed_nothing_is_asked_or_run_twice(tmp_path, every):
    whole, asked = run(tmp_path / "whole", chat := Expert(), budget__trials=60), len(chat.requests)

    chat = Expert()
    summary = None
    while summary is None:
        world = World(on_submit=lambda count: _kill(count, every))
        with contextlib.suppress(Killed):
            summary = run(tmp_path / "killed", chat, world=world, budget__trials=60)
    assert said(summary) == said(whole)
    assert len(chat.requests) == asked


def _kill(count, every):
    if count > every:
        raise Killed


def test_a_study_is_replayed_from_its_journal_without_a_key(tmp_path):
    whole = run(tmp_path / "whole", Expert(), budget__trials=60)
    again = run(tmp_path / "again", ReplayChat(read_journal(tmp_path / "whole")), budget__trials=60)
    assert [row.hypothesis.overrides for row in again.hypotheses] == [
        row.hypothesis.overrides for row in whole.hypotheses
    ]
    assert again.incumbent == whole.incumbent


def test_a_prompt_that_was_never_seen_fails_loudly(tmp_path):
    run(tmp_path / "whole", Expert(), budget__trials=60)
    chat = ReplayChat(read_journal(tmp_path / "whole"))
    with pytest.raises(UnseenPrompt):
        run(tmp_path / "again", chat, budget__trials=60, goal="Something else.")


def test_the_journal_gives_back_every_prompt_and_grows_by_far_less(tmp_path):
    chat = Expert()
    run(tmp_path, chat)
    entries = read_journal(tmp_path)
    calls = [entry for entry in entries if entry.kind == "call_started"]
    assert [prompt_of(entries, entry.key) for entry in calls] == [request.messages for request in chat.requests]
    sent = sum(len(message.content) for request in chat.requests for message in request.messages)
    assert sum(len(json.dumps(dict(entry.data))) for entry in calls) < 0.5 * sent


def test_interrupted_while_the_model_is_asked_the_study_goes_on_where_it_was(tmp_path):
    whole = run(tmp_path / "whole", Expert(), budget__trials=60)
    chat = Expert()
    study = study_of(tmp_path / "stopped", chat, budget__trials=60)
    ask, asks = chat.ask, []

    def interrupting(request, *, stop):
        asks.append(request)
        if len(asks) == 2:
            study.interrupt()
            return ChatReply(outcome=Outcome.TIMED_OUT, detail="stopped", may_cost=False)
        return ask(request, stop=stop)

    chat.ask = interrupting
    assert study.run().phase == "interrupted"
    chat.ask = ask
    summary = run(tmp_path / "stopped", chat, budget__trials=60)
    assert said(summary) == said(whole)


# -- what must never be seen -------------------------------------------------------------------------------------------

HIDDEN = TEXT + "guards:\n  - {metric: heldout_secret, mode: min, hidden: true}\n  - {metric: size, max: 9}\n"


def test_no_secret_no_key_and_no_hidden_guards_value_is_ever_seen(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PLANTED_API_KEY", "planted-environment-value")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-planted0123456789abcdef")
    from lightning_autoresearch.trial import TrialStatus

    class Leaky(World):
        def result(self, job):
            made = super().result(job)
            if made.finished:
                return made
            leak = "planted-environment-value sk-planted0123456789abcdef http://me:hunter22@host/"
            return replace(made, failure=f"refused {leak}", traceback=(f"  token {leak}",))

    fails = lambda job: TrialStatus.ERROR if job.task["model"]["init_args"]["depth"] == 3 else None  # noqa: E731
    world = Leaky(fails=fails, extra=lambda job: {"heldout_secret": 4.8151623 + job.seed % 7 * 1e-9, "size": 1.0})
    chat = Expert(lambda branch: [setting(branch, "depth", branch["model.init_args.depth"] + 1)])
    summary = run(tmp_path, chat, text=HIDDEN, world=world)
    prompts = "".join(message.content for request in chat.requests for message in request.messages)
    shown = {
        "prompt": prompts,
        "journal": (tmp_path / FILE_NAME).read_text(),
        "status": json.dumps(status_json(summary)),
        "summary": repr(summary),
        "output": "".join(capsys.readouterr()),
    }
    for where, text in shown.items():
        for secret in ("planted-environment-value", "sk-planted", "hunter22", "4.81516"):
            assert secret not in text, where
    assert "heldout_secret" not in prompts
    assert "refused [redacted]" in shown["journal"]


def test_hidden_guards_still_judge_and_survive_a_resume(tmp_path):
    def damaging(job):
        args = job.task["model"]["init_args"]
        return {"heldout_secret": 1.0 if args["lr"] == 0.001 else 2.0 + job.seed % 5 * 1e-3, "size": 1.0}

    chat = Expert(lambda branch: [setting(branch, "lr", 0.003)])
    world = World(extra=damaging, on_submit=lambda count: _kill(count, 40))
    with pytest.raises(Killed):
        run(tmp_path, chat, text=HIDDEN, world=world)
    summary = run(tmp_path, chat, text=HIDDEN, world=World(extra=damaging))
    assert not any(change.startswith("model.init_args.lr:") for one in summary.revisions for change in one.changes)
    assert any("heldout_secret got worse" in gate.sentence for gate in summary.gates)


# -- predictions -------------------------------------------------------------------------------------------------------


def test_predictions_are_scored_by_source_in_the_journal_the_status_and_the_next_briefing(tmp_path):
    chat = Expert()
    summary = run(tmp_path, chat)
    scored = kinds(tmp_path, "predictions_scored")
    assert [entry.data["round"] for entry in scored] == sorted({row.round for row in summary.hypotheses})
    last = scored[-1].data["sources"]
    assert set(last) == {"expert", "sampler"}
    assert status_json(summarize(tmp_path))["predictions"]["expert"]["count"] == last["expert"]["count"]
    assert "Brier" in chat.requests[-1].messages[1].content


def test_a_prediction_is_oriented_so_that_positive_is_better(tmp_path):
    chat = ScriptedChat(
        [answered(reply(idea(op("set", "/task/model/init_args/lr", old=0.001, value=0.003), delta=-0.2)))]
    )
    run(tmp_path, chat, budget__trials=40)
    first = kinds(tmp_path, "hypothesis_stated")[0].data["hypothesis"]["prediction"]
    assert first["gain"] == pytest.approx(0.2)
    assert (first["low"], first["high"]) == (pytest.approx(0.0), pytest.approx(0.4))


# -- what a review found -----------------------------------------------------------------------------------------------


def test_the_price_of_a_gain_stops_the_asking_and_not_a_gate_that_is_under_way(tmp_path):
    price = "{input_usd_per_million_tokens: 100, output_usd_per_million_tokens: 100}"
    summary = run(tmp_path, Expert(tokens=1000), scientist__price=price, budget__usd_per_gain=0.3)
    assert summary.gates
    assert all(gate.verdict.value != "VOID" for gate in summary.gates)
    assert summary.confirmed_gain.low > 0


ONE_CHOICE = """\
search_space:
  model.init_args.act: {type: categorical, choices: [relu, gelu]}
"""


def with_arguments(count):
    """A task with further arguments, of which none is searched, and a space that is soon exhausted."""
    arguments = "".join(f"      a{number}: 1\n" for number in range(count))
    text = TEXT.replace("      act: relu\n", "      act: relu\n" + arguments)
    start = text.index("search_space:\n")
    end = text.index("\nscales:", start)
    return text[:start] + ONE_CHOICE + text[end:]


class Opening:
    """Sets one argument after the other that the space does not hold; does not answer the calls named in `dead`."""

    name = "opening"

    def __init__(self, dead=()):
        self.dead, self.calls, self.opened = dead, 0, 0

    def ask(self, request, *, stop):
        self.calls += 1
        if self.calls in self.dead:
            return DEAD
        self.opened += 1
        return answered(reply(idea(op("set", f"/task/model/init_args/a{self.opened - 1}", old=1, value=2))))


def worse_with_each(task):
    arguments = task["model"]["init_args"]
    return 1.0 + sum(value for key, value in arguments.items() if key[0] == "a" and key != "act")


@pytest.mark.parametrize(("share", "dead"), [(0.1, ()), (0.5, tuple(range(1, 9)))])
def test_where_the_sampler_has_tried_everything_the_model_opens_the_space(tmp_path, share, dead):
    chat = Opening(dead)
    world = World(truth=worse_with_each, sd=0.001)
    summary = run(tmp_path, chat, text=with_arguments(30), world=world, scientist__share=share, budget__trials=60)
    assert "60 trials" in summary.reason
    assert chat.opened > 2


def test_where_nobody_answers_and_the_sampler_has_tried_everything_the_study_ends(tmp_path):
    chat = Opening(range(1, 1000))
    summary = run(tmp_path, chat, text=with_arguments(3), world=World(truth=worse_with_each), budget__trials=200)
    assert "nothing of 3 proposals in a row" in summary.reason
    assert any("did not answer" in message for message in summary.messages)


def test_a_hypothesis_that_is_void_because_the_round_was_full_may_be_stated_again(tmp_path):
    arguments = {"lr": 0.002, "idle": 0.4, "depth": 3, "act": "gelu"}

    def several(branch):
        return [
            setting(branch, name, value)
            for name, value in arguments.items()
            if branch[f"model.init_args.{name}"] != value
        ]

    def helps(task):
        return 5.0 - sum(0.1 * (task["model"]["init_args"][name] == value) for name, value in arguments.items())

    run(
        tmp_path,
        Expert(several),
        world=World(truth=helps, sd=0.001),
        scientist__share=1,
        decision__keeps_per_round=1,
        execution__slots=2,
        budget__trials=150,
    )
    screened = kinds(tmp_path, "screened")
    void = [entry.data for entry in screened if entry.data["decision"]["verdict"] == "VOID"]
    assert void
    assert "the round was full" in void[0]["decision"]["sentence"]
    ids = {
        entry.data["hypothesis"]["id"]: entry.data["hypothesis"]["overrides"]
        for entry in kinds(tmp_path, "hypothesis_stated")
    }
    again = [name for name, overrides in ids.items() if overrides == ids[void[0]["hypothesis"]]]
    assert len(again) > 1


def test_a_line_of_the_history_tells_the_branch_that_the_hypothesis_was_compared_with(tmp_path):
    chat = Expert(lambda branch: [setting(branch, "lr", branch["model.init_args.lr"] * factor) for factor in (2, 3)])
    run(tmp_path, chat, scientist__share=1, budget__trials=80)
    prompts = "".join(message.content for request in chat.requests for message in request.messages)
    rivals = {line for line in prompts.splitlines() if "sets the same key and gained more" in line}
    before = {entry.key: entry.data["before"] for entry in kinds(tmp_path, "hypothesis_stated")}
    alone = [line.split(" ") for line in rivals if line.count("->") == 1]
    assert alone
    for words in alone:
        (value,) = before[words[0]].values()
        assert value_text(value) == words[4].split("->")[0]


def test_waiting_for_the_model_is_part_of_the_hours(tmp_path):
    class Slow:
        name = "slow"

        def ask(self, request, *, stop):
            time.sleep(min(request.timeout_seconds, 60))
            return ChatReply(outcome=Outcome.TIMED_OUT, detail="no answer")

    started = time.monotonic()
    summary = run(tmp_path, Slow(), budget__hours=0.001)
    assert "hours" in summary.reason
    assert time.monotonic() - started < 20


def test_the_key_is_kept_from_the_trials_whatever_its_variable_is_called(tmp_path, monkeypatch):
    monkeypatch.setenv("MYLLM", "planted-value-of-the-key")
    asked = {}

    def make(settings, **options):
        asked.update(options)
        return World()

    monkeypatch.setattr("lightning_autoresearch.study.make_executor", make)
    spec = parse_spec(SPEC + "scientist: {model: expert, api_key_env: MYLLM}\n", path=Path("world.yaml"))
    Study(spec, folder=tmp_path, chat=ScriptedChat([], name="expert")).run()
    assert asked["key_variable"] == "MYLLM"


def test_a_mailbox_that_is_a_file_is_refused_at_the_start(tmp_path):
    (tmp_path / "box").write_text("mine")
    spec = parse_spec(SPEC + "scientist: {mailbox: box}\n", path=tmp_path / "world.yaml")
    with pytest.raises(InputError, match=r"scientist\.mailbox: .*box is a file; name a folder"):
        Study(spec, folder=tmp_path / "s", executor=World()).run()
    assert not (tmp_path / "s").exists()


def test_whoever_waits_for_a_mailbox_is_told_where_the_request_lies(tmp_path):
    spec = parse_spec(
        SPEC + "scientist: {mailbox: box, timeout_seconds: 1}\n",
        path=tmp_path / "world.yaml",
        overrides=["budget.trials=30"],
    )
    Study(spec, folder=tmp_path / "s", executor=World()).run()
    details = {entry.data.get("detail") for entry in kinds(tmp_path / "s", "phase") if entry.data["phase"] == "asking"}
    assert details
    assert all("reply beside box/*.request.json" in detail for detail in details)


def test_how_the_scientist_is_reached_may_change_from_session_to_session(tmp_path):
    text = SPEC + "scientist: {mailbox: box, timeout_seconds: 1}\n"
    spec = parse_spec(text, path=tmp_path / "world.yaml", overrides=["budget.trials=60"])
    folder = tmp_path / "s"
    with pytest.raises(Killed):
        Study(spec, folder=folder, executor=World(on_submit=lambda count: _kill(count, 25))).run()
    patient = parse_spec(text.replace("seconds: 1", "seconds: 2"), path=spec.path, overrides=["budget.trials=60"])
    assert Study(patient, folder=folder, executor=World()).run().done
    other = parse_spec(text.replace("mailbox: box", "mailbox: box, share: 1"), path=spec.path)
    with pytest.raises(StudyMismatch, match="another spec"):
        Study(other, folder=folder, executor=World()).run()
