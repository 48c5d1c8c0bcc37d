"""What a person sees of a study in a terminal: a live view, plain lines where there is no terminal, a closing text.

Everything is drawn from one `StudySummary`.  A provisional gain is always called provisional, and nothing is told by
colour alone.  Rich respects NO_COLOR and leaves out colours where the output is no terminal.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Literal, TextIO

from lightning_autoresearch import wording
from lightning_autoresearch.decision import Verdict
from lightning_autoresearch.summary import GateRow, HypothesisRow, RevisionRow, StudySummary

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
    from rich.live import Live
    from rich.measure import Measurement
    from rich.text import Text

_STYLES = {
    Verdict.PROMOTE: "bold green",
    Verdict.KEEP: "green",
    Verdict.DROP: "dim",
    Verdict.FAIL: "yellow",
    Verdict.VOID: "magenta",
    None: "cyan",
}
_LABEL = 11
"""Columns of a label."""
_NARROW = 60
"""Columns below which bars and columns of numbers are left out."""
_SIDE_BY_SIDE = 120
"""Columns from which verdicts and the gate stand beside each other."""


def render(
    summary: StudySummary, *, width: int, height: int | None = None, clock: Callable[[], float] = time.time
) -> RenderableType:
    """The state of a study, to be printed by a rich console.

    Args:
        summary: the study.
        width: columns there are; from 120 on, two columns of text are used.
        height: rows there are; lists are shortened and empty lines left out to fit. Null for no limit.
        clock: gives seconds since 1970, for the time that an answer is waited for.
    """
    if height is None:
        return _layout(summary, width=width, rows=8, loose=True, clock=clock)
    return _Fitted(summary=summary, height=height, clock=clock)


def _layout(summary: StudySummary, *, width: int, rows: int, loose: bool, clock: Callable[[], float]) -> Group:
    """Everything, with so many verdicts; without empty lines and the goal unless `loose`."""
    from rich.console import Group

    title = _title(summary, goal=loose, now=clock())
    parts: list[RenderableType | None] = [title, _gains(summary, width=width)]
    parts.append(_progress(summary, width=width))
    verdicts, now = _verdicts(summary, width=width, rows=rows), _now(summary, width=width)
    parts += [_beside(verdicts, now, width=width)] if width >= _SIDE_BY_SIDE else [verdicts, now]
    shown = [part for part in [*parts, _messages(summary, rows=max(1, rows // 2))] if part is not None]
    return Group(*_spaced(shown)) if loose else Group(*shown)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Fitted:
    """The fullest layout that fits into a number of rows."""

    summary: StudySummary
    """The study."""
    height: int
    """Rows there are."""
    clock: Callable[[], float]
    """Gives seconds since 1970."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for rows, loose in ((8, True), (5, True), (5, False), (3, False), (1, False)):
            layout = _layout(self.summary, width=options.max_width, rows=rows, loose=loose, clock=self.clock)
            if len(console.render_lines(layout, options.update(height=None), pad=False)) <= self.height:
                break
        yield layout


def view_for(stream: TextIO, *, plain: bool = False) -> LiveView | PlainView:
    """A live display where the stream is a terminal, unless plain lines are asked for."""
    return LiveView() if stream.isatty() and not plain else PlainView()


def say(text: RenderableType) -> None:
    """Print a text; where the output is no terminal, paths and commands stay whole."""
    from rich.console import Console

    console = Console(highlight=False)
    console.print(text, soft_wrap=not console.is_terminal)


class LiveView:
    """A live display: `with LiveView() as view: view.update(summary)`; leaves its last state on the screen."""

    interval_seconds = 0.25
    """Time between two updates that are of use."""

    def __init__(self, *, console: Console | None = None) -> None:
        self._console = console
        self._summary: StudySummary | None = None
        self._live: Live | None = None

    def __enter__(self) -> LiveView:
        from rich.console import Console
        from rich.live import Live

        self._console = self._console or Console(highlight=False)
        self._live = Live(self, console=self._console, refresh_per_second=2, screen=False, transient=False)
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def update(self, summary: StudySummary) -> None:
        """Show this state from the next refresh on."""
        self._summary = summary

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self._summary is not None:
            ended = self._live is None or not self._live.is_started
            yield render(self._summary, width=options.max_width, height=None if ended else console.size.height)


