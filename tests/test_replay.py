from __future__ import annotations

import pytest

from lightning_autoresearch.asking import Line
from lightning_autoresearch.chat import ChatMessage, ChatReply, ChatRequest, Outcome, ScriptedChat
from lightning_autoresearch.errors import ResearchError
from lightning_autoresearch.journal import Journal, read_journal
from lightning_autoresearch.replay import ReplayChat, UnseenPrompt
from lightning_autoresearch.spec import Budget, Price, ScientistSettings

SETTINGS = ScientistSettings(model="m", max_tokens=100)
PRICE = Price(input_usd_per_million_tokens=1.0, output_usd_per_million_tokens=10.0)
BUSY = ChatReply(outcome=Outcome.RATE_LIMITED, detail="busy", may_cost=False, retry_after_seconds=2.0)


def prompt(text):
    return (ChatMessage(role="system", content="rules"), ChatMessage(role="user", content=text))


def line(chat, journal, *, stop=lambda: False):
    return Line(
        chat,
        journal=journal,
        settings=SETTINGS,
        budget=Budget(),
        price=PRICE,
        stop=stop,
        sleep=lambda seconds: None,
        secrets=(),
    )


def ask(chat, text):
    request = ChatRequest(key="9/1/1", messages=prompt(text), schema={}, max_tokens=100, timeout_seconds=1.0)
    return chat.ask(request, stop=lambda: False)


def calls(folder):
    return [
        (entry.kind, entry.key, dict(entry.data))
        for entry in read_journal(folder)
        if entry.kind in ("call_started", "call_finished")
    ]


def test_a_replayed_study_journals_the_same_calls_at_the_same_charge(tmp_path):
    chat = ScriptedChat([BUSY, "first", "second", BUSY, BUSY, BUSY, BUSY], name="gpt-x")
    with Journal(tmp_path / "then") as journal:
        asked = line(chat, journal)
        replies = [asked.ask(prompt(text), schema={}, key=f"1/{n}/1") for n, text in enumerate("abc")]
    with Journal(tmp_path / "now") as journal:
        again = line(ReplayChat(read_journal(tmp_path / "then")), journal)
        assert [again.ask(prompt(text), schema={}, key=f"1/{n}/1") for n, text in enumerate("abc")] == replies
        assert again.spent == asked.spent
    assert [reply.outcome.value for reply in replies] == ["answered", "answered", "rate_limited"]
    assert calls(tmp_path / "now") == calls(tmp_path / "then")


def test_equal_prompts_are_answered_in_order_and_the_last_answer_stays(tmp_path):
    with Journal(tmp_path) as journal:
        asked = line(ScriptedChat(["first", "second"]), journal)
        for key in ("1/1/1", "1/2/1"):
            asked.ask(prompt("a"), schema={}, key=key)
    chat = ReplayChat(read_journal(tmp_path))
    assert [ask(chat, "a").text for _ in range(3)] == ["first", "second", "second"]


def test_an_unseen_prompt_fails_loudly_and_names_the_call(tmp_path):
    with Journal(tmp_path) as journal:
        line(ScriptedChat(["first"]), journal).ask(prompt("a"), schema={}, key="1/1/1")
    with pytest.raises(
        UnseenPrompt, match=r"call 9/1/1: .* no answer to this prompt \(SHA-256 [0-9a-f]{64}\); the spec"
    ):
        ask(ReplayChat(read_journal(tmp_path)), "b")
    assert issubclass(UnseenPrompt, ResearchError)


def test_interrupted_and_killed_tries_are_left_out(tmp_path):
    cut = ChatReply(outcome=Outcome.TIMED_OUT, detail="stopped")
    pressed = []

    def interrupt(request):
        pressed.append(True)
        return cut

    def die(request):
        raise KeyboardInterrupt

    with Journal(tmp_path) as journal:
        line(ScriptedChat([interrupt]), journal, stop=lambda: bool(pressed)).ask(prompt("a"), schema={}, key="1/1/1")
        with pytest.raises(KeyboardInterrupt):
            line(ScriptedChat([die]), journal).ask(prompt("a"), schema={}, key="1/1/1")
        line(ScriptedChat(["answer"]), journal).ask(prompt("a"), schema={}, key="1/1/1")
        assert journal.find("call_started", "1/1/1/3")
    assert ask(ReplayChat(read_journal(tmp_path)), "a").text == "answer"


def test_it_goes_under_the_name_of_the_model_that_answered(tmp_path):
    with Journal(tmp_path) as journal:
        line(ScriptedChat(["x"], name="gpt-x"), journal).ask(prompt("a"), schema={}, key="1/1/1")
    assert ReplayChat(read_journal(tmp_path)).name == "gpt-x"
    assert ReplayChat(()).name == "replay"
