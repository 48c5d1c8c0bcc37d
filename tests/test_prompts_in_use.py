"""Prompts of real studies, and what a reader who had nothing else made of them.

The records in `fixtures/scientist/` come from studies of the GPT and digits recipes that were run through a mailbox,
from their first round to a late one.  Each holds the briefing, the prompt as it was sent, and the first reply to it,
before any repair.  Paths of the machine were replaced.
"""

from __future__ import annotations

import json
import lzma
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from lightning_autoresearch import codec
from lightning_autoresearch.bundled import recipes_root
from lightning_autoresearch.contract import Contract, Reading, read_reply, reply_schema
from lightning_autoresearch.hypothesis import Briefing
from lightning_autoresearch.knobs import knobs_of
from lightning_autoresearch.prompt import Dossier, messages, quotes
from lightning_autoresearch.scientist import make_dossier
from lightning_autoresearch.spec import parse_spec

FIXTURES = Path(__file__).parent / "fixtures" / "scientist"
STUDIES = sorted(path.name.removesuffix(".json.xz") for path in FIXTURES.glob("*.json.xz"))


@cache
def record(study: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(lzma.decompress((FIXTURES / f"{study}.json.xz").read_bytes()))
    return data


@cache
def dossier(study: str) -> Dossier:
    spec = parse_spec(record(study)["spec"], path=FIXTURES / study / "spec.yaml")
    path = (str(recipes_root()),)
    return make_dossier(spec, knobs=knobs_of(spec, search_path=path), search_path=path)


def briefing_of(call: dict[str, Any]) -> Briefing:
    return codec.from_json(call["briefing"], Briefing)


def contract_of(study: str, briefing: Briefing) -> Contract:
    places = {passage.place for passage in quotes(dossier(study), briefing)}
    about = dossier(study)
    return Contract.of(about.spec, briefing, knobs=about.knobs, quotes=places, source="reader")


def reading_of(study: str, call: dict[str, Any]) -> Reading:
    return read_reply(call["reply"], contract_of(study, briefing_of(call)))


def calls() -> list[tuple[str, dict[str, Any]]]:
    return [(study, call) for study in STUDIES for call in record(study)["calls"]]


def test_the_records_span_both_recipes_from_the_first_round_to_a_plateau():
    classes = {record(study)["spec"].split("class_path: ")[1].split()[0] for study in STUDIES}
    assert classes == {"recipes.gpt.GPT", "recipes.digits.DigitsNet"}
    briefings = [briefing_of(call) for _, call in calls()]
    assert len(briefings) >= 30
    assert min(briefing.round for briefing in briefings) == 1
    assert max(briefing.round for briefing in briefings) >= 6
    assert any(gate.promoted for briefing in briefings for gate in briefing.gates)
    assert any(finding.failure for briefing in briefings for finding in briefing.findings)
    assert any(briefing.stale_rounds >= 2 for briefing in briefings)


def test_at_least_nine_of_ten_replies_apply_without_repair():
    faults = {f"{study} {call['key']}": reading_of(study, call).faults for study, call in calls()}
    good = sum(not found for found in faults.values())
    assert good >= 0.9 * len(faults), {key: found for key, found in faults.items() if found}


def test_a_reply_that_applies_says_something():
    for study, call in calls():
        reading = reading_of(study, call)
        if not reading.faults:
            assert reading.hypotheses or reading.space_edits, (study, call["key"])
            assert reading.analysis


@pytest.mark.parametrize("study", STUDIES)
def test_the_prompt_of_today_can_still_be_made_of_every_briefing(study):
    for call in record(study)["calls"]:
        briefing = briefing_of(call)
        schema = reply_schema(contract_of(study, briefing))
        said = "".join(message.content for message in messages(dossier(study), briefing, schema=schema))
        assert len(said) <= 40_000
        assert briefing.metric in said
        for key in briefing.space:
            assert f"/search_space/{key}" in said


@pytest.mark.parametrize("study", STUDIES)
def test_no_hidden_guard_is_named_in_a_prompt(study):
    hidden = [guard.metric for guard in dossier(study).spec.guards if guard.hidden]
    assert hidden
    for call in record(study)["calls"]:
        assert not any(name in text for name in hidden for _, text in call["prompt"])
