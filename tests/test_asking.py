from __future__ import annotations

import json
import socket
import sys
from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from lightning_autoresearch.asking import (
    FREE,
    MOST_TRIES,
    TRY_AGAIN,
    Line,
    Spending,
    most_tokens,
    price_of,
    prompt_of,
    prompts_of,
    spending,
)
from lightning_autoresearch.bundled import resource
from lightning_autoresearch.chat import PERMANENT, ChatMessage, ChatReply, Outcome, ScriptedChat, Usage
from lightning_autoresearch.journal import Entry, Journal, read_journal
from lightning_autoresearch.space import digest_of
from lightning_autoresearch.spec import Budget, Price, ScientistSettings

SCHEMA = {"type": "object"}
SETTINGS = ScientistSettings(model="m", max_tokens=1000)
PRICE = Price(input_usd_per_million_tokens=2.0, output_usd_per_million_tokens=10.0)
PROMPT = (ChatMessage(role="system", content="rules"), ChatMessage(role="user", content="what now?"))
OVERHEAD = 64 + 2 * 16 + most_tokens(json.dumps(SCHEMA))
RESERVE = OVERHEAD + most_tokens("rules") + most_tokens("what now?") + 1000
DEAR = Usage(input_tokens=100, output_tokens=50)


class Time:
    """A clock that moves when somebody sleeps."""

    def __init__(self):
        self.now = 0.0
        self.sleeps = []

    def clock(self):
        return self.now

    def sleep(self, seconds):
        self.sleeps.append(seconds)
        self.now += seconds


def line_to(chat, journal, *, time=None, given=SETTINGS, budget=None, price=None, stop=lambda: False, secrets=()):
    time = time or Time()
    return Line(
        chat if isinstance(chat, ScriptedChat) else ScriptedChat(chat),
        journal=journal,
        settings=given,
        budget=budget or Budget(),
        price=price,
        stop=stop,
        sleep=time.sleep,
        clock=time.clock,
        secrets=secrets,
    )


def reply(outcome, **fields):
    return ChatReply(outcome=outcome, **{"detail": f"it was {outcome.value}", **fields})


def free(outcome, **fields):
    return reply(outcome, may_cost=False, **fields)


@pytest.fixture
def journal(tmp_path):
    with Journal(tmp_path) as opened:
        yield opened


# -- the journal ---------------------------------------------------------------------------------------------------


def test_the_intent_is_on_disk_before_the_model_is_asked(journal):
    def look(request):
        (entry,) = read_journal(journal.folder)
        assert (entry.kind, entry.key) == ("call_started", "1/1/1/1")
        assert entry.data["digest"] == digest_of([[message.role, message.content] for message in PROMPT])
        assert request.key == "1/1/1"
        return "yes"

    assert line_to([look], journal).ask(PROMPT, schema=SCHEMA, key="1/1/1").text == "yes"
    assert [entry.kind for entry in read_journal(journal.folder)] == ["call_started", "call_finished"]


def test_every_entry_fits_the_schema_of_the_journal(journal):
    validator = Draft202012Validator(json.loads(resource("schemas", "journal.schema.json").read_text()))
    answers = [reply(Outcome.SERVER_ERROR), "yes", free(Outcome.NO_KEY), reply(Outcome.ANSWERED, text="x", usage=DEAR)]
    line = line_to(answers, journal)
    for number in range(3):
        line.ask(PROMPT, schema=SCHEMA, key=f"1/{number}/1")
    dear = line_to([reply(Outcome.EMPTY, seconds=1.5)] * 4, journal, price=PRICE)
    dear.ask(PROMPT[:1], schema=SCHEMA, key="1/4/1")
    entries = [json.loads(entry.line()) for entry in journal]
    assert [error.message for entry in entries for error in validator.iter_errors(entry)] == []
    assert len(entries) == 2 * 8
    del entries[0]["data"]["prompt"]["shared"]
    assert [error.message for error in validator.iter_errors(entries[0])] == ["'shared' is a required property"]