class PlainView:
    """Plain lines with a time stamp, one per event, where there is no terminal; the same calls as `LiveView`."""

    interval_seconds = 0.0
    """Time between two updates that are of use."""

    def __init__(self, *, stream: TextIO | None = None, clock: Callable[[], float] = time.time) -> None:
        self._stream = stream
        self._clock = clock
        self._last: StudySummary | None = None

    def __enter__(self) -> PlainView:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(BrokenPipeError):
            (self._stream or sys.stdout).flush()

    def update(self, summary: StudySummary) -> None:
        """Write a line for everything that happened since the last call, as long as somebody reads."""
        with contextlib.suppress(BrokenPipeError):
            self._write(summary)

    def _write(self, summary: StudySummary) -> None:
        stream = self._stream or sys.stdout
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self._clock()))
        encoding = getattr(stream, "encoding", None) or "utf-8"
        for line in events(self._last, summary):
            text = printable(line).encode(encoding, "replace").decode(encoding)
            stream.write(f"{stamp}  {text}\n")
        stream.flush()
        self._last = summary


def events(before: StudySummary | None, after: StudySummary) -> Iterator[str]:
    """What happened between two summaries of a study, one line per event, in the order it is told.

    Without an earlier summary, one line tells where the study stands; what it did before is not told again.
    """
    if before is None:
        yield _start_line(after)
        yield from (f"note: {message}" for message in after.messages)
        return
    moved = _place(after) != _place(before)
    ended = after.phase in {"done", "interrupted", "failed"}
    if moved and not ended:
        yield _phase_line(after)
    yield from (_noise_line(after, scale) for scale in after.noise_sd if scale not in before.noise_sd)
    yield from _hypothesis_events(before, after)
    yield from _gate_events(before, after)
    known = {row.digest for row in before.revisions}
    yield from (_revision_line(row) for row in after.revisions if row.digest not in known)
    if after.confirmed_gain is not None and after.confirmed_gain != before.confirmed_gain:
        yield f"confirmed: {wording.gain_sentence(after.confirmed_gain, summary=after)}"
    yield from (f"search space: {edit}" for edit in after.space_edits[len(before.space_edits) :])
    yield from (f"note: {message}" for message in after.messages[len(before.messages) :])
    if moved and ended:
        yield _phase_line(after)


def closing_text(summary: StudySummary) -> Text:
    """What is said at the end: the outcome, what changed, the files, and what can be done next.

    Print it with `soft_wrap=True` where the output is no terminal, so that paths and commands stay whole.
    """
    from rich.text import Text

    text = Text()
    for label, lines in _closing(summary):
        text.append(f"{label}\n", style="bold")
        text.append("".join(f"  {printable(line)}\n" for line in lines))
    text.rstrip()
    return text


def printable(text: str) -> str:
    """One line without control characters, which could move a terminal's cursor or end a log line."""
    return "".join(char if char.isprintable() else " " for char in text)


def _closing(summary: StudySummary) -> Iterator[tuple[str, list[str]]]:
    ended = f"Study {summary.name} {'is done' if summary.phase == 'done' else summary.phase}"
    yield (f"{ended}.", [summary.reason] if summary.reason else [])
    gain = summary.confirmed_gain
    yield (
        "Confirmed gain" if gain else "No confirmed gain",
        [wording.gain_sentence(gain, summary=summary) if gain else wording.unconfirmed_sentence(summary)],
    )
    if summary.rule != "gate":
        yield "No guarantee", [wording.guarantee_sentence(summary)]
    if share := wording.model_share(summary):
        yield "Language model", [share]
    changes = [
        f"{key}: {wording.plain_value(summary.base.get(key))} -> {wording.plain_value(value)}"
        for key, value in wording.changed_keys(summary).items()
    ]
    yield "What changed", changes or ["nothing: the spec is as it was"]
    yield "Files", _files(summary)
    yield "Next", list(_next_steps(summary))


def _files(summary: StudySummary) -> list[str]:
    folder = summary.folder.rstrip("/")
    specs = [f"spec     {folder}/specs/{row.number:04d}.yaml" for row in summary.revisions[-1:]]
    return [f"report   {wording.report_path(summary)}", *specs, f"journal  {folder}"]


