"""The history of a study in few words."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_autoresearch.history import (
    Rooms,
    Setting,
    Tone,
    digest,
    events_of,
    laid_out,
    line_of,
    records_of,
    regions_of,
    summary,
    tell,
    value_text,
)
from lightning_autoresearch.hypothesis import Briefing, Finding, GateFinding
from lightning_autoresearch.spec import load_spec
from lightning_autoresearch.trial import TrialStatus
from lightning_autoresearch.wording import short_names
from tests.long_study import long_study

ROOT = Path(__file__).parent.parent
ROOMS = Rooms(digest=6000, summaries=2000, summary=150, block=1200)


@cache
def study() -> tuple[Briefing, ...]:
    return tuple(long_study(load_spec(ROOT / "specs" / "quickstart.yaml"), rounds=200, per_round=4))


def tone() -> Tone:
    return Tone(names=short_names(study()[0].space), sd=0.03, places=3, say=lambda text, most: text[:most])


def test_gates_follow_the_last_hypothesis_of_their_round():
    events = events_of(study()[-1])
    assert len(events) == len(study()[-1].findings) + len(study()[-1].gates)
    rounds = [(event.round, isinstance(event, GateFinding)) for event in events]
    assert rounds == sorted(rounds)


def test_later_events_are_added_at_the_end():
    for before, now in zip(study(), study()[1:], strict=False):
        assert events_of(now)[: len(events_of(before))] == events_of(before)


def test_the_text_grows_at_its_end_except_where_a_block_is_full():
    told = [tell(briefing, rooms=ROOMS, tone=tone()).text for briefing in study()]
    grown = [now.startswith(before) for before, now in itertools.pairwise(told)]
    assert sum(grown) >= 0.5 * len(grown)
    full = ROOMS.digest + ROOMS.summaries + ROOMS.block
    assert max(map(len, told)) <= full + 300
    assert min(map(len, told[-100:])) >= 0.6 * full


@given(st.lists(st.integers(1, 400), max_size=300))
def test_the_layout_is_a_fold(lengths):
    rooms = Rooms(digest=2000, summaries=600, summary=150, block=500)
    before = laid_out(lengths[:-1], rooms)
    now = laid_out(lengths, rooms)
    assert now.digested >= before.digested
    if now.digested == before.digested:
        assert now.ends[: len(before.ends)] == before.ends
    assert len(now.ends) * rooms.summary <= rooms.summaries
    newest = sum(lengths[now.lines_from :])
    limit = rooms.block if now.digested else rooms.digest + rooms.summaries + rooms.block
    assert newest <= limit or now.lines_from == len(lengths) - 1
    assert now.digested <= now.lines_from <= len(lengths)


def test_a_digest_keeps_to_its_room_and_names_every_key():
    events = events_of(study()[-1])
    lines = [line_of(event, tone()) for event in events]
    for room in (1500, 3000, 6000, 12_000):
        text = digest(events, lines, room=room, tone=tone())
        assert 0.85 * room <= len(text) <= room
        for key in study()[-1].space:
            assert f"\n{key.rpartition('.')[2]}: " in text


def test_the_digest_counts_all_tests_of_a_key():
    findings = study()[-1].findings
    record = records_of(findings)["model.init_args.lr"]
    mine = [one for one in findings if "model.init_args.lr" in one.hypothesis.overrides and not one.void]
    assert record.tests == len(mine)
    assert record.kept == sum(one.kept for one in mine)
    assert record.failed == sum(one.status is not TrialStatus.FINISHED for one in mine)
    assert len(record.alone) == sum(len(one.hypothesis.overrides) == 1 for one in mine)


def test_void_findings_say_nothing_of_a_key():
    (first, *_) = (one for one in study()[-1].findings if not one.kept and one.status is TrialStatus.FINISHED)
    assert records_of([replace(first, void=True)]) == {}
    assert records_of([replace(first, status=TrialStatus.LOST, void=False)]) == {}


def test_a_summary_keeps_to_its_room_and_names_what_was_kept():
    events = [event for event in events_of(study()[-1]) if isinstance(event, Finding)][:12]
    kept = next(event for event in events if event.kept)
    text = summary(events, room=300, tone=tone())
    assert len(text) <= 300
    assert text.startswith(f"[{events[0].hypothesis.id} to {events[-1].hypothesis.id}]")
    assert " In vain " in text or " Kept " in text
    assert " Kept " in summary([kept], room=300, tone=tone())
    assert len(summary(events, room=60, tone=tone())) <= 60


def test_regions_are_neighbouring_values_with_about_equally_many():
    tests = [Setting(value / 10, -0.1, False) for value in range(100)]
    groups = regions_of(tests, most=4)
    assert [len(group) for group in groups] == [25, 25, 25, 25]
    assert all(max(a.value for a in one) < min(b.value for b in other) for one, other in itertools.pairwise(groups))


def test_values_without_an_order_are_told_apart():
    tests = [Setting(value, 0.1, True) for value in ("gelu", "silu", "gelu", True, False, None, 3)]
    groups = regions_of(tests, most=9)
    assert sorted(len(group) for group in groups) == [1, 1, 1, 1, 1, 2]


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (0.003, "0.003"),
        (True, "true"),
        (None, "null"),
        ("gelu", "gelu"),
        ("torch.nn.GELU", "torch.nn.GELU"),
        ("two words\n# x", '"two words\\n# x"'),
        ("x" * 100, "x" * 45 + "..."),
    ],
)
def test_values_are_told_in_few_characters(value, told):
    assert value_text(value) == told


def test_a_gain_that_rounds_to_nothing_has_no_sign():
    assert [tone().gain(value) for value in (0.0004, -0.0004, 0.0, 0.0123, -2.0)] == [
        "0.000",
        "0.000",
        "0.000",
        "+0.012",
        "-2.000",
    ]
    assert replace(tone(), places=None).gain(0.000123456) == "+0.000123"