def test_secrets_in_a_reply_reach_neither_the_journal_nor_the_caller(journal):
    said = reply(Outcome.REFUSED, text="the key is hunter2hunter2", detail="and hunter2hunter2", model="hunter2hunter2")
    got = line_to([said], journal, secrets={"hunter2hunter2"}).ask(PROMPT, schema=SCHEMA, key="k")
    assert "hunter2" not in repr(got)
    assert "[redacted]" in got.text
    assert b"hunter2" not in (journal.folder / "journal.jsonl").read_bytes()


def test_secrets_of_the_environment_are_known_without_being_told(journal, monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "correct-horse-battery")
    chat = ScriptedChat(["I saw correct-horse-battery"])
    line = Line(chat, journal=journal, settings=SETTINGS, budget=Budget(), price=None)
    assert "correct-horse" not in line.ask(PROMPT, schema=SCHEMA, key="k").text


def test_text_that_is_no_unicode_is_journaled_all_the_same(journal):
    odd = (ChatMessage(role="user", content="file \udcff"),)
    assert line_to(["\ud800 yes"], journal).ask(odd, schema=SCHEMA, key="k").text == "? yes"
    assert prompt_of(read_journal(journal.folder), "k/1")[0].content == "file ?"


def test_the_key_of_an_unremarkable_variable_is_a_secret_too(journal, monkeypatch):
    monkeypatch.setenv("MYLLM", "correct-horse-battery")
    given = ScientistSettings(model="m", base_url="http://x/v1", api_key_env="MYLLM")
    chat = ScriptedChat(["I saw correct-horse-battery"])
    line = Line(chat, journal=journal, settings=given, budget=Budget(), price=None)
    assert line.ask(PROMPT, schema=SCHEMA, key="k").text == "I saw [redacted]"


def test_a_secret_that_is_a_word_of_the_schema_does_not_garble_a_reply(journal):
    schema = {"type": "object", "properties": {"path": {"enum": ["/task/model/init_args/lr"]}}}
    said = reply(
        Outcome.ANSWERED, text='{"path": "/task/model/init_args/lr", "key": "hunter2hunter2"}', detail="init_args"
    )
    got = line_to([said], journal, secrets={"init_args", "hunter2hunter2"}).ask(PROMPT, schema=schema, key="k")
    assert got.text == '{"path": "/task/model/init_args/lr", "key": "[redacted]"}'
    assert got.detail == "[redacted]"


# -- trying again --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", sorted(TRY_AGAIN))
def test_a_passing_fault_is_tried_again(journal, outcome):
    assert line_to([free(outcome), "yes"], journal).ask(PROMPT, schema=SCHEMA, key="k").text == "yes"
    assert [entry.key for entry in journal] == ["k/1", "k/1", "k/2", "k/2"]


@pytest.mark.parametrize("outcome", sorted(set(Outcome) - TRY_AGAIN - {Outcome.ANSWERED}))
def test_other_outcomes_end_the_call(journal, outcome):
    chat = ScriptedChat([free(outcome), "yes"])
    assert line_to(chat, journal).ask(PROMPT, schema=SCHEMA, key="k") == free(outcome)
    assert len(chat.requests) == 1


def test_no_permanent_outcome_is_tried_again():
    assert not PERMANENT & TRY_AGAIN


def test_four_tries_at_most_with_doubled_waits(journal):
    time, chat = Time(), ScriptedChat([free(Outcome.SERVER_ERROR)] * 9)
    got = line_to(chat, journal, time=time).ask(PROMPT, schema=SCHEMA, key="k")
    assert got.detail == "it was server_error; 4 tries were made"
    assert len(chat.requests) == MOST_TRIES == 4
    waits = [entry.data["again_seconds"] for entry in journal if entry.kind == "call_finished"]
    assert waits[3] is None
    assert all(longest / 2 <= wait <= longest for wait, longest in zip(waits, (1, 2, 4), strict=False))
    assert time.now == pytest.approx(sum(waits[:3]))


def test_the_waits_differ_between_calls_but_not_between_runs(tmp_path):
    def waits(folder, key):
        with Journal(tmp_path / folder) as journal:
            line_to([free(Outcome.SERVER_ERROR)] * 4, journal).ask(PROMPT, schema=SCHEMA, key=key)
            return [entry.data["again_seconds"] for entry in journal if entry.kind == "call_finished"]

    assert waits("a", "1/1/1") == waits("b", "1/1/1") != waits("c", "1/2/1")