def _next_steps(summary: StudySummary) -> Iterator[str]:
    if not summary.done:
        yield f"resume   {wording.resume_command(summary)}"
    if summary.confirmed_gain is not None or wording.changed_keys(summary):
        yield f"adopt    {wording.adopt_command(summary)}"
    if summary.done and summary.confirmed_gain is None:
        yield "search on with a larger budget or other keys in search_space, in a spec of another name"


def _title(summary: StudySummary, *, goal: bool, now: float) -> Text:
    from rich.text import Text

    title = Text(printable(summary.name), style="bold")
    title.append(f"  {printable(_phase_words(summary))}", style="bold cyan")
    if summary.phase == "asking" and summary.phase_since is not None:
        title.append(f" for {wording.duration(max(0.0, now - summary.phase_since))}", style="not bold")
    title.append(f"  round {summary.round}" if summary.round else "  calibration", style="not bold")
    if summary.goal and goal:
        title.append(f"\n{printable(summary.goal)}", style="not bold dim")
    if summary.reason:
        title.append(f"\n{printable(summary.reason)}", style="not bold")
    return title


def _place(summary: StudySummary) -> tuple[str, str, int]:
    return summary.phase, summary.phase_detail, summary.round


def _phase_words(summary: StudySummary) -> str:
    """The phase, and whom it waits for."""
    return f"asking {summary.phase_detail or summary.scientist}" if summary.phase == "asking" else summary.phase


def _gains(summary: StudySummary, *, width: int) -> RenderableType:
    rows = [("baseline", _baseline(summary), "")] if summary.noise_sd else []
    rows.append(("confirmed", _confirmed(summary), "bold green" if summary.confirmed_gain else ""))
    provisional = _provisional(summary)
    if provisional:
        rows.append(("provisional", provisional, "yellow"))
    if summary.rule != "gate":
        rows.append(("no guarantee", wording.guarantee_sentence(summary), "yellow"))
    return _pairs(rows, width=width)


def _baseline(summary: StudySummary) -> str:
    scale, noise = summary.scales[0], wording.search_noise(summary)
    values = wording.unselected_objectives(summary, overrides={}, scale=scale)
    mean = wording.number(sum(values) / len(values) if values else None, noise=noise)
    runs = f"{wording.plural(len(values), 'run')} at {scale}"
    return f"{summary.metric} {mean} over {runs}; a paired gain scatters by {wording.number(noise, noise=noise)}"


def _confirmed(summary: StudySummary) -> str:
    if summary.confirmed_gain is not None:
        return wording.gain_sentence(summary.confirmed_gain, summary=summary)
    nothing = "nothing" if summary.done else "nothing yet"
    if summary.resolvable_gain is None:
        return nothing
    noise = wording.search_noise(summary) or summary.resolvable_gain
    smallest = wording.number(summary.resolvable_gain, noise=noise)
    return f"{nothing}; a whole gate can resolve gains from about {smallest} on"


def _provisional(summary: StudySummary) -> str:
    if summary.done:
        return ""
    kept = [row for row in summary.hypotheses if row.verdict is Verdict.KEEP and row.round == summary.round]
    total = sum(row.gain or 0.0 for row in kept)
    if not kept:
        return ""
    gain = wording.signed(total, noise=wording.search_noise(summary))
    return f"{wording.plural(len(kept), 'change')} kept in this round, {gain} on the screen's seeds; not gated yet"


def _progress(summary: StudySummary, *, width: int) -> RenderableType:
    from rich.table import Table

    ended, seconds = wording.count_trials(summary).ended, summary.cost.wall_seconds
    lines = [("trials", ended / max(1, summary.budget_trials), f"{ended} of {summary.budget_trials}")]
    if summary.budget_hours:
        hours = f"{seconds / 3600:.2f} of {summary.budget_hours:g}"
        lines.append(("hours", seconds / 3600 / summary.budget_hours, hours))
    if width < _NARROW:
        return _pairs([(label, words + _eta(summary, share=share), "") for label, share, words in lines], width=width)
    table = Table.grid(padding=(0, 1))
    table.add_column(width=_LABEL)
    for label, share, words in lines:
        bar = _Bar(share=share, width=min(40, width - 46))
        table.add_row(label, bar, words + _eta(summary, share=share))
    return table


