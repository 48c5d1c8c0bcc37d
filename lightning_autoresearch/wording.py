"""Numbers and sentences as people read them: shared by the live view, `status` and the report.

Every function is pure and takes its numbers from a `StudySummary`; nothing here computes a statistic.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from lightning_autoresearch.decision import Verdict
from lightning_autoresearch.hypothesis import SAMPLER, Hypothesis
from lightning_autoresearch.scoring import FEWEST, STATED_LEVEL, Difference, Scores, by_source
from lightning_autoresearch.space import Value
from lightning_autoresearch.summary import ConfirmedGain, GateRow, StudySummary, forecasts
from lightning_autoresearch.trial import Purpose, TrialStatus

INTERVAL = "95 % interval"
"""What the intervals of gates and confirmations are called; `Evidence.level` is 0.95."""

MARKS: Mapping[Verdict | None, str] = {
    Verdict.PROMOTE: "++",
    Verdict.KEEP: "+",
    Verdict.DROP: "-",
    Verdict.FAIL: "--",
    Verdict.VOID: "?",
    None: "..",
}
"""A sign for each verdict, so that nothing is told by colour alone."""

VERDICTS: Mapping[Verdict | None, str] = {
    Verdict.PROMOTE: "promoted",
    Verdict.KEEP: "kept, provisional",
    Verdict.DROP: "dropped",
    Verdict.FAIL: "failed the gate",
    Verdict.VOID: "void",
    None: "open",
}
"""The verdicts in words."""

STATUSES: Mapping[TrialStatus, str] = {
    TrialStatus.FINISHED: "finished",
    TrialStatus.ERROR: "error",
    TrialStatus.NOT_FINITE: "not finite",
    TrialStatus.METRIC_MISSING: "metric missing",
    TrialStatus.OUT_OF_MEMORY: "out of memory",
    TrialStatus.TIMED_OUT: "timed out",
    TrialStatus.KILLED: "killed",
    TrialStatus.CANCELLED: "cancelled",
    TrialStatus.LOST: "lost",
    TrialStatus.VOID: "void (contended machine)",
}
"""How a trial ended, in words."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialCounts:
    """How many trials there are of each outcome; the five add up to all trials."""

    finished: int
    """Trials with an objective."""
    failed: int
    """Trials that ended in an error, without a finite objective, out of memory or time, killed or cancelled."""
    void: int
    """Trials that were run on a contended machine and do not count."""
    running: int
    """Trials without an outcome yet."""
    lost: int
    """Trials whose worker vanished without an outcome."""

    @property
    def ended(self) -> int:
        """Trials that are not running."""
        return self.finished + self.failed + self.void + self.lost


def count_trials(summary: StudySummary) -> TrialCounts:
    """Count the trials of a study by outcome."""
    statuses = [row.result.status if row.result else None for row in summary.trials]
    finished, void = statuses.count(TrialStatus.FINISHED), statuses.count(TrialStatus.VOID)
    running, lost = statuses.count(None), statuses.count(TrialStatus.LOST)
    failed = len(statuses) - finished - void - running - lost
    return TrialCounts(finished=finished, failed=failed, void=void, running=running, lost=lost)


def decimals(noise: float | None) -> int | None:
    """Decimals at which a number with this noise is sensibly written; null where the noise is unknown.

    The last digit stands at the noise's first digit, one further where that digit is 1 or 2.
    """
    if noise is None or not math.isfinite(noise) or noise <= 0:
        return None
    first, exponent = f"{noise:e}".split("e")
    return max(0, min(12, (1 if float(first) < 3 else 0) - int(exponent)))


def number(value: float | None, *, noise: float | None = None) -> str:
    """A value with as many digits as its noise bears, else four significant ones."""
    if value is None or not math.isfinite(value):
        return "n/a"
    places = decimals(noise)
    if places is None or abs(value) >= 1e9:
        return f"{value:.4g}"
    text = f"{value:.{places}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def signed(value: float | None, *, noise: float | None = None) -> str:
    """The same with a sign in front."""
    text = number(value, noise=noise)
    return text if text == "n/a" or text.startswith("-") or float(text) == 0 else f"+{text}"


def duration(seconds: float) -> str:
    """Seconds as `42 s`, `3 min 20 s`, `2 h 05 min` or `3 d 04 h`."""
    total = round(seconds)
    if total < 60:
        return f"{total} s"
    if total < 3600:
        return f"{total // 60} min {total % 60:02d} s"
    if total < 48 * 3600:
        return f"{total // 3600} h {total % 3600 // 60:02d} min"
    return f"{total // 86400} d {total % 86400 // 3600:02d} h"