def test_a_truncated_reply_is_tried_again_once(journal):
    chat = ScriptedChat([free(Outcome.TRUNCATED)] * 4)
    got = line_to(chat, journal).ask(PROMPT, schema=SCHEMA, key="k")
    assert got.detail == "it was truncated; raise scientist.max_tokens, now 1000; 2 tries were made"
    assert len(chat.requests) == 2


def test_retry_after_is_honoured(journal):
    time = Time()
    line_to([free(Outcome.RATE_LIMITED, retry_after_seconds=17.0), "yes"], journal, time=time).ask(
        PROMPT, schema=SCHEMA, key="k"
    )
    assert time.now == pytest.approx(17.0)


def test_a_retry_after_beyond_the_deadline_ends_the_call_at_once_and_says_when(journal):
    time, chat = Time(), ScriptedChat([free(Outcome.RATE_LIMITED, retry_after_seconds=300.0), "yes"])
    got = line_to(chat, journal, time=time).ask(PROMPT, schema=SCHEMA, key="k")
    assert got.detail == "it was rate_limited; it can be asked again in 300 s"
    assert (len(chat.requests), time.now) == (1, 0.0)


def test_every_try_gets_what_is_left_of_the_whole_time(journal):
    time = Time()

    def slow(request):
        time.now += 60
        return free(Outcome.DISCONNECTED)

    chat = ScriptedChat([slow, slow, slow])
    line_to(chat, journal, time=time).ask(PROMPT, schema=SCHEMA, key="k")
    first, second = (request.timeout_seconds for request in chat.requests)
    assert first == 120.0
    assert 59.0 <= second <= 59.5
    assert time.now <= 121.0


def test_a_call_that_took_all_the_time_is_not_tried_again(journal):
    time = Time()

    def hang(request):
        time.now += request.timeout_seconds
        return free(Outcome.TIMED_OUT)

    chat = ScriptedChat([hang, "yes"])
    assert line_to(chat, journal, time=time).ask(PROMPT, schema=SCHEMA, key="k").outcome is Outcome.TIMED_OUT
    assert len(chat.requests) == 1


def test_a_mailbox_gets_one_try_with_the_whole_time_and_costs_nothing(journal):
    chat = ScriptedChat([free(Outcome.DISCONNECTED), "yes"])
    line = line_to(chat, journal, given=ScientistSettings(mailbox="m"), budget=Budget(tokens=1, usd=0.0), price=FREE)
    assert line.ask(PROMPT, schema=SCHEMA, key="k").outcome is Outcome.DISCONNECTED
    assert [request.timeout_seconds for request in chat.requests] == [3600.0]
    assert line.spent == Spending(tokens=0, usd=0.0, calls=1)


def test_a_call_waits_no_longer_than_the_study_has_time(journal):
    time, left = Time(), [50.0]

    def asked(chat, key):
        line = Line(
            chat,
            journal=journal,
            settings=SETTINGS,
            budget=Budget(),
            price=None,
            sleep=time.sleep,
            clock=time.clock,
            secrets=(),
            seconds_left=lambda: left[0],
        )
        return line.ask(PROMPT, schema=SCHEMA, key=key)

    chat = ScriptedChat([free(Outcome.RATE_LIMITED, retry_after_seconds=20.0), "yes", "never"])
    assert asked(chat, "k").text == "yes"
    assert [round(request.timeout_seconds) for request in chat.requests] == [50, 30]
    left[0] = 0.0
    entries = len(journal.entries)
    got = asked(chat, "other")
    assert (got.outcome, got.detail, got.may_cost) == (Outcome.TIMED_OUT, "the study's time is over", False)
    assert asked(chat, "k").text == "yes", "what stands in the journal takes no time"
    assert (len(chat.requests), len(journal.entries)) == (2, entries)


# -- stopping and going on -----------------------------------------------------------------------------------------


