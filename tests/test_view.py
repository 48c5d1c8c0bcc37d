from __future__ import annotations

import io
import re
from dataclasses import replace

import pytest
from rich.console import Console

from lightning_autoresearch import wording
from lightning_autoresearch.decision import Verdict
from lightning_autoresearch.summary import ConfirmedGain, StudySummary
from lightning_autoresearch.view import LiveView, PlainView, closing_text, events, printable, render
from tests.summaries import (
    BUILDERS,
    asking,
    calibrating,
    empty,
    failed_gate,
    failures,
    greedy,
    hostile,
    interrupted,
    large,
    mid_round,
    null_study,
    promoted,
    with_scientist,
)


def drawn(summary: StudySummary, *, width: int, height: int | None = None, colour: bool = False) -> str:
    file = io.StringIO()
    system = "standard" if colour else None
    console = Console(file=file, width=width, height=100, force_terminal=colour, color_system=system, highlight=False)
    console.print(render(summary, width=width, height=height))
    return file.getvalue()


def words(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("width", [40, 80, 160])
@pytest.mark.parametrize("name", BUILDERS)
def test_no_line_is_wider_than_the_terminal(name: str, width: int) -> None:
    lines = drawn(BUILDERS[name](), width=width).splitlines()
    assert max(map(len, lines)) <= width
    assert len(lines) > 4


@pytest.mark.parametrize("width", [40, 80, 160])
def test_nothing_important_is_cut_off_at_any_width(width: int) -> None:
    text = words(drawn(promoted(), width=width))
    assert "val_bpb lower by 0.074 (95 % interval 0.049 to 0.100, 3 fresh pairs at scale target)" in text
    assert "39 of 200" in text
    for told in ("++ promoted +0.048", "-- failed the gate +0.009", "lr 0.003 -> 0.006", "37 finished, 2 failed"):
        assert told in text


def test_a_running_study_tells_its_gate_its_trials_and_its_time() -> None:
    text = words(drawn(mid_round(), width=118))
    assert "gating round 1" in text
    assert "4 pairs, e-value 23.4 (85.2 needed), mean gain +0.086; open, so provisional" in text
    assert "running 00019 h6" in text
    assert "18 of 200, 1 h 42 min left" in text
    assert "0.17 of 1, 49 min 50 s left" in text
    assert "18,400 tokens, 0.11 USD" in text
    assert "! Trial 00012 was run again" in text


def test_who_is_asked_and_for_how_long_is_told() -> None:
    console = Console(file=io.StringIO(), width=80, highlight=False)
    console.print(render(asking(), width=80, clock=lambda: 1042.0))
    assert console.file.getvalue().startswith("gpt-source  asking gpt-5.5, call 1/4 for 42 s  round 1")  # type: ignore[attr-defined]
    unnamed = replace(asking(), phase_detail="", phase_since=None)
    assert drawn(unnamed, width=80).startswith("gpt-source  asking gpt-5.5  round 1")


def test_a_new_call_is_a_new_line() -> None:
    lines = list(events(asking(), replace(asking(), phase_detail="mailbox, call 1/5")))
    assert lines == ["asking mailbox, call 1/5 (round 1), 18 of 200 trials"]
    assert list(events(asking(), asking())) == []


def test_verdicts_name_their_source_where_there_are_several() -> None:
    text = words(drawn(with_scientist(), width=80))
    assert re.search(r"h95 \(gpt-5\.5\) lr", text)
    assert re.search(r"h96 \(sampler\) lr", text)
    assert "(sampler)" not in drawn(null_study(), width=80)
    lines = list(events(replace(promoted(), hypotheses=()), promoted()))
    assert any(line.startswith("h2 (gpt-5.5) lr 0.003 -> 0.006. ") for line in lines)


def test_the_name_of_a_source_is_cut() -> None:
    assert wording.short_source("meta-llama/Llama-3.1-70B-Instruct") == "Llama-3.1-70B..."
    assert wording.short_source("a/b/qwen3") == "qwen3"
    assert wording.short_source("/") == "/"


def test_calibration_is_one_line_once_there_are_enough_predictions() -> None:
    text = words(drawn(with_scientist(), width=118))
    assert "predictions gpt-5.5 Brier 0.12 (chance 0.25) over 48; sampler Brier 0.22 (chance 0.21) over 48" in text
    assert "Brier" not in drawn(promoted(), width=118)


def test_the_cost_of_the_model_is_told_only_where_one_takes_part() -> None:
    assert "612,000 tokens, 1.84 USD" in words(drawn(with_scientist(), width=118))
    assert "USD" not in drawn(null_study(), width=118)
    summary = with_scientist()
    unpriced = replace(summary, model=replace(summary.model, unpriced_calls=3), cost=replace(summary.cost, llm_usd=0.0))
    assert wording.model_cost(unpriced) == "612,000 tokens, price not known"
    assert wording.usd(0.00412) == "0.0041 USD"
    assert wording.usd(0.0) == "0.00 USD"


def test_a_provisional_gain_is_never_called_confirmed() -> None:
    text = drawn(mid_round(), width=160)
    confirmed = next(line for line in text.splitlines() if line.startswith("confirmed"))
    assert "nothing yet" in confirmed
    assert not re.search(r"[+]0\.\d", confirmed)
    assert re.search(r"^provisional +3 changes kept in this round, \+0\.081", text, re.MULTILINE)


def test_an_ended_study_shows_no_time_left_and_no_provisional_gain() -> None:
    text = drawn(null_study(), width=80)
    assert not re.search(r"\d (s|min) left", text)
    assert "provisional" not in text


def test_each_verdict_can_be_told_without_colour() -> None:
    assert len(set(wording.MARKS.values())) == len(Verdict) + 1
    plain, coloured = drawn(mid_round(), width=80), drawn(mid_round(), width=80, colour=True)
    assert "\x1b[" not in plain
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == plain


def test_no_color_leaves_out_every_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", drawn(mid_round(), width=80, colour=True))
    monkeypatch.delenv("NO_COLOR")
    assert re.search(r"\x1b\[[0-9;]*3[0-7]m", drawn(mid_round(), width=80, colour=True))


@pytest.mark.parametrize("height", [18, 24, 30])
def test_the_view_fits_into_a_low_terminal(height: int) -> None:
    lines = drawn(mid_round(), width=80, height=height).splitlines()
    assert len(lines) <= height
    assert any(line.startswith("cost") for line in lines)


def test_markup_and_control_characters_of_a_proposer_are_plain_text() -> None:
    text = drawn(hostile(), width=160, colour=True)
    assert "[link=http://x]" in text
    assert "\x1b[31m" not in text
    assert "[/]" in text
    assert printable("a\nb\x1b[2Jc\u202e") == "a b [2Jc "


def test_a_large_study_is_drawn_quickly_enough_to_be_live() -> None:
    text = words(drawn(large(2000), width=80, height=24))
    assert "2000 of 4000" in text


def test_the_live_view_leaves_its_last_state_on_the_screen() -> None:
    file = io.StringIO()
    console = Console(file=file, width=80, height=60, force_terminal=True, color_system=None, highlight=False)
    with LiveView(console=console) as view:
        view.update(calibrating())
        view.update(promoted())
    assert "\x1b[?1049h" not in file.getvalue(), "the alternate screen would be wiped at the end"
    assert "val_bpb lower by 0.074" in file.getvalue()
    assert not console._live_stack


def test_a_live_view_without_an_update_shows_nothing() -> None:
    file = io.StringIO()
    with LiveView(console=Console(file=file, width=80, force_terminal=True, color_system=None)):
        pass
    assert not re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", file.getvalue()).strip()


def plain_lines(*summaries: StudySummary) -> list[str]:
    stream = io.StringIO()
    with PlainView(stream=stream, clock=lambda: 0.0) as view:
        for summary in summaries:
            view.update(summary)
    return stream.getvalue().splitlines()


def test_every_event_has_exactly_one_line() -> None:
    lines = plain_lines(calibrating(), mid_round(), mid_round(), promoted(), promoted())
    for name in ("h1", "h2", "h3", "h4", "h5", "h6"):
        assert sum(f"  {name} " in line for line in lines) == 1
    text = "\n".join(lines)
    assert text.count("gate of round 1 at nano (h2, h4, h5): 4 pairs, e-value 23.4") == 1
    assert text.count("gate of round 1 at nano (h2, h4): e-value 412 reached 85.2") == 1
    assert text.count("gate of round 1 at target (h2, h4): e-value passed 85.2") == 1
    assert text.count("gate of round 2 at nano (h5): t = -0.1 after 3 pairs.") == 1
    assert text.count("revision 1: model.init_args.lr: 0.003 -> 0.006") == 1
    assert text.count("note: Trial 00012 was run again") == 1
    assert text.count("search space: widened") == 1
    assert text.count("confirmed: val_bpb lower by 0.074") == 1
    assert text.count("gating (round 1)") == 1
    assert lines[-1].endswith("done (round 2), 39 of 200 trials: The budget of 200 trials is spent.")
    assert len(lines) == len(set(lines))


def test_every_line_has_a_time_stamp() -> None:
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  \S", line) for line in plain_lines(empty(), promoted()))


def test_a_resumed_study_does_not_tell_its_past_again() -> None:
    lines = plain_lines(promoted())
    assert len(lines) == 1
    assert "39 trials so far; confirmed: val_bpb lower by 0.074" in lines[0]


def test_a_summary_without_news_gives_no_line() -> None:
    assert list(events(mid_round(), mid_round())) == []
    more = replace(mid_round(), trials=mid_round().trials[:-1])
    assert list(events(mid_round(), more)) == [], "a finished trial alone is no event"


def test_a_new_pair_of_an_open_gate_is_one_line() -> None:
    before = mid_round()
    gate = replace(before.gates[0], gains=(*before.gates[0].gains, 0.09), e_value=80.0)
    lines = list(events(before, replace(before, gates=(gate,))))
    assert lines == ["gate of round 1 at nano (h2, h4, h5): 5 pairs, e-value 80 (85.2 needed), mean gain +0.086"]


def test_a_plain_line_is_one_line_in_any_encoding() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    with PlainView(stream=stream, clock=lambda: 0.0) as view:
        view.update(empty(messages=("broken\nline \u00b5",)))
    assert raw.getvalue().decode("ascii").splitlines()[1].endswith("note: broken line ?")


def test_the_closing_text_tells_the_gain_the_change_the_files_and_what_to_do() -> None:
    text = closing_text(promoted()).plain
    assert "val_bpb lower by 0.074 (95 % interval 0.049 to 0.100, 3 fresh pairs at scale target)" in text
    assert "model.init_args.activation: relu -> gelu" in text
    assert "studies/gpt-source/report.html" in text
    assert "studies/gpt-source/specs/0001.yaml" in text
    assert "lightning-autoresearch adopt studies/gpt-source" in text
    assert "resume" not in text


@pytest.mark.parametrize("build", [null_study, failed_gate])
def test_without_a_confirmed_gain_the_closing_text_says_what_could_have_been_seen(build: object) -> None:
    text = closing_text(build()).plain  # type: ignore[operator]
    assert "No confirmed gain" in text
    assert "smallest gain in val_bpb that a gate with all of its pairs can resolve is about 0.021 at scale nano" in text
    assert "nothing: the spec is as it was" in text
    assert "adopt" not in text


def test_an_interrupted_study_says_how_to_resume() -> None:
    text = closing_text(interrupted()).plain
    assert "Interrupted by Ctrl-C after trial 00019." in text
    assert "resume   lightning-autoresearch fit specs/gpt.yaml --study studies/gpt-source" in text
    again = replace(interrupted(), command="lightning-autoresearch fit a.yaml --study 'my dir'")
    assert wording.resume_command(again) == "lightning-autoresearch fit a.yaml --study 'my dir'"


def test_a_rule_without_a_guarantee_says_so() -> None:
    assert "there is no error guarantee" in closing_text(greedy()).plain
    assert "there is no error guarantee" in words(drawn(greedy(), width=80))


def test_an_infeasible_hypothesis_is_shown_with_how_it_ended() -> None:
    text = words(drawn(failures(), width=80))
    assert "? void out of memory h5" in text
    assert "? void timed out h6" in text


@pytest.mark.parametrize(
    ("value", "noise", "text"),
    [
        (0.3123, 0.04, "0.31"),
        (0.3123, 0.012, "0.312"),
        (1234.5, 40.0, "1234"),
        (-0.0001, 0.01, "0.000"),
        (0.000123456, None, "0.0001235"),
        (float("nan"), 0.1, "n/a"),
        (None, 0.1, "n/a"),
        (2.0, 0.0, "2"),
    ],
)
def test_a_number_has_as_many_digits_as_its_noise_bears(value: float | None, noise: float | None, text: str) -> None:
    assert wording.number(value, noise=noise) == text


@pytest.mark.parametrize(
    ("mode", "mean", "text"),
    [
        ("min", 0.31, "loss lower by 0.31 (95 % interval 0.27 to 0.35, 3 fresh pairs at scale nano)"),
        ("max", 0.31, "loss higher by 0.31 (95 % interval 0.27 to 0.35, 3 fresh pairs at scale nano)"),
        ("min", -0.31, "loss higher by 0.31, which is worse (95 % interval 0.27 to 0.35, 3 fresh pairs at scale nano)"),
    ],
)
def test_a_gain_is_told_in_the_direction_of_its_metric(mode: str, mean: float, text: str) -> None:
    low, high = sorted((mean * 0.27 / 0.31, mean * 0.35 / 0.31))
    gain = ConfirmedGain(scale="nano", mean=mean, low=low, high=high, pairs=3)
    assert wording.gain_sentence(gain, summary=empty(metric="loss", mode=mode)) == text


def test_a_gain_without_an_interval_says_so() -> None:
    gain = ConfirmedGain(scale="nano", mean=0.31, low=float("-inf"), high=float("inf"), pairs=1)
    assert "(no bounded interval yet, 1 fresh pair at scale nano)" in wording.gain_sentence(gain, summary=empty())


@pytest.mark.parametrize(
    ("seconds", "text"), [(4.4, "4 s"), (200, "3 min 20 s"), (7500, "2 h 05 min"), (273_600, "3 d 04 h")]
)
def test_a_duration_has_two_units_at_most(seconds: float, text: str) -> None:
    assert wording.duration(seconds) == text


def test_short_names_stay_unique() -> None:
    names = wording.short_names(["model.init_args.lr", "optimizer.lr", "model.init_args.depth", "lr"])
    assert names == {
        "model.init_args.lr": "init_args.lr",
        "optimizer.lr": "optimizer.lr",
        "model.init_args.depth": "depth",
        "lr": "lr",
    }


def test_an_interval_keeps_its_side_of_zero_and_says_that_it_contains_it() -> None:
    gain = ConfirmedGain(scale="nano", mean=0.3695, low=-0.03739, high=0.7764, pairs=2)
    told = wording.gain_sentence(gain, summary=empty(metric="loss", mode="min"))
    assert told == "loss lower by 0.4 (95 % interval -0.04 to 0.8, 2 fresh pairs at scale nano; it contains zero)"


def test_a_verdict_and_its_gain_are_whole_beside_the_gate_with_two_sources() -> None:
    text = drawn(with_scientist(), width=120)
    shown = [row for row in with_scientist().hypotheses if row.verdict is not None][-8:]
    for row in shown:
        assert f"{wording.MARKS[row.verdict]:<2} {wording.VERDICTS[row.verdict]}" in text
        assert f" {row.hypothesis.id} (" in text


def test_the_closing_text_says_how_much_the_language_model_took_part() -> None:
    summary = with_scientist()
    told = closing_text(summary).plain
    assert f"{summary.scientist} answered 26 of 30 questions and stated " in told
    silent = replace(summary, model=replace(summary.model, outcomes={"disconnected": 4}))
    assert f"{summary.scientist} answered none of 4 questions, so this is the result of the built-in sampler alone" in (
        closing_text(silent).plain
    )
    assert "Language model" not in closing_text(replace(summary, scientist="")).plain


def test_plain_lines_that_nobody_reads_any_more_do_no_harm() -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    with PlainView(stream=Closed()) as view:
        view.update(promoted())