def plural(count: int, noun: str) -> str:
    """`1 pair`, `2 pairs`, `2 hypotheses`."""
    if count == 1:
        return f"1 {noun}"
    return f"{count} {noun[:-2]}es" if noun.endswith("esis") else f"{count} {noun}s"


def short_key(key: str) -> str:
    """The last part of a dotted key."""
    return key.rpartition(".")[2]


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """The shortest ending of each dotted key that no other key has."""
    keys = tuple(dict.fromkeys(keys))
    names = {}
    for key in keys:
        parts = key.split(".")
        endings = (".".join(parts[-count:]) for count in range(1, len(parts) + 1))
        others = [other for other in keys if other != key]
        names[key] = next((end for end in endings if not any(_ends(other, end) for other in others)), key)
    return names


def summary_names(summary: StudySummary) -> dict[str, str]:
    """Short names of every key that the study has varied or may vary."""
    varied = (key for row in summary.hypotheses for key in row.hypothesis.overrides)
    return short_names([*summary.base, *varied])


def change(overrides: Mapping[str, Value], before: Mapping[str, Value], *, names: Mapping[str, str]) -> str:
    """What is set, in words: `lr 0.003 -> 0.006, depth 2 -> 3`."""
    parts = []
    for key, value in overrides.items():
        old = f"{plain_value(before[key])} -> " if key in before else "= "
        parts.append(f"{names.get(key, key)} {old}{plain_value(value)}")
    return ", ".join(parts)


def hypothesis_change(hypothesis: Hypothesis, before: Mapping[str, Value], *, names: Mapping[str, str]) -> str:
    """What a hypothesis changes, in words."""
    return change(hypothesis.overrides, before, names=names)


def changed_keys(summary: StudySummary) -> dict[str, Value]:
    """The incumbent's keys that differ from revision 0, with their values."""
    return {key: value for key, value in summary.incumbent.items() if summary.base.get(key) != value}