def test_a_stop_while_waiting_ends_the_wait_within_a_fifth_of_a_second(journal):
    time, chat = Time(), ScriptedChat([free(Outcome.RATE_LIMITED, retry_after_seconds=60.0), "yes"])
    line = line_to(chat, journal, time=time, stop=lambda: time.now >= 10)
    got = line.ask(PROMPT, schema=SCHEMA, key="k")
    assert (got.outcome, got.detail) == (Outcome.TIMED_OUT, "the study was asked to stop")
    assert time.now <= 10.2
    assert max(time.sleeps) <= 0.2
    assert line_to(chat, journal).ask(PROMPT, schema=SCHEMA, key="k").text == "yes"
    assert journal.entries[-1].key == "k/2"


def test_a_stop_before_the_call_sends_and_journals_nothing(journal):
    chat = ScriptedChat(["yes"])
    assert not line_to(chat, journal, stop=lambda: True).ask(PROMPT, schema=SCHEMA, key="k").answered
    assert (chat.requests, journal.entries) == ([], [])


@pytest.mark.parametrize(("may_cost", "charged"), [(True, RESERVE), (False, 0)])
def test_an_interrupted_try_is_charged_what_it_may_have_cost_and_made_again(journal, may_cost, charged):
    pressed = []

    def interrupt(request):
        pressed.append(True)
        return reply(Outcome.TIMED_OUT, may_cost=may_cost)

    stopped = line_to([interrupt], journal, stop=lambda: bool(pressed))
    assert stopped.ask(PROMPT, schema=SCHEMA, key="k").outcome is Outcome.TIMED_OUT
    assert journal.entries[-1].data["stopped"] is True
    assert stopped.spent.tokens == charged
    chat = ScriptedChat([reply(Outcome.ANSWERED, text="yes", usage=DEAR)])
    again = line_to(chat, journal)
    assert again.ask(PROMPT, schema=SCHEMA, key="k").text == "yes"
    assert again.spent.tokens == charged + 150


def test_interrupted_tries_do_not_count_among_the_four(journal):
    pressed = []

    def interrupt(request):
        pressed.append(True)
        return free(Outcome.TIMED_OUT)

    for _ in range(5):
        pressed.clear()
        line_to([interrupt], journal, stop=lambda: bool(pressed)).ask(PROMPT, schema=SCHEMA, key="k")
    chat = ScriptedChat([free(Outcome.EMPTY)] * 9)
    line_to(chat, journal).ask(PROMPT, schema=SCHEMA, key="k")
    assert len(chat.requests) == 4


def test_an_answer_that_comes_with_the_stop_is_kept(journal):
    pressed = []

    def late(request):
        pressed.append(True)
        return "yes"

    assert line_to([late], journal, stop=lambda: bool(pressed)).ask(PROMPT, schema=SCHEMA, key="k").answered
    assert line_to([], journal).ask(PROMPT, schema=SCHEMA, key="k").text == "yes"


def test_a_call_with_an_outcome_is_answered_from_the_journal_at_no_cost(tmp_path):
    said = reply(
        Outcome.ANSWERED,
        text="yes",
        detail="",
        model="m-2026",
        usage=Usage(input_tokens=90, output_tokens=5, cached_tokens=80),
        rung="json_schema",
        seconds=2.5,
    )
    with Journal(tmp_path) as journal:
        first = line_to([said], journal, price=PRICE)
        assert first.ask(PROMPT, schema=SCHEMA, key="k") == said
    with Journal(tmp_path) as journal:
        chat = ScriptedChat([])
        again = line_to(chat, journal, price=PRICE)
        assert again.ask(PROMPT, schema=SCHEMA, key="k") == said
        assert (chat.requests, again.spent, len(journal.entries)) == ([], first.spent, 2)


def test_a_failure_is_answered_from_the_journal_too(journal):
    got = line_to([free(Outcome.SERVER_ERROR)] * 4, journal).ask(PROMPT, schema=SCHEMA, key="k")
    assert line_to(["too late"], journal).ask(PROMPT, schema=SCHEMA, key="k") == got


def test_a_call_that_was_killed_between_two_tries_goes_on_with_the_next(tmp_path):
    def die(request):
        raise KeyboardInterrupt

    with Journal(tmp_path) as journal, pytest.raises(KeyboardInterrupt):
        line_to([free(Outcome.EMPTY), free(Outcome.EMPTY), die], journal).ask(PROMPT, schema=SCHEMA, key="k")
    with Journal(tmp_path) as journal:
        chat = ScriptedChat([free(Outcome.EMPTY)] * 9)
        got = line_to(chat, journal).ask(PROMPT, schema=SCHEMA, key="k")
        assert len(chat.requests) == 2
        assert got.detail == "it was empty; 4 tries were made"
        assert [entry.key for entry in journal if entry.kind == "call_finished"] == ["k/1", "k/2", "k/4", "k/5"]