@dataclass(frozen=True, kw_only=True, slots=True)
class _Bar:
    """A bar that can be read without colour: heavy for done, light for the rest."""

    share: float
    """Share that is done."""
    width: int
    """Columns."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.text import Text

        done = round(self.width * min(1.0, max(0.0, self.share)))
        full, rest = (
            "#." if options.ascii_only else "\N{BOX DRAWINGS HEAVY HORIZONTAL}\N{BOX DRAWINGS LIGHT HORIZONTAL}"
        )
        yield Text(full * done, style="cyan", end="").append(rest * (self.width - done), style="dim")

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        from rich.measure import Measurement

        return Measurement(self.width, self.width)


def _eta(summary: StudySummary, *, share: float) -> str:
    """Time left at the pace so far; the study ends when the first budget is spent, or earlier."""
    if summary.done or summary.phase in {"interrupted", "failed"} or not 0 < share < 1:
        return ""
    return f", {wording.duration(summary.cost.wall_seconds * (1 - share) / share)} left"


def _verdicts(summary: StudySummary, *, width: int, rows: int) -> RenderableType | None:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    shown = [row for row in summary.hypotheses if row.verdict is not None][-rows:]
    if not shown:
        return None
    table = Table.grid(padding=(0, 1))
    names, several = wording.summary_names(summary), len(wording.sources(summary)) > 1
    cells = [
        (
            f"{wording.MARKS[row.verdict]:<2} {wording.VERDICTS[row.verdict]}",
            _gain_or_ending(row, summary),
            printable(_name(row, several=several)),
        )
        for row in shown
    ]
    if width >= _NARROW:
        for number, column in enumerate(zip(*cells, strict=True)):
            justify: Literal["left", "right"] = "right" if number == 1 else "left"
            table.add_column(justify=justify, no_wrap=True, min_width=max(map(len, column)))
        table.add_column(no_wrap=True, overflow="ellipsis")
    else:
        table.add_column(overflow="fold")
    for row in shown:
        verdict = Text(f"{wording.MARKS[row.verdict]:<2} {wording.VERDICTS[row.verdict]}", style=_STYLES[row.verdict])
        words = Text(printable(wording.hypothesis_change(row.hypothesis, row.before, names=names)))
        gain, name = Text(_gain_or_ending(row, summary)), Text(printable(_name(row, several=several)))
        if width >= _NARROW:
            table.add_row(verdict, gain, name, words)
        else:
            table.add_row(Text(" ").join([verdict, gain]))
            table.add_row(Text.assemble("   ", name, " ", words))
    return Group(Text("last verdicts", style="bold"), table)


def _name(row: HypothesisRow, *, several: bool) -> str:
    """A hypothesis's id, and who stated it where that may be one of several."""
    return f"{row.hypothesis.id} ({wording.short_source(row.hypothesis.source)})" if several else row.hypothesis.id


def _gain_or_ending(row: HypothesisRow, summary: StudySummary) -> str:
    if row.gain is None:
        return _ending(row)
    return wording.signed(row.gain, noise=wording.search_noise(summary))


def _ending(row: HypothesisRow) -> str:
    return wording.STATUSES[row.status].split(" (")[0] if row.status else "n/a"


def _now(summary: StudySummary, *, width: int) -> RenderableType:
    gates = [gate for gate in summary.gates if gate.verdict is None] or list(summary.gates[-1:])
    rows = [(f"gate, {gate.scale}", _gate_words(gate, summary), _STYLES[gate.verdict]) for gate in gates]
    running = [row.trial for row in summary.trials if row.result is None]
    if running:
        listed = ", ".join(f"{trial.id} {trial.hypothesis or trial.purpose.value}" for trial in running[:4])
        more = f" and {len(running) - 4} more" if len(running) > 4 else ""
        rows.append(("running", f"{listed}{more}", ""))
    rows.append(("outcomes", _counts_words(summary), ""))
    if calibration := wording.calibration_line(summary):
        rows.append(("predictions", calibration, ""))
    rows.append(("cost", _cost_words(summary), ""))
    return _pairs(rows, width=min(width, 78) if width < _SIDE_BY_SIDE else width // 2 - 2)


def _gate_words(gate: GateRow, summary: StudySummary) -> str:
    state = wording.VERDICTS[gate.verdict] if gate.verdict else "open, so provisional"
    return f"{_gate_line(gate, summary)}; {state}"


def _counts_words(summary: StudySummary) -> str:
    counts = wording.count_trials(summary)
    others = {"failed": counts.failed, "void": counts.void, "lost": counts.lost, "running": counts.running}
    return ", ".join([f"{counts.finished} finished", *(f"{count} {name}" for name, count in others.items() if count)])


def _cost_words(summary: StudySummary) -> str:
    cost = summary.cost
    words = f"{wording.duration(cost.wall_seconds)}, {wording.duration(cost.train_seconds)} of training"
    return ", ".join(filter(None, [words, wording.model_cost(summary)]))


def _messages(summary: StudySummary, *, rows: int) -> Text | None:
    from rich.text import Text

    lines = [f"! {printable(message)}" for message in summary.messages[-rows:]]
    return Text("\n".join(lines), style="yellow") if lines else None


def _pairs(rows: Iterable[tuple[str, str, str]], *, width: int) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 1))
    table.add_column(width=_LABEL, overflow="fold")
    table.add_column(overflow="fold", max_width=max(10, width - _LABEL - 2))
    for label, words, style in rows:
        table.add_row(Text(printable(label)), Text(printable(words), style=style))
    return table


