from __future__ import annotations

from dataclasses import replace

import pytest

from lightning_autoresearch.asking import Line
from lightning_autoresearch.chat import ChatMessage, ChatReply, ChatRequest, Outcome, ScriptedChat
from lightning_autoresearch.errors import ResearchError
from lightning_autoresearch.fold import Fold
from lightning_autoresearch.journal import Journal, read_journal
from lightning_autoresearch.replay import ReplayChat, UnseenPrompt, prompts_of
from lightning_autoresearch.spec import Budget, Price, ScientistSettings, parse_spec
from lightning_autoresearch.study import Study
from tests.scientists import WITH_SCIENTIST, Expert
from tests.worlds import SPEC, World, quicken

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


def ask(chat, text, *, key="1/1/1"):
    request = ChatRequest(key=key, messages=prompt(text), schema={}, max_tokens=100, timeout_seconds=1.0)
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


def test_tries_of_a_call_are_answered_in_order_and_the_last_answer_stays(tmp_path):
    with Journal(tmp_path) as journal:
        asked = line(ScriptedChat([BUSY, "second", "other"]), journal)
        for key in ("1/1/1", "1/2/1"):
            asked.ask(prompt("a"), schema={}, key=key)
    chat = ReplayChat(read_journal(tmp_path))
    assert [ask(chat, "a").text for _ in range(3)] == ["", "second", "second"]
    assert ask(chat, "a", key="1/2/1").text == "other"


def test_an_unseen_prompt_fails_loudly_and_names_the_call_and_what_differs(tmp_path):
    with Journal(tmp_path) as journal:
        line(ScriptedChat(["first"]), journal).ask(prompt("a\nb\nc"), schema={}, key="1/1/1")
    chat = ReplayChat(read_journal(tmp_path))
    with pytest.raises(UnseenPrompt, match=r"call 9/1/1: .* has no answer to it; the spec"):
        ask(chat, "a\nb\nc", key="9/1/1")
    with pytest.raises(UnseenPrompt, match=r"call 1/1/1: .* line 2 of message 2 was 'b', is 'x'; the spec"):
        ask(chat, "a\nx\nc")
    with pytest.raises(UnseenPrompt, match=r"line 4 of message 2 was '\(its end\)', is ''"):
        ask(chat, "a\nb\nc\n")
    request = ChatRequest(key="1/1/1", messages=prompt("a\nb\nc")[:1], schema={}, max_tokens=9, timeout_seconds=1.0)
    with pytest.raises(UnseenPrompt, match="it has 1 messages, had 2"):
        chat.ask(request, stop=lambda: False)
    assert issubclass(UnseenPrompt, ResearchError)


def test_training_times_in_the_history_may_differ_and_nothing_else_in_its_lines(tmp_path):
    told = "h1 r1 you: lr 1->2 | +0.1 kept | said +0.2 p 0.50 in | {}\nh2 r1 you: lr 1->3 | +0.2 kept | {}\nend"
    with Journal(tmp_path) as journal:
        line(ScriptedChat(["first"]), journal).ask(prompt(told.format("12 s", "0.42 s")), schema={}, key="1/1/1")
    chat = ReplayChat(read_journal(tmp_path))
    for times in (("12 s", "0.42 s"), ("3e+02 s", "4..."), ("9.9 s...", "0.5 ...")):
        assert ask(chat, told.format(*times)).text == "first"
    with pytest.raises(UnseenPrompt, match=r"line 1 of message 2 was 'h1 r1 you: lr 1->2 \| \+0.1 kept"):
        ask(chat, told.replace("+0.1", "+0.3").format("12 s", "0.42 s"))


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


def test_a_study_whose_trainings_take_another_time_is_replayed(tmp_path, monkeypatch):
    quicken(monkeypatch)

    class Machine(World):
        seconds = 0.42

        def result(self, job):
            return replace(super().result(job), train_seconds=self.seconds)

    def run(folder, chat, seconds):
        world = Machine()
        world.seconds = seconds
        spec = parse_spec(SPEC + WITH_SCIENTIST, path="world.yaml", overrides=["budget.trials=60"])
        study = Study(spec, folder=tmp_path / folder, executor=world, chat=chat)
        if isinstance(chat, Expert):
            study.listen(chat.listening_to(Fold(folder=tmp_path / folder)))
        return [row.hypothesis.overrides for row in study.run().hypotheses]

    then = run("then", Expert(), 0.42)
    assert run("now", ReplayChat(read_journal(tmp_path / "then")), 37.0) == then
    told = [str(prompts_of(read_journal(tmp_path / name))) for name in ("then", "now")]
    assert [seconds in text for text in told for seconds in (" | 0.42 s", " | 37 s")] == [True, False, False, True]