def test_a_call_killed_in_between_is_charged_its_worst_case(tmp_path):
    def die(request):
        raise KeyboardInterrupt

    with Journal(tmp_path) as journal, pytest.raises(KeyboardInterrupt):
        line_to([die], journal, price=PRICE).ask(PROMPT, schema=SCHEMA, key="k")
    usd = ((RESERVE - 1000) * 2.0 + 1000 * 10.0) / 1e6
    assert spending(read_journal(tmp_path)) == Spending(tokens=RESERVE, usd=usd, calls=1)
    with Journal(tmp_path) as journal:
        assert line_to([], journal, price=PRICE).spent == Spending(tokens=RESERVE, usd=usd, calls=1)


def test_another_prompt_under_the_same_key_is_asked_anew(journal):
    line_to(["one"], journal).ask(PROMPT, schema=SCHEMA, key="k")
    assert line_to(["two"], journal).ask(PROMPT[:1], schema=SCHEMA, key="k").text == "two"
    assert line_to([], journal).ask(PROMPT, schema=SCHEMA, key="k").text == "one"


# -- the budget ----------------------------------------------------------------------------------------------------


def test_usage_is_charged_and_cached_tokens_at_their_own_price(journal):
    said = reply(Outcome.ANSWERED, usage=Usage(input_tokens=1000, output_tokens=100, cached_tokens=600))
    price = replace(PRICE, cached_usd_per_million_tokens=0.5)
    line = line_to([said], journal, price=price)
    line.ask(PROMPT, schema=SCHEMA, key="k")
    assert line.spent == Spending(tokens=1100, usd=pytest.approx((400 * 2 + 600 * 0.5 + 100 * 10) / 1e6), calls=1)
    assert spending(journal) == line.spent


def test_a_failed_try_with_usage_is_charged_its_usage(journal):
    line = line_to([reply(Outcome.REFUSED, usage=DEAR, may_cost=False)], journal)
    line.ask(PROMPT, schema=SCHEMA, key="k")
    assert line.spent.tokens == 150


@pytest.mark.parametrize(("may_cost", "charged"), [(True, RESERVE), (False, 0)])
def test_missing_usage_is_charged_as_the_worst_case_where_it_may_cost(journal, may_cost, charged):
    line = line_to([reply(Outcome.REFUSED, may_cost=may_cost)], journal, price=PRICE)
    line.ask(PROMPT, schema=SCHEMA, key="k")
    assert line.spent.tokens == charged
    assert (line.spent.usd > 0) is may_cost


def test_a_call_that_could_pass_the_cap_in_tokens_is_not_made(journal):
    chat = ScriptedChat(["yes"])
    got = line_to(chat, journal, budget=Budget(tokens=RESERVE - 1)).ask(PROMPT, schema=SCHEMA, key="k")
    assert got.outcome is Outcome.OVER_BUDGET
    assert got.detail == (
        f"the budget of {RESERVE - 1} tokens does not cover another call: 0 are spent, and this one can take up to "
        f"{RESERVE} ({RESERVE - 1000} to read, 1000 to write); raise budget.tokens or lower scientist.max_tokens"
    )
    assert (got.may_cost, chat.requests, journal.entries) == (False, [], [])
    assert line_to(chat, journal, budget=Budget(tokens=RESERVE)).ask(PROMPT, schema=SCHEMA, key="k").answered


def test_a_call_that_could_pass_the_cap_in_dollars_is_not_made(journal):
    chat = ScriptedChat(["yes"])
    got = line_to(chat, journal, budget=Budget(usd=0.01), price=PRICE).ask(PROMPT, schema=SCHEMA, key="k")
    assert got.outcome is Outcome.OVER_BUDGET
    assert got.detail == (
        "the budget of 0.01 US dollars does not cover another call: 0.0000 are spent, and this one can cost up to "
        "0.0102; raise budget.usd or lower scientist.max_tokens"
    )
    assert line_to(chat, journal, budget=Budget(usd=0.011), price=PRICE).ask(PROMPT, schema=SCHEMA, key="k").answered