def plain_value(value: Value) -> str:
    """A value as YAML would show it."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def unselected_objectives(summary: StudySummary, *, overrides: Mapping[str, Value], scale: str) -> list[float]:
    """Objectives at one scale of the runs with these overrides that no decision had a choice in (no winner's curse)."""
    unselected = {Purpose.CALIBRATE, Purpose.CONFIRM}
    return [
        row.result.objective
        for row in summary.trials
        if row.trial.purpose in unselected
        and row.trial.scale == scale
        and row.result is not None
        and row.result.finished
        and row.result.objective is not None
        and dict(row.trial.overrides) == dict(overrides)
    ]


def lower_or_higher(gain: float, *, mode: str) -> str:
    """The direction that the metric went in when the gain is this large: `lower` or `higher`."""
    return "lower" if (gain >= 0) == (mode == "min") else "higher"


def gain_sentence(gain: ConfirmedGain, *, summary: StudySummary) -> str:
    """A confirmed gain in plain language.

    For example: val_bpb lower by 0.31 (95 % interval 0.27 to 0.35, 3 fresh pairs at scale nano).
    """
    noise = half_width(gain.low, gain.high) or summary.noise_sd.get(gain.scale)
    worse = "" if gain.mean >= 0 else ", which is worse"
    pairs = f"{plural(gain.pairs, 'fresh pair')} at scale {gain.scale}"
    direction = lower_or_higher(gain.mean, mode=summary.mode)
    ends = interval(gain.low, gain.high, noise=noise, sign=math.copysign(1, gain.mean))
    open_end = (
        "; it contains zero" if half_width(gain.low, gain.high) is not None and gain.low <= 0 <= gain.high else ""
    )
    return f"{summary.metric} {direction} by {number(abs(gain.mean), noise=noise)}{worse} ({ends}, {pairs}{open_end})"


def interval(low: float | None, high: float | None, *, noise: float | None, sign: float = 1.0) -> str:
    """An interval in words, of the gain or (sign -1) of its opposite."""
    if half_width(low, high) is None:
        return "no bounded interval yet"
    ends = sorted((sign * low, sign * high))  # type: ignore[operator]
    return f"{INTERVAL} {_end(ends[0], noise=noise)} to {_end(ends[1], noise=noise)}"


def _end(value: float, *, noise: float | None) -> str:
    """An end of an interval; one that its rounding would move onto zero keeps its side of it."""
    text = number(value, noise=noise)
    return f"{value:.1g}" if value != 0 and float(text) == 0 else text


def search_noise(summary: StudySummary) -> float | None:
    """Standard deviation of a paired gain at the search scale; null before calibration."""
    return summary.noise_sd.get(summary.scales[0])


def half_width(low: float | None, high: float | None) -> float | None:
    """Half the width of an interval; null while it is unbounded."""
    if low is None or high is None or not math.isfinite(high - low):
        return None
    return (high - low) / 2


def gate_sentence(gate: GateRow, *, noise: float | None) -> str:
    """Where a gate stands: `4 pairs, e-value 23 (85 needed), mean gain +0.021`."""
    name = f"{plural(len(gate.gains), 'pair')}, e-value {number_short(gate.e_value)}"
    return f"{name} ({number_short(gate.threshold)} needed), mean gain {signed(gate.mean, noise=noise)}"


def number_short(value: float | None) -> str:
    """A value with three significant digits, large ones whole."""
    if value is None or math.isnan(value):
        return "n/a"
    if math.isinf(value):
        return "infinite"
    return f"{value:.3g}" if abs(value) < 1000 or abs(value) >= 1e6 else f"{value:.0f}"


def unconfirmed_sentence(summary: StudySummary) -> str:
    """That nothing was confirmed, and what that means."""
    if summary.rule != "gate" and changed_keys(summary):
        return f"The rule {summary.rule!r} kept changes, but none was confirmed on fresh pairs."
    start = "Nothing was confirmed" if summary.done else "Nothing is confirmed yet"
    if summary.resolvable_gain is None:
        return f"{start}, and the noise is not known: this says nothing about gains of any size."
    noise = search_noise(summary)
    smallest = number(summary.resolvable_gain, noise=summary.resolvable_gain if noise is None else noise)
    return (
        f"{start}. The smallest gain in {summary.metric} that a gate with all of its pairs can resolve is about "
        f"{smallest} at scale {summary.scales[0]}: smaller ones may exist and would not be seen."
    )


def guarantee_sentence(summary: StudySummary) -> str:
    """The rule, and what it promises."""
    if summary.rule == "gate":
        return (
            f"A change counts only after a sequential test on fresh paired seeds; at most {100 * summary.alpha:g} % of "
            "the promotions at a scale are expected to be false (e-LOND), however often the test was looked at."
        )
    how = {"greedy": "one run is better", "mean": "the mean over several seeds is better"}[summary.rule]
    return f"A change was kept whenever {how}: there is no error guarantee, and some of what was kept is likely noise."


def sources(summary: StudySummary) -> tuple[str, ...]:
    """Who stated hypotheses, in the order of their first ones."""
    return tuple(dict.fromkeys(row.hypothesis.source for row in summary.hypotheses))


def short_source(source: str) -> str:
    """A source's name without the part before the last slash, at most 16 characters of it."""
    name = source.rstrip("/").rpartition("/")[2] or source
    return name if len(name) <= 16 else f"{name[:13]}..."


def usd(value: float | None) -> str:
    """US dollars with two decimals, small sums with two significant digits."""
    if value is None:
        return "n/a"
    return f"{value:.2g} USD" if 0 < value < 0.095 else f"{value:.2f} USD"


def model_share(summary: StudySummary) -> str:
    """How much the language model took part: `x answered 3 of 4 questions and stated 5 of 12 hypotheses`."""
    calls = summary.model.outcomes
    asked, answered = sum(calls.values()), calls.get("answered", 0)
    if not summary.scientist or not asked:
        return ""
    mine = sum(row.hypothesis.source != SAMPLER for row in summary.hypotheses)
    stated = f"stated {mine} of {plural(len(summary.hypotheses), 'hypothesis')}"
    if answered:
        return f"{summary.scientist} answered {answered} of {plural(asked, 'question')} and {stated}"
    return (
        f"{summary.scientist} answered none of {plural(asked, 'question')}, so this is the result of the built-in "
        "sampler alone; the notes say why"
    )


def model_cost(summary: StudySummary) -> str:
    """What the language model has cost: `18,400 tokens, 0.11 USD`; empty where none was used."""
    cost, unpriced = summary.cost, summary.model.unpriced_calls
    if not (cost.llm_tokens or cost.llm_usd or cost.llm_calls):
        return ""
    price = usd(cost.llm_usd)
    if unpriced:
        price = f"{price} and {plural(unpriced, 'call')} of unknown price" if cost.llm_usd else "price not known"
    return f"{cost.llm_tokens:,} tokens, {price}"


def calibration_line(summary: StudySummary) -> str:
    """Brier score of each source that has enough predictions, against that of chance; empty where none has."""
    scores = {source: one for source, one in by_source(forecasts(summary)).items() if one.count >= FEWEST}
    parts = [
        f"{short_source(source)} Brier {one.brier:.2f} (chance {one.brier_chance:.2f}) over {one.count}"
        for source, one in scores.items()
    ]
    return "; ".join(parts)


def chance_sentence(scores: Scores, found: Difference) -> str:
    """Whether a source's probabilities are better than chance, in words."""
    against = f"Brier score {scores.brier:.3f} against {scores.brier_chance:.3f}"
    if found.answer == "unknown":
        return f"Unknown whether better than chance: {_why_unknown(scores)} ({against})."
    start = {
        "better": "Better than chance",
        "worse": "Worse than chance",
        "no difference": "Not to be told from chance",
    }[found.answer]
    return f"{start}: {against} over {plural(scores.count, 'prediction')} ({_difference(found)})."


def trend_sentence(first: Scores | None, second: Scores | None, found: Difference) -> str:
    """Whether a source's probabilities get better, in words."""
    if first is None or second is None or min(first.count, second.count) < FEWEST:
        fewest = min(found.counts)
        return f"Unknown whether they get better: {FEWEST} are needed in each half, and there are {fewest}."
    between = f"Brier score {first.brier:.3f} in the first half, {second.brier:.3f} in the second"
    if found.answer == "unknown":
        return f"Unknown whether they get better: all or none of a half were kept ({between})."
    start = {"better": "Getting better", "worse": "Getting worse", "no difference": "No trend to be seen"}[found.answer]
    return f"{start}: {between} ({_difference(found)}, each less chance)."


def coverage_sentence(scores: Scores) -> str:
    """Whether a source's 80 % intervals hold what they promise, in words; empty where none could be checked."""
    found, stated = scores.coverage, 100 * STATED_LEVEL
    if found is None:
        return ""
    counted = plural(scores.intervals, "interval")
    held = f"{100 * found.value:.0f} % of {counted} stated as {stated:.0f} % intervals held the measured gain"
    ends = f"{INTERVAL} {100 * found.low:.0f} to {100 * found.high:.0f} %"
    if scores.intervals < FEWEST:
        return f"{held}, too few to judge."
    if found.high < STATED_LEVEL:
        return f"{held} ({ends}): they are too narrow."
    if found.low > STATED_LEVEL:
        return f"{held} ({ends}): they are wider than needed."
    return f"{held} ({ends}): that cannot be told from {stated:.0f} %."


def comparison_sentence(first: str, second: str, found: Difference) -> str:
    """Whether one source predicts better than another, in words."""
    if found.answer == "unknown":
        return (
            f"Unknown whether {first} predicts better than {second}: {FEWEST} predictions of each are needed, kept "
            f"and dropped ones among them; there are {found.counts[0]} and {found.counts[1]}."
        )
    words = {"better": f"{first} predicts better than {second}", "worse": f"{first} predicts worse than {second}"}
    start = words.get(found.answer, f"No difference to be seen between {first} and {second}")
    return f"{start} ({_difference(found)}, each less chance)."


def resume_command(summary: StudySummary) -> str:
    """The command that goes on with this very study."""
    if "--study" in summary.command or is_program(summary):
        return summary.command
    return f"{summary.command} --study {shlex.quote(summary.folder)}"


def is_program(summary: StudySummary) -> bool:
    """Whether the study lives in a program of the user's, by the callback, and not in `fit`."""
    return not summary.command.startswith("lightning-autoresearch ")


def adopt_command(summary: StudySummary) -> str:
    """The command that writes the confirmed revision into the user's own spec."""
    return f"lightning-autoresearch adopt {shlex.quote(summary.folder)}"


def report_path(summary: StudySummary) -> str:
    """Where the report lies."""
    return f"{summary.folder.rstrip('/')}/report.html"


def _difference(found: Difference) -> str:
    if found.value is None or found.low is None or found.high is None:
        return "no interval"
    return f"difference {found.value:+.3f}, {INTERVAL} {found.low:+.3f} to {found.high:+.3f}, below 0 is better"


def _why_unknown(scores: Scores) -> str:
    if scores.count < FEWEST:
        return f"{FEWEST} predictions are needed, and there are {scores.count}"
    return f"{'all' if scores.keeps else 'none'} of {scores.count} were kept"


def _ends(key: str, ending: str) -> bool:
    return key == ending or key.endswith(f".{ending}")