def _beside(left: RenderableType | None, right: RenderableType, *, width: int) -> RenderableType:
    from rich.table import Table

    if left is None:
        return right
    table = Table.grid(padding=(0, 2))
    table.add_column(width=width // 2)
    table.add_column(width=width - width // 2 - 2)
    table.add_row(left, right)
    return table


def _spaced(parts: Iterable[RenderableType]) -> Iterator[RenderableType]:
    for index, part in enumerate(parts):
        if index:
            yield ""
        yield part


def _start_line(summary: StudySummary) -> str:
    ended = wording.count_trials(summary).ended
    so_far = f", {wording.plural(ended, 'trial')} so far" if ended else ""
    gain = summary.confirmed_gain
    words = f"; confirmed: {wording.gain_sentence(gain, summary=summary)}" if gain else ""
    return f"study {summary.name}: {summary.phase}{so_far}{words}"


def _phase_line(summary: StudySummary) -> str:
    where = f"round {summary.round}" if summary.round else "calibration"
    counts = wording.count_trials(summary)
    line = f"{_phase_words(summary)} ({where}), {counts.ended} of {summary.budget_trials} trials"
    return f"{line}: {summary.reason}" if summary.reason else line


def _noise_line(summary: StudySummary, scale: str) -> str:
    """What calibration found: the noise, and the smallest gain that can be told from it."""
    line = f"noise at scale {scale}: sd of a paired gain {wording.number_short(summary.noise_sd[scale])}"
    if summary.resolvable_gain is None or scale != summary.scales[0]:
        return line
    return f"{line}; the smallest gain that a gate resolves is about {wording.number_short(summary.resolvable_gain)}"


def _hypothesis_events(before: StudySummary, after: StudySummary) -> Iterator[str]:
    """First verdicts; what the gate later makes of a kept hypothesis is the gate's line."""
    known = {row.hypothesis.id for row in before.hypotheses if row.verdict is not None}
    names, several = wording.summary_names(after), len(wording.sources(after)) > 1
    for row in after.hypotheses:
        if row.verdict is not None and row.hypothesis.id not in known:
            words = wording.hypothesis_change(row.hypothesis, row.before, names=names)
            yield f"{_name(row, several=several)} {words}. {row.sentence or wording.VERDICTS[row.verdict]}"


def _gate_events(before: StudySummary, after: StudySummary) -> Iterator[str]:
    for index, gate in enumerate(after.gates):
        old = before.gates[index] if index < len(before.gates) else None
        news = old is None or len(old.gains) != len(gate.gains) or old.verdict != gate.verdict
        if not news:
            continue
        members = f" ({', '.join(gate.hypotheses)})" if gate.hypotheses else ""
        yield f"gate of round {gate.round} at {gate.scale}{members}: {gate.sentence or _gate_line(gate, after)}"


def _gate_line(gate: GateRow, summary: StudySummary) -> str:
    return wording.gate_sentence(gate, noise=summary.noise_sd.get(gate.scale)) if gate.gains else "opened"


def _revision_line(row: RevisionRow) -> str:
    return f"revision {row.number}: {'; '.join(row.changes) or 'the spec as given'}"