def test_a_cap_in_dollars_without_a_price_refuses_every_call(journal):
    got = line_to(["yes"], journal, budget=Budget(usd=100.0)).ask(PROMPT, schema=SCHEMA, key="k")
    assert got.outcome is Outcome.OVER_BUDGET
    assert "the price of scripted is not known; write it as scientist.price" in got.detail


def test_the_budget_is_looked_at_again_before_every_further_try(journal):
    chat = ScriptedChat([reply(Outcome.SERVER_ERROR), "yes"])
    got = line_to(chat, journal, budget=Budget(tokens=2 * RESERVE - 1)).ask(PROMPT, schema=SCHEMA, key="k")
    assert got.outcome is Outcome.OVER_BUDGET
    assert f"{RESERVE} are spent" in got.detail
    assert got.detail.endswith("; before that: it was server_error")
    assert len(chat.requests) == 1


def test_a_server_that_counts_more_than_was_asked_for_is_charged_that_and_not_asked_again(journal):
    said = reply(Outcome.ANSWERED, usage=Usage(input_tokens=5000, output_tokens=5000))
    line = line_to([said, "yes"], journal, budget=Budget(tokens=9000))
    assert line.ask(PROMPT, schema=SCHEMA, key="a").answered
    assert line.spent.tokens == 10000
    assert line.ask(PROMPT, schema=SCHEMA, key="b").outcome is Outcome.OVER_BUDGET


def test_cost_is_unknown_where_tokens_were_charged_without_a_price(journal):
    line = line_to([free(Outcome.REFUSED), reply(Outcome.ANSWERED, usage=DEAR)], journal)
    line.ask(PROMPT, schema=SCHEMA, key="a")
    assert line.spent == Spending(tokens=0, usd=0.0, calls=1)
    line.ask(PROMPT, schema=SCHEMA, key="b")
    assert line.spent == Spending(tokens=150, usd=None, calls=2)
    assert spending(()) == Spending(tokens=0, usd=0.0, calls=0)


dollars = st.floats(0.0, 100.0)
tries = st.tuples(
    st.sampled_from(sorted(Outcome)),
    st.one_of(st.none(), st.tuples(*[st.floats(0.0, 1.0)] * 3)),
    st.booleans(),
    st.booleans(),
)


@settings(max_examples=150, deadline=None)
@given(
    prices=st.tuples(dollars, dollars, st.one_of(st.none(), dollars)),
    tokens=st.integers(0, 20_000),
    usd=st.floats(0.0, 0.2),
    plan=st.lists(tries, max_size=25),
    texts=st.lists(st.text(max_size=200), min_size=1, max_size=4),
    reopened=st.booleans(),
)
@example((0.0, 0.0, 100.0), 20_000, 0.1, [(Outcome.ANSWERED, (1, 0, 1), True, False)] * 25, ["x" * 3000], True)
@example((1.0, 0.0, None), 5_000, 0.1, [(Outcome.ANSWERED, None, True, True)] * 9, ["x"], False)
def test_the_budget_is_never_exceeded(tmp_path_factory, prices, tokens, usd, plan, texts, reopened):
    """Whatever the replies, as long as no server counts more than the most that a call can take."""
    price = Price(
        input_usd_per_million_tokens=prices[0],
        output_usd_per_million_tokens=prices[1],
        cached_usd_per_million_tokens=prices[2],
    )
    with Journal(tmp_path_factory.mktemp("study")) as journal:

        def act(step):
            outcome, parts, may_cost, dies = step

            def answer(request):
                if dies:
                    raise KeyboardInterrupt
                to_read = journal.entries[-1].data["reserved_tokens"] - request.max_tokens
                read, written = (int(parts[0] * to_read), int(parts[1] * request.max_tokens)) if parts else (0, 0)
                usage = (
                    Usage(input_tokens=read, output_tokens=written, cached_tokens=int(read * parts[2]))
                    if parts
                    else None
                )
                return reply(outcome, usage=usage, may_cost=may_cost)

            return answer

        chat = ScriptedChat([act(step) for step in plan])
        line = line_to(chat, journal, budget=Budget(tokens=tokens, usd=usd), price=price)
        for number in range(len(plan)):
            if reopened:
                line = line_to(chat, journal, budget=Budget(tokens=tokens, usd=usd), price=price)
            prompt = (ChatMessage(role="user", content=texts[number % len(texts)]),)
            try:
                line.ask(prompt, schema=SCHEMA, key=f"1/{number}/1")
            except KeyboardInterrupt:
                continue
            assert line.spent == spending(journal)
        spent = spending(journal)
        assert spent.tokens <= tokens
        assert spent.usd <= usd * (1 + 1e-12)


