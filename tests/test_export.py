from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lightning_autoresearch import codec
from lightning_autoresearch.asking import Line
from lightning_autoresearch.chat import ChatMessage, ChatReply, Outcome, ScriptedChat, Usage
from lightning_autoresearch.cli import main
from lightning_autoresearch.decision import Decision, Verdict
from lightning_autoresearch.export import chat_lines, examples
from lightning_autoresearch.hypothesis import Hypothesis, Prediction, Proposal, Provenance
from lightning_autoresearch.journal import Journal, read_journal
from lightning_autoresearch.jsontext import clean
from lightning_autoresearch.spec import Budget, ScientistSettings

RULES = ChatMessage(role="system", content="You state hypotheses. " * 20)
SECRET_GUARD = 0.123456789


class Writer:
    """Writes the journal of a small study, proposal by proposal."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.asked = 0
        self.stated = 0
        journal.append("study_created", {"name": "gpt-source"})

    def ask(self, talk: tuple[ChatMessage, ...], reply: str | ChatReply, *, key: str) -> None:
        settings = ScientistSettings(model="expert", base_url="http://127.0.0.1:9/v1")
        chat = ScriptedChat([reply if isinstance(reply, ChatReply) else answered(reply)], name="expert")
        line = Line(chat, journal=self.journal, settings=settings, budget=Budget(), price=None, sleep=lambda _: None)
        line.ask(talk, schema={}, key=key)

    def propose(
        self, *hypotheses: Hypothesis, replies: tuple[str | ChatReply, ...] | None = None, round: int = 1
    ) -> list[str]:
        """One proposal with its calls: each reply but the last goes back with a message that names its faults."""
        self.asked += 1
        key = f"{round}/{self.asked}"
        self.journal.append("proposal_requested", {"round": round, "wanted": 2}, key=key)
        talk = (RULES, ChatMessage(role="user", content=f"Evidence of round {round}, call {self.asked}: \u00b5 <b>"))
        if replies is None:
            replies = (said(*(one for one in hypotheses if one.source == "expert")),)
        for number, reply in enumerate(replies, start=1):
            self.ask(talk, reply, key=f"{key}/{number}")
            if isinstance(reply, str):
                mend = ChatMessage(role="user", content=f"Fault {number}.")
                talk = (*talk, ChatMessage(role="assistant", content=reply), mend)
        numbered = []
        for one in hypotheses:
            self.stated += 1
            numbered.append(replace(one, id=f"h{self.stated}"))
        provenance = Provenance(
            model="expert-1", prompt_digest="", calls=1, tokens=1, usd=0.0, repairs=len(replies) - 1
        )
        proposal = Proposal(hypotheses=tuple(numbered), source="expert and sampler", provenance=provenance)
        self.journal.append("proposal_received", codec.to_json(proposal), key=key)
        for one in numbered:
            data = {"hypothesis": codec.to_json(one), "round": round, "before": {"lr": 0.1}}
            self.journal.append("hypothesis_stated", data, key=one.id)
        return [one.id for one in numbered]

    def screen(self, id: str, verdict: Verdict, *, gain: float | None = 0.1, status: str = "finished") -> None:
        decision = codec.to_json(Decision(stage="screen", verdict=verdict, sentence=f"{verdict.value} of {id}."))
        data = {"hypothesis": id, "gain": gain, "decision": decision, "status": status, "branch": {}}
        self.journal.append("screened", data, key=id)

    def gate(self, verdict: Verdict, *ids: str) -> None:
        decision = codec.to_json(Decision(stage="gate", verdict=verdict, sentence=f"Gate: {verdict.value}."))
        data = {"round": 1, "scale": "nano", "threshold": 85.0, "hypotheses": list(ids), "decision": decision}
        self.journal.append("gate_decided", {**data, "gains": []}, key=f"1/nano/{len(self.journal.entries)}")


def answered(text: str) -> ChatReply:
    usage = Usage(input_tokens=9, output_tokens=9)
    return ChatReply(outcome=Outcome.ANSWERED, text=text, model="expert-1", usage=usage)


def hypothesis(statement: str = "It helps.", *, source: str = "expert") -> Hypothesis:
    prediction = Prediction(gain=0.05, probability=0.7, low=0.0, high=0.1)
    return Hypothesis(
        id="h", statement=statement, mechanism="", source=source, overrides={"lr": 0.2}, prediction=prediction
    )


def said(*hypotheses: Hypothesis) -> str:
    return json.dumps({"analysis": "a", "hypotheses": [{"statement": one.statement} for one in hypotheses]})


@pytest.fixture
def writer(tmp_path: Path):
    with Journal(tmp_path) as journal:
        yield Writer(journal)


def exported(writer: Writer, **options: bool) -> list[dict[str, Any]]:
    return [json.loads(line) for line in chat_lines(read_journal(writer.journal.folder), **options)]


def test_a_line_holds_the_exchange_as_it_was_and_what_was_measured(writer):
    [one] = writer.propose(hypothesis("Raise the rate."))
    writer.screen(one, Verdict.KEEP, gain=0.08)
    [line] = exported(writer)
    assert line["messages"] == [
        {"role": "system", "content": RULES.content},
        {"role": "user", "content": "Evidence of round 1, call 1: \u00b5 <b>"},
        {"role": "assistant", "content": said(hypothesis("Raise the rate."))},
    ]
    predicted = {"gain": 0.05, "probability": 0.7, "low": 0.0, "high": 0.1}
    assert line["outcomes"] == [
        {"hypothesis": "h1", "label": "keep", "gain": 0.08, "predicted": predicted, "sentence": "KEEP of h1."}
    ]
    assert (line["study"], line["round"], line["model"]) == ("gpt-source", 1, "expert-1")


def test_each_prompt_is_whole_although_the_journal_holds_what_is_new(writer):
    for number in (1, 2, 3):
        [one] = writer.propose(hypothesis(), round=number)
        writer.screen(one, Verdict.DROP)
    contents = [line["messages"][1]["content"] for line in exported(writer)]
    assert contents == [f"Evidence of round {number}, call {number}: \u00b5 <b>" for number in (1, 2, 3)]
    assert all(line["messages"][0]["content"] == RULES.content for line in exported(writer))
    starts = [entry.data["prompt"] for entry in writer.journal if entry.kind == "call_started"]
    assert len(json.dumps(starts[2])) < len(RULES.content)


def test_a_mended_reply_stands_behind_the_faulty_one_and_its_faults(writer):
    [one] = writer.propose(hypothesis(), replies=("not JSON", said(hypothesis())))
    writer.screen(one, Verdict.DROP)
    [line] = exported(writer)
    assert [message["role"] for message in line["messages"]] == ["system", "user", "assistant", "user", "assistant"]
    assert [message["content"] for message in line["messages"][2:]] == ["not JSON", "Fault 1.", said(hypothesis())]


def test_where_a_repair_made_it_worse_the_reply_that_was_used_is_exported(writer):
    good = said(hypothesis("Good."), hypothesis("Other."))
    [one] = writer.propose(hypothesis("Good."), replies=(good, "sorry"))
    writer.screen(one, Verdict.KEEP)
    [line] = exported(writer)
    assert line["messages"][-1]["content"] == good
    assert len(line["messages"]) == 3


def test_a_reply_with_prose_around_its_json_is_recognised(writer):
    good = f"<think>lr</think> Here: ```json\n{said(hypothesis('Good.'))}\n```"
    [one] = writer.propose(hypothesis("Good."), replies=(good, "{}"))
    writer.screen(one, Verdict.KEEP)
    assert exported(writer)[0]["messages"][-1]["content"] == good


@pytest.mark.parametrize(
    ("verdict", "status", "label"),
    [
        (Verdict.KEEP, "finished", "keep"),
        (Verdict.DROP, "finished", "refuted"),
        (Verdict.DROP, "out_of_memory", "failed"),
        (Verdict.VOID, "lost", "void"),
        (Verdict.VOID, "finished", "void"),
    ],
)
def test_the_screens_verdict_is_the_label(writer, verdict, status, label):
    [one] = writer.propose(hypothesis())
    writer.screen(one, verdict, status=status, gain=None)
    [line] = exported(writer)
    assert [(outcome["label"], outcome["gain"]) for outcome in line["outcomes"]] == [(label, None)]


def test_the_gate_has_the_last_word(writer):
    ids = [writer.propose(hypothesis())[0] for _ in range(3)]
    for id in ids:
        writer.screen(id, Verdict.KEEP)
    writer.gate(Verdict.FAIL, ids[0])
    writer.gate(Verdict.PROMOTE, ids[1])
    writer.journal.append("spec_revised", {"hypotheses": [ids[1]]}, key="1")
    writer.gate(Verdict.VOID, ids[2])
    outcomes = [line["outcomes"][0] for line in exported(writer)]
    assert [outcome["label"] for outcome in outcomes] == ["refuted", "promoted", "keep"]
    assert outcomes[0]["sentence"] == "Gate: FAIL."


def test_a_promotion_that_failed_in_its_confirmation_is_refuted(writer):
    [one] = writer.propose(hypothesis())
    writer.screen(one, Verdict.KEEP)
    writer.journal.append("promotion_refused", {"hypotheses": [one], "why": "the branch failed"}, key="1")
    [line] = exported(writer)
    assert (line["outcomes"][0]["label"], line["outcomes"][0]["sentence"]) == ("refuted", "the branch failed")


def test_a_refused_hypothesis_is_labelled_with_why(writer):
    one = replace(hypothesis(), id="h1")
    writer.propose(hypothesis("Another."))
    data = {"hypothesis": codec.to_json(one), "why": "it changes nothing"}
    writer.journal.append("hypothesis_refused", data, key="h1")
    [line] = exported(writer)
    assert line["outcomes"][0]["label"] == "refused"
    assert line["outcomes"][0]["sentence"] == "it changes nothing"


def test_the_samplers_hypotheses_are_no_outcomes_of_the_model(writer):
    mine, other = writer.propose(hypothesis(), hypothesis("raise lr", source="sampler"))
    writer.screen(mine, Verdict.DROP)
    writer.screen(other, Verdict.KEEP)
    [line] = exported(writer)
    assert [outcome["hypothesis"] for outcome in line["outcomes"]] == [mine]
    assert exported(writer, only_keeps=True) == []


def test_open_hypotheses_and_unanswered_calls_give_no_line(writer):
    writer.propose(hypothesis())
    fault = ChatReply(outcome=Outcome.REFUSED, detail="no", may_cost=False)
    [other] = writer.propose(hypothesis("raise lr", source="sampler"), replies=(fault,))
    writer.screen(other, Verdict.KEEP)
    assert exported(writer) == []


def test_only_keeps_leaves_out_what_was_refuted_alone(writer):
    for verdict in (Verdict.DROP, Verdict.KEEP, Verdict.VOID):
        [one] = writer.propose(hypothesis())
        writer.screen(one, verdict)
    assert [line["outcomes"][0]["label"] for line in exported(writer, only_keeps=True)] == ["keep"]


def test_messages_only_leaves_nothing_else(writer):
    [one] = writer.propose(hypothesis())
    writer.screen(one, Verdict.KEEP)
    assert [set(line) for line in exported(writer, messages_only=True)] == [{"messages"}]


def test_a_line_is_one_line_whatever_the_model_writes(writer):
    text = said(hypothesis("a\nb\u2028c\u0085d"))
    [one] = writer.propose(hypothesis("a b c d"), replies=(text + "\n\u2028\r\n",))
    writer.screen(one, Verdict.KEEP)
    lines = list(chat_lines(read_journal(writer.journal.folder)))
    assert len("\n".join(lines).splitlines()) == 1
    assert json.loads(lines[0])["messages"][-1]["content"] == text + "\n\u2028\r\n"


def test_nothing_of_a_trial_is_exported(writer):
    [one] = writer.propose(hypothesis())
    result = {"trial_id": "00001", "metrics": {"heldout": SECRET_GUARD}, "failure": "token sk-planted"}
    writer.journal.append("trial_finished", result, key="x")
    writer.screen(one, Verdict.DROP)
    text = "".join(chat_lines(read_journal(writer.journal.folder)))
    assert str(SECRET_GUARD) not in text
    assert "sk-planted" not in text


def test_a_key_of_ten_is_not_taken_for_a_key_of_one(writer):
    for number in range(1, 12):
        [one] = writer.propose(hypothesis(f"Claim {number}."))
        writer.screen(one, Verdict.DROP)
    replies = [json.loads(one["messages"][-1]["content"]) for one in examples(writer.journal)]
    assert [reply["hypotheses"][0]["statement"] for reply in replies] == [f"Claim {n}." for n in range(1, 12)]


def test_the_command_prints_the_lines_or_writes_them(writer, capsys, tmp_path):
    [one] = writer.propose(hypothesis())
    writer.screen(one, Verdict.KEEP)
    study = str(writer.journal.folder)
    assert main(["export", study, "--format", "chat-jsonl"]) == 0
    told = capsys.readouterr()
    assert [json.loads(line)["study"] for line in told.out.splitlines()] == ["gpt-source"]
    assert told.err == ""
    path = tmp_path / "chats.jsonl"
    assert main(["export", study, "--output", str(path), "--messages-only", "--only", "keeps"]) == 0
    told = capsys.readouterr()
    assert (told.out, told.err) == (f"{path}\n", "1 example\n")
    assert set(json.loads(path.read_text(encoding="utf-8"))) == {"messages"}


def test_the_command_says_when_there_is_nothing(writer, capsys, tmp_path):
    assert main(["export", str(writer.journal.folder)]) == 0
    told = capsys.readouterr()
    assert told.out == ""
    assert "nothing to export" in told.err
    assert main(["export", str(tmp_path / "none")]) == 2
    assert "there is no study here" in capsys.readouterr().err
    path = tmp_path / "never.jsonl"
    assert main(["export", str(writer.journal.folder), "--output", str(path)]) == 0
    assert not path.exists()


def test_the_command_says_where_it_cannot_write(writer, capsys, tmp_path):
    [one] = writer.propose(hypothesis())
    writer.screen(one, Verdict.KEEP)
    assert main(["export", str(writer.journal.folder), "--output", str(tmp_path / "no" / "such" / "file")]) == 2
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("before", "statement"), [("", "It  helps\nmuch."), ("<think>maybe {x}</think>", "It helps much."), ("", "x" * 900)]
)
def test_a_reply_is_found_however_its_statement_was_spaced_or_its_thoughts_were_written(writer, before, statement):
    good = before + said(hypothesis(statement))
    [one] = writer.propose(hypothesis(clean(statement, most=400)), replies=(good, "garbage"))
    writer.screen(one, Verdict.KEEP)
    assert [line["messages"][-1]["content"] for line in exported(writer)] == [good]


def test_a_hypothesis_that_no_reply_states_is_not_paired_with_any(writer):
    [one] = writer.propose(hypothesis("Good."), replies=(said(hypothesis("Another.")), "garbage"))
    writer.screen(one, Verdict.KEEP)
    assert exported(writer) == []
