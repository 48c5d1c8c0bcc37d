from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import subprocess
import time
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from lightning_autoresearch import figures as figures_module
from lightning_autoresearch.decision import Verdict
from lightning_autoresearch.figures import CURVE_POINTS, CURVES, POINTS, Figure, figures, pareto, plain, thin
from lightning_autoresearch.report import HYPOTHESES, report_html, write_report
from lightning_autoresearch.score_figures import BARS, score_figures
from lightning_autoresearch.summary import RevisionRow, StudySummary
from tests.summaries import (
    BUILDERS,
    calibrating,
    empty,
    failed_gate,
    failures,
    greedy,
    hostile,
    large,
    mid_round,
    null_study,
    promoted,
    with_scientist,
)

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


def all_figures(summary: StudySummary) -> dict[str, Figure]:
    return {**figures(summary), **score_figures(summary)}


class Page(HTMLParser):
    """The elements and the visible text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.parts: list[str] = []
        self.scripts: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.text = " ".join("".join(self.parts).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in {"script", "style"}:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self._open and self._open[-1] == tag:
            self._open.pop()

    def handle_data(self, data: str) -> None:
        if self._open:
            self.scripts.append(data)
        else:
            self.parts.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.elements if name == tag]


def page_of(summary: StudySummary) -> Page:
    return Page(report_html(summary))


@pytest.mark.parametrize("name", BUILDERS)
def test_nothing_is_loaded_from_anywhere(name: str) -> None:
    page = page_of(BUILDERS[name]())
    for tag, attrs in page.elements:
        assert "src" not in attrs, tag
        assert "style" not in attrs, tag
        assert not [key for key in attrs if key.startswith("on")], tag
        assert (attrs.get("href") or "#").startswith("#"), tag
    assert {tag for tag, _ in page.elements}.isdisjoint({"link", "iframe", "object", "embed", "img", "base"})
    policies = [attrs["content"] or "" for attrs in page.all("meta") if attrs.get("http-equiv")]
    assert len(policies) == 1
    assert policies[0].startswith("default-src 'none'; script-src 'sha256-")
    style = re.search(r"<style>(.*?)</style>", report_html(BUILDERS[name]()), re.DOTALL)
    assert style is not None
    assert "url(" not in style[1]
    assert "@import" not in style[1]


@pytest.mark.parametrize("name", BUILDERS)
def test_every_hypothesis_stands_in_the_report(name: str) -> None:
    summary = BUILDERS[name]()
    text = page_of(summary).text
    for row in summary.hypotheses:
        assert row.hypothesis.id in text
        assert " ".join(row.hypothesis.statement.split()) in text


def test_a_dropped_hypothesis_stands_there_with_the_reason() -> None:
    dropped = [row for row in promoted().hypotheses if row.verdict is Verdict.DROP]
    assert dropped
    text = page_of(promoted()).text
    assert all(" ".join(row.sentence.split()) in text for row in dropped)


def test_what_a_proposer_writes_is_escaped() -> None:
    html = report_html(hostile())
    page = Page(html)
    assert page.all("img") == []
    assert page.all("i") == []
    assert "<img src=x" not in html
    assert "&lt;img src=x onerror=" in html
    assert "{{ 7 * 7 }}" in page.text
    assert len(page.all("script")) == 3
    title = re.search(r"<title>(.*?)</title>", html)
    assert title is not None
    assert title[1] == "a&lt;/script&gt;&lt;i&gt;b: report"


def test_the_data_of_the_plots_cannot_end_their_script() -> None:
    html = report_html(hostile())
    match = re.search(r'<script type="application/json" id="figures">(.*?)</script>', html, re.DOTALL)
    assert match is not None
    assert not set("<>&") & set(match[1])
    data = json.loads(match[1])
    assert "&lt;/script&gt;" in json.dumps(data), "the plot shows the tag as text"


def test_the_headline_is_the_confirmed_gain_with_its_interval() -> None:
    text = page_of(promoted()).text
    assert "Confirmed: val_bpb lower by 0.074 (95 % interval 0.049 to 0.100, 3 fresh pairs at scale target)." in text
    assert "+0.074" in text
    assert "mean val_bpb of 3 runs at target that no decision chose" in text
    assert "at most 10 % of the promotions at a scale are expected to be false" in text


@pytest.mark.parametrize("build", [empty, calibrating, mid_round, null_study, failed_gate, failures])
def test_without_a_confirmation_no_gain_is_claimed(build: Any) -> None:
    text = page_of(build()).text
    assert "Confirmed:" not in text
    assert "Nothing " in text
    assert "no change was confirmed on fresh pairs" in text


def test_an_optimistic_reading_and_a_rule_without_guarantee_are_warned_of() -> None:
    text = page_of(greedy()).text
    assert "Optimistic reading. The objective is the best val_acc of each run's curve" in text
    assert "No error guarantee. A change was kept whenever one run is better" in text
    mean = page_of(replace(greedy(), rule="mean", read="last")).text
    assert "whenever the mean over several seeds is better" in mean
    assert "Optimistic reading" not in mean
    assert "No error guarantee" not in page_of(promoted()).text


def test_a_gain_below_the_target_scale_comes_with_a_caveat() -> None:
    summary = promoted()
    assert summary.confirmed_gain is not None
    proxy = replace(summary, confirmed_gain=replace(summary.confirmed_gain, scale="nano"))
    assert "Whether it holds at target was not measured." in page_of(proxy).text
    assert "Whether it holds at target" not in page_of(summary).text


def test_every_table_has_a_caption_and_every_plot_a_description() -> None:
    page = page_of(promoted())
    assert len(page.all("table")) == len(page.all("caption")) == 6
    plots = [attrs for attrs in page.all("div") if attrs.get("class") == "plot"]
    assert len(plots) == 8
    assert all(attrs["role"] == "img" and len(attrs["aria-label"] or "") > 40 for attrs in plots)
    assert [len(page.all(tag)) for tag in ("h1", "main", "header", "footer", "nav")] == [1] * 5
    labelled = {attrs["aria-labelledby"] for attrs in [*page.all("section"), *page.all("figure")]}
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert labelled <= set(ids)
    assert len(ids) == len(set(ids))
    targets = {(attrs["href"] or "")[1:] for attrs in page.all("a")}
    assert targets <= set(ids)


def test_headings_go_down_one_level_at_a_time() -> None:
    levels = [int(tag[1]) for tag, _ in page_of(promoted()).elements if re.fullmatch(r"h[1-6]", tag)]
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_only_changed_keys_are_marked() -> None:
    rows = re.findall(r"<tr( class=\"changed\")?><th scope=\"row\"><code>(.*?)</code>", report_html(promoted()))
    assert {key: bool(mark) for mark, key in rows} == {
        "model.init_args.lr": True,
        "model.init_args.depth": False,
        "optimizer.init_args.weight_decay": False,
        "model.init_args.activation": True,
    }


def test_a_diff_is_coloured_by_line_and_a_long_one_is_cut() -> None:
    html = report_html(promoted())
    assert '<span class="line remove">-  model: {lr: 0.003, activation: relu}</span>' in html
    assert '<span class="line add">+  model: {lr: 0.006, activation: gelu}</span>' in html
    assert '<span class="line at">+++ 0001.yaml</span>' in html
    long = RevisionRow(number=1, digest="ab", unified_diff="\n".join(f"+line {index}" for index in range(1000)))
    text = page_of(empty(revisions=(long,))).text
    assert "+line 399" in text
    assert "+line 400" not in text
    assert "... 600 more lines in specs/0001.yaml" in text


def test_each_failure_has_its_class_and_its_last_line() -> None:
    text = page_of(failures()).text
    for ending in (
        "error",
        "not finite",
        "metric missing",
        "out of memory",
        "timed out",
        "killed",
        "cancelled",
        "lost",
    ):
        assert f"1 {ending}" in text
    assert "out_of_memory: RuntimeError: mat1 and mat2 shapes cannot be multiplied" in text


def test_the_e_value_stands_against_its_threshold() -> None:
    html = report_html(promoted())
    assert '<td class="n">412</td><td class="n">85.2</td>' in html
    assert '<td class="n">infinite</td><td class="n">85.2</td>' in html
    assert "+0.081, +0.094, +0.078, +0.090" in html


def test_the_report_replaces_an_old_one_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deep" / "report.html"
    write_report(empty(), path)
    first = path.read_text(encoding="utf-8")
    assert first.startswith("<!doctype html>")
    assert path.stat().st_mode & 0o777 == 0o644

    def fail(source: str, target: str) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_report(promoted(), path)
    assert path.read_text(encoding="utf-8") == first
    assert [entry.name for entry in path.parent.iterdir()] == ["report.html"]


def test_a_broken_character_does_not_stop_the_report(tmp_path: Path) -> None:
    write_report(empty(messages=("a broken name: \udcff",)), tmp_path / "report.html")
    assert "a broken name: ?" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_plotting_data_needs_no_plotting_library() -> None:
    source = Path(figures_module.__file__).read_text(encoding="utf-8")
    assert "import plotly" not in source


def test_no_number_of_a_figure_is_infinite() -> None:
    for build in BUILDERS.values():
        for figure in all_figures(build()).values():
            json.dumps([figure.data, figure.layout], allow_nan=False)


def test_the_best_so_far_follows_the_mode_of_the_objective() -> None:
    for summary, better in ((promoted(), -1), (greedy(), 1)):
        line = next(trace for trace in figures(summary)["objective"].data if trace["name"] == "best run so far")
        steps = [better * (after - before) for before, after in itertools.pairwise(line["y"])]
        assert len(steps) > 1
        assert min(steps) >= 0


def test_failed_trials_are_marks_at_the_bottom() -> None:
    figure = figures(failures())["objective"]
    failed = next(trace for trace in figure.data if trace["name"] == "no result")
    assert failed["x"] == list(range(10, 19))
    low, high = figure.layout["yaxis"]["range"]
    assert all(low < y < low + 0.1 * (high - low) for y in failed["y"])
    finished = [y for trace in figure.data if trace is not failed for y in trace["y"]]
    assert max(failed["y"]) < min(finished)


def test_the_band_of_the_gains_is_two_standard_deviations_wide_on_each_side() -> None:
    band = figures(promoted())["gains"].layout["shapes"][1]
    assert (band["y0"], band["y1"]) == (-0.024, 0.024)


def test_the_pareto_front_has_no_point_that_another_beats() -> None:
    points = [(1.0, 5.0), (2.0, 4.0), (2.0, 3.0), (3.0, 3.5), (4.0, 1.0)]
    assert pareto(points, mode="min") == [(1.0, 5.0), (2.0, 3.0), (4.0, 1.0)]
    assert pareto(points, mode="max") == [(1.0, 5.0)]
    assert pareto([], mode="min") == []


def test_thinning_keeps_the_ends() -> None:
    thinned = thin(range(10_000), most=100)
    assert len(thinned) == 100
    assert (thinned[0], thinned[-1]) == (0, 9999)
    assert thin([1, 2], most=100) == [1, 2]


def test_plotly_shows_tags_as_text() -> None:
    assert plain("<b>&") == "&lt;b&gt;&amp;"


def test_five_thousand_trials_stay_below_eight_megabytes_and_ten_seconds() -> None:
    summary = large()
    statement = "A claim of the longest kind that is <i>still</i> shown. " * 20
    rows = tuple(replace(row, hypothesis=replace(row.hypothesis, statement=statement)) for row in summary.hypotheses)
    start = time.monotonic()
    html = report_html(replace(summary, hypotheses=rows))
    assert time.monotonic() - start < 10
    assert len(html.encode()) < 8_000_000
    assert f"{len(rows) - HYPOTHESES:,} dropped or void ones are left out here" in html
    for figure in all_figures(summary).values():
        longest = max((len(trace["x"]) for trace in figure.data), default=0)
        assert longest <= max(POINTS, CURVES * (CURVE_POINTS + 1))


def test_who_was_right_is_told_in_words_and_in_a_table() -> None:
    text = page_of(with_scientist()).text
    assert "Better than chance: Brier score 0.123 against 0.250 over 48 predictions (difference -0.1" in text
    assert "Not to be told from chance: Brier score 0.219 against 0.215" in text
    assert "gpt-5.5 predicts better than the sampler (difference -0.1" in text
    assert "No trend to be seen: Brier score 0.117 in the first half, 0.129 in the second" in text
    assert "84 % of 45 intervals stated as 80 % intervals held the measured gain" in text
    row = re.search(r'<tr><th scope="row">gpt-5.5</th>(.*?)</tr>', report_html(with_scientist()))
    assert row is not None
    cells = re.findall(r'<td class="n">(.*?)</td>', row[1])
    assert cells == ["48", "2", "23 (48 %)", "0", "+0.034", "0.123", "0.250", "84 % of 45", "612,000", "1.84 USD"]


def test_few_predictions_lead_to_no_conclusion() -> None:
    text = page_of(promoted()).text
    assert "Unknown whether better than chance: 15 predictions are needed, and there are 3" in text
    assert "Unknown whether gpt-5.5 predicts better than the sampler" in text
    assert "Better than chance:" not in text


def test_a_foolish_model_is_called_worse_than_chance() -> None:
    text = page_of(with_scientist(skilled=False)).text
    assert "Worse than chance: Brier score" in text
    assert "gpt-5.5 predicts worse than the sampler" in text
    assert "of 45 intervals stated as 80 % intervals held the measured gain" in text
    assert "they are too narrow." in text


@pytest.mark.parametrize("build", [empty, calibrating, failures])
def test_without_an_answered_prediction_there_is_no_judgement(build: Any) -> None:
    page = page_of(build())
    assert "Who was right" not in page.text
    assert "who-was-right" not in [attrs.get("id") for attrs in page.all("h2")]


def test_a_gain_without_an_answered_prediction_leaves_no_plot_without_a_place() -> None:
    summary = null_study()
    void = tuple(replace(row, verdict=Verdict.VOID, screened=Verdict.VOID) for row in summary.hypotheses)
    html = report_html(replace(summary, hypotheses=void))
    data = re.search(r'<script type="application/json" id="figures">(.*?)</script>', html, re.DOTALL)
    assert data is not None
    assert {f"plot-{name}" for name in json.loads(data[1])} == set(re.findall(r'id="(plot-\w+)"', html))


def test_an_offline_study_shows_the_samplers_calibration_alone() -> None:
    text = page_of(null_study()).text
    assert "Who was right" in text
    assert "Against each other" not in text
    assert "Language modelnone used" in text
    assert "Repairs" not in text


def test_the_language_models_use_and_budget_are_told() -> None:
    html = report_html(with_scientist())
    for fact in (
        ("Model", "gpt-5.5", "served as gpt-5.5-2026-08"),
        ("Calls", "31", "26 answered; 8 min 53 s of waiting"),
        ("Repairs", "4", "replies that went back with their faults, in 22 proposals"),
        ("Faults", "4", "3 rate limited, 1 timed out, 1 interrupted"),
        ("Tokens", "612,000", "of 2,000,000 that the budget allows"),
        ("Cost", "1.84 USD", "of 5.00 USD that the budget allows"),
        (
            "Cost per confirmed improvement",
            "none yet",
            "0 confirmed improvements; the study ends beyond 2.50 USD",
        ),
    ):
        assert "<dt>{}</dt><dd>{}</dd><dd>{}</dd>".format(*fact) in html
    assert "<blockquote>Rates above 0.02 diverge.\nThe gain" in html
    assert "<dt>Cost per confirmed improvement</dt><dd>0.35 USD</dd><dd>1 confirmed" in report_html(promoted())


def test_a_statement_is_quoted_with_its_kind_and_what_it_cites() -> None:
    html = report_html(with_scientist())
    assert '</q> <span class="small">gpt-5.5; schedule hypothesis; cites notes/lr.md:12</span>' in html
    assert '</q> <span class="small">sampler</span>' in html


def test_what_a_model_writes_is_neither_markup_nor_markdown() -> None:
    html = report_html(hostile())
    page = Page(html)
    assert "**bold** [x](javascript:alert(1))" in page.text
    assert page.all("strong") == [{}], "the rule's name alone"
    assert not [attrs for attrs in page.all("a") if "javascript" in (attrs["href"] or "")]
    assert "cites &lt;script&gt;document.title=" in html
    assert len(page.all("script")) == 3


def test_the_reliability_diagram_counts_every_prediction() -> None:
    data = score_figures(with_scientist())["calibration"].data
    assert [trace["name"] for trace in data] == ["gpt-5.5", "gpt-5.5, intervals", "sampler", "sampler, intervals"]
    model, intervals, sampler, _ = data
    assert model["x"] == [0.05, 0.1, 0.8, 0.95]
    assert sum(map(int, model["text"])) == 48
    assert (sampler["x"], sampler["text"]) == ([0.25], ["48"])
    assert intervals["x"] == [0.8]
    for trace in data:
        bars = trace["error_y"]
        tops = [y + up for y, up in zip(trace["y"], bars["array"], strict=True)]
        floors = [y - down for y, down in zip(trace["y"], bars["arrayminus"], strict=True)]
        assert max(tops) <= 1 + 1e-5
        assert min(floors) >= -1e-5


def test_the_brier_score_by_round_stands_beside_chance() -> None:
    data = score_figures(with_scientist())["brier"].data
    assert [trace["name"] for trace in data] == ["gpt-5.5", "gpt-5.5, chance", "sampler", "sampler, chance"]
    assert all(trace["x"] == [1, 2, 3, 4] for trace in data)
    assert score_figures(null_study())["brier"].data == [], "one round is no series"


def test_stated_intervals_are_drawn_unless_they_are_many() -> None:
    few = score_figures(with_scientist(rounds=2))["predictions"]
    assert all("error_x" in trace for trace in few.data)
    assert "Bars are the stated 80 % intervals." in few.caption
    many = with_scientist(rounds=4)
    assert len(many.hypotheses) > BARS
    assert not any("error_x" in trace for trace in score_figures(many)["predictions"].data)


def dump(page: Path, *flags: str) -> tuple[str, str]:
    """The page as the browser has it in the end, without a network, and what its console said."""
    assert CHROMIUM is not None
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={page.parent / 'profile'}",
        "--enable-logging=stderr", "--v=0", "--virtual-time-budget=20000", *flags, "--dump-dom", page.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    console = "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)
    return done.stdout, console


def root_data(dom: str) -> dict[str, str]:
    opening = re.search(r"<html[^>]*>", dom)
    assert opening is not None
    return dict(re.findall(r'data-(\w+)="([^"]*)"', opening[0]))


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
@pytest.mark.parametrize(
    ("name", "plots"),
    [
        ("empty", 0),
        ("calibrating", 3),
        ("promoted", 8),
        ("failures", 3),
        ("hostile", 6),
        ("greedy", 8),
        ("with_scientist", 7),
    ],
)
def test_in_a_browser_every_plot_is_drawn_and_nothing_goes_wrong(name: str, plots: int, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_report(BUILDERS[name](), path)
    assert len([each for each in all_figures(BUILDERS[name]()).values() if each.data]) == plots
    dom, console = dump(path)
    assert root_data(dom) == {"errors": "0", "plots": str(plots)}
    assert console == ""
    assert "owned" not in (re.search(r"<title>(.*?)</title>", dom) or [""])[0]


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
def test_in_a_browser_a_large_study_is_drawn(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_report(large(), path)
    dom, console = dump(path)
    assert root_data(dom) == {"errors": "0", "plots": "7"}
    assert console == ""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")
def test_in_a_browser_a_heading_sorts_the_table_and_the_plots_take_the_dark_colours(tmp_path: Path) -> None:
    probe = """<script>(() => {
      const cells = () => Array.from(document.querySelectorAll("table.sortable tbody th"));
      const ids = () => cells().map((cell) => cell.textContent).join(" ");
      const button = document.querySelectorAll("table.sortable th button")[3];
      const told = document.documentElement.dataset;
      button.click(); told.up = ids();
      button.click(); told.down = ids();
      told.sorted = button.closest("th").getAttribute("aria-sort");
      setTimeout(() => {
        told.title = document.querySelector("#plot-gains .xtitle").style.fill.replaceAll(" ", "");
        told.wide = String(document.documentElement.scrollWidth <= innerWidth);
      }, 6000);
    })()</script></body>"""
    html = re.sub(r"<meta http-equiv[^>]*>", "", report_html(promoted())).replace("</body>", probe)
    path = tmp_path / "report.html"
    path.write_text(html, encoding="utf-8")
    dom, console = dump(path, "--blink-settings=preferredColorScheme=0", "--window-size=500,900")
    data = root_data(dom)
    assert console == ""
    assert data["up"] == "h1 h5 h2 h4 h3 h6", "hypotheses without a gain come last"
    assert data["down"] == "h4 h2 h5 h1 h3 h6"
    assert data["sorted"] == "descending"
    assert data["title"] == "rgb(231,234,237)"
    assert data["wide"] == "true", "the page itself must not scroll sideways"


def test_trials_validated_once_have_no_curves_and_the_report_says_so():
    summary = BUILDERS["promoted"]()
    once = tuple(
        replace(row, result=row.result and replace(row.result, curve=row.result.curve[-1:])) for row in summary.trials
    )
    page = report_html(replace(summary, trials=once))
    assert "Every trial was validated once, at its end, so there are no curves" in page