@pytest.mark.parametrize(
    ("text", "counted"),
    [
        ("h17 model.init_args.lr 0.00312 -> 0.00624 gain +0.004213 +- 0.001877 kept", 49),
        ("Lower the learning rate: the loss rose after warm-up.", 13),
        ('{"op": "set", "path": "/task/model/init_args/lr", "old_json": "0.003", "value_json": "0.0015"}', 45),
        ("学习率提高之后验证损失下降", 30),
        ("3f2a9c0be17d4455", 16),
        ("die Größe wurde verändert", 12),
    ],
)
def test_the_bound_on_tokens_holds_against_counts_of_real_vocabularies(text, counted):
    """`counted` is the largest of a Llama vocabulary's, Tekken's and GPT-2's."""
    assert counted <= most_tokens(text) <= 2.2 * counted


# -- prompts in the journal ----------------------------------------------------------------------------------------

messages = st.lists(
    st.builds(ChatMessage, role=st.sampled_from(["system", "user", "assistant"]), content=st.text("ab\n", max_size=6)),
    max_size=5,
)


@settings(max_examples=60, deadline=None)
@given(prompts=st.lists(messages, min_size=1, max_size=6), reopened=st.booleans())
def test_every_prompt_can_be_rebuilt(tmp_path_factory, prompts, reopened):
    with Journal(tmp_path_factory.mktemp("study")) as journal:
        line = line_to(["yes"] * len(prompts), journal)
        for number, prompt in enumerate(prompts):
            if reopened:
                line = line_to(["yes"], journal)
            line.ask(prompt, schema=SCHEMA, key=f"k{number}")
        wanted = {f"k{number}/1": tuple(prompt) for number, prompt in enumerate(prompts)}
        assert prompts_of(journal) == wanted
        assert {key: prompt_of(journal, key) for key in wanted} == wanted


def test_the_journal_grows_with_what_is_new_in_a_prompt(journal):
    head, tail = "x" * 20_000, ["open: h1", "open: h2"]
    line = line_to(["yes"] * 40, journal)
    for number in range(40):
        head += f"\nh{number} kept"
        prompt = (PROMPT[0], ChatMessage(role="user", content=f"{head}\n{tail[number % 2]}"))
        line.ask(prompt, schema=SCHEMA, key=f"1/{number}/1")
    written = [len(entry.line()) for entry in journal if entry.kind == "call_started"]
    assert written[0] > 20_000
    assert max(written[1:]) < 450
    assert prompt_of(journal, "1/39/1/1") == prompt


def test_a_message_that_grows_at_its_end_stays_one_message(journal):
    line = line_to(["yes"] * 3, journal)
    for number, text in enumerate(("what now?", "what now? And then?", "what")):
        line.ask((PROMPT[0], ChatMessage(role="user", content=text)), schema=SCHEMA, key=f"k{number}")
    assert [[message.content for message in prompt] for prompt in prompts_of(journal).values()] == [
        ["rules", "what now?"],
        ["rules", "what now? And then?"],
        ["rules", "what"],
    ]
    assert journal.find("call_started", "k1/1").data["prompt"] == {
        "after": "k0/1",
        "shared": len("rules") + len("what now"),
        "messages": [["user", "? And then?"]],
    }


def test_a_further_try_and_a_repair_repeat_nothing(journal):
    line = line_to([free(Outcome.EMPTY), "no", "yes"], journal)
    line.ask(PROMPT, schema=SCHEMA, key="1/1/1")
    talk = (*PROMPT, ChatMessage(role="assistant", content="no"), ChatMessage(role="user", content="mend it"))
    line.ask(talk, schema=SCHEMA, key="1/1/2")
    deltas = [entry.data["prompt"] for entry in journal if entry.kind == "call_started"]
    assert deltas[1:] == [
        {"after": "1/1/1/1", "shared": 14, "messages": []},
        {"after": "1/1/1/2", "shared": 14, "messages": [["assistant", "no"], ["user", "mend it"]]},
    ]
    assert prompt_of(journal, "1/1/2/1") == talk


def test_the_prompt_of_an_unknown_call_is_a_key_error():
    with pytest.raises(KeyError, match="9/9/9/1"):
        prompt_of((), "9/9/9/1")


# -- prices --------------------------------------------------------------------------------------------------------


def test_the_price_in_the_spec_counts_before_any_table():
    assert price_of(ScientistSettings(model="gpt-5", price=PRICE)) == PRICE
    assert price_of(ScientistSettings(model="x", base_url="http://localhost:8000/v1", price=PRICE)) == PRICE


def test_the_table_knows_models_of_openai_without_the_network(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    price = price_of(ScientistSettings(model="gpt-5"))
    assert 0 < price.cached_usd_per_million_tokens < price.input_usd_per_million_tokens
    assert price.input_usd_per_million_tokens < price.output_usd_per_million_tokens < 1000


def test_long_prompts_are_priced_as_what_they_cost():
    short = price_of(ScientistSettings(model="gpt-5.5"))
    long = price_of(ScientistSettings(model="gpt-5.5", prompt_characters=1_000_000))
    assert long.input_usd_per_million_tokens >= short.input_usd_per_million_tokens


def test_the_price_of_an_unknown_model_or_another_address_is_unknown():
    assert price_of(ScientistSettings(model="no-such-model")) is None
    assert price_of(ScientistSettings(model="gpt-5", base_url="http://localhost:8000/v1")) is None
    assert price_of(ScientistSettings()) is None


def test_a_model_with_a_fee_per_request_has_no_price_per_token(monkeypatch):
    import genai_prices

    real = genai_prices.calc_price

    def with_fee(*args, **kwargs):
        price = real(*args, **kwargs)
        return replace(price, total_price=price.total_price + 1)

    monkeypatch.setattr(genai_prices, "calc_price", with_fee)
    assert price_of(ScientistSettings(model="gpt-5")) is None


def test_without_the_table_the_price_is_unknown(monkeypatch):
    monkeypatch.setitem(sys.modules, "genai_prices", None)
    assert price_of(ScientistSettings(model="gpt-5")) is None


def test_a_mailbox_is_free():
    assert price_of(ScientistSettings(mailbox="m")) == FREE


def test_spending_ignores_what_is_no_call():
    assert spending([Entry(n=1, time=0.0, kind="phase", key="", data={})]) == Spending(tokens=0, usd=0.0, calls=0)


@pytest.mark.parametrize("count", [10**10, 10**308, 10**400])
def test_a_mad_count_of_tokens_is_charged_as_the_worst_case_and_the_study_goes_on(tmp_path, count):
    said = [reply(Outcome.ANSWERED, text="x", usage=Usage(input_tokens=count, output_tokens=1)), "y"]
    with Journal(tmp_path) as journal:
        line = line_to(said, journal, price=PRICE)
        assert line.ask(PROMPT, schema=SCHEMA, key="1").text == "x"
        assert line.spent == Spending(tokens=RESERVE, usd=pytest.approx(((RESERVE - 1000) * 2 + 10_000) / 1e6), calls=1)
        assert line.ask(PROMPT, schema=SCHEMA, key="2").text == "y"
    with Journal(tmp_path) as journal:
        assert line_to([], journal, price=PRICE).ask(PROMPT, schema=SCHEMA, key="1").text == "x"


def test_a_price_beyond_all_numbers_is_no_price(journal):
    dear = Price(input_usd_per_million_tokens=1e308, output_usd_per_million_tokens=1e308)
    line = line_to(["x"], journal, price=dear)
    assert line.ask(PROMPT, schema=SCHEMA, key="1").answered
    assert line.spent.usd is None
