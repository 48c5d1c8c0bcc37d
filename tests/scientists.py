"""Scientists for tests: replies as the contract wants them, and a model that knows the simulated world."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from lightning_autoresearch.chat import ChatReply, ChatRequest, Outcome, Usage
from lightning_autoresearch.fold import Fold
from lightning_autoresearch.journal import Entry

WITH_SCIENTIST = "scientist: {model: expert, base_url: 'http://127.0.0.1:9/v1'}\n"


def op(kind: str, path: str, *, old: Any = None, value: Any = None, why: str = "a test") -> dict[str, str]:
    """One op of a reply."""
    return {"op": kind, "path": path, "old_json": json.dumps(old), "value_json": json.dumps(value), "why": why}


def idea(
    *ops: Mapping[str, str],
    metric: str = "loss",
    delta: float = -0.1,
    probability: float = 0.7,
    kind: str = "value",
    statement: str = "It helps.",
    cites: tuple[str, ...] = (),
) -> dict[str, Any]:
    """One hypothesis of a reply."""
    prediction = {
        "metric": metric,
        "delta": delta,
        "delta_low": delta - 0.2,
        "delta_high": delta + 0.2,
        "probability": probability,
    }
    return {
        "statement": statement,
        "mechanism": "Because.",
        "kind": kind,
        "prediction": prediction,
        "cites": list(cites),
        "ops": list(ops),
    }


def reply(*ideas: Mapping[str, Any], analysis: str = "As far as it goes.") -> str:
    """A whole reply."""
    return json.dumps({"analysis": analysis, "hypotheses": list(ideas)})


def answered(text: str, *, tokens: int = 100) -> ChatReply:
    """A reply of a server that counts."""
    return ChatReply(
        outcome=Outcome.ANSWERED,
        text=text,
        model="expert-1",
        usage=Usage(input_tokens=tokens, output_tokens=tokens),
        rung="json_schema",
    )


class Expert:
    """A model that walks towards the optimum of `worlds.loss`; it listens to the journal to know the branch.

    Args:
        ideas: makes the ideas from the branch; by default one step of each of lr, act, depth.
        tokens: what every call counts, in and out.
    """

    def __init__(self, ideas: Callable[[Mapping[str, Any]], list[dict[str, Any]]] | None = None, *, tokens: int = 100):
        self.name = "expert"
        self.requests: list[ChatRequest] = []
        self._ideas = ideas or steps_towards_the_optimum
        self._tokens = tokens
        self._fold: Fold | None = None
        self._stated: set[str] = set()

    def listening_to(self, fold: Fold) -> Expert:
        self._fold = fold
        return self

    def on_entry(self, entry: Entry) -> None:
        assert self._fold is not None
        self._fold.on_entry(entry)

    def ask(self, request: ChatRequest, *, stop: Callable[[], bool]) -> ChatReply:
        self.requests.append(request)
        assert self._fold is not None
        branch = self._fold.summary().branch
        new = [one for one in self._ideas(branch) if json.dumps([branch, one["ops"]]) not in self._stated][:4]
        return answered(reply(*(self._remembered(branch, one) for one in new)), tokens=self._tokens)

    def _remembered(self, branch: Mapping[str, Any], idea: dict[str, Any]) -> dict[str, Any]:
        self._stated.add(json.dumps([branch, idea["ops"]]))
        return idea


def setting(branch: Mapping[str, Any], name: str, value: Any, **about: Any) -> dict[str, Any]:
    """The idea to set one argument of the world's model."""
    path = f"/task/model/init_args/{name}"
    return idea(op("set", path, old=branch[f"model.init_args.{name}"], value=value), **about)


def steps_towards_the_optimum(branch: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Ideas for a branch, the best ones first; `Expert` leaves out what it said of this branch before."""
    args = {key.rsplit(".", 1)[1]: value for key, value in branch.items()}
    ideas = []
    if args["lr"] < 0.009:
        ideas.append(setting(branch, "lr", round(min(args["lr"] * 3, 0.01), 5), probability=0.9))
    if args["act"] != "gelu":
        ideas.append(setting(branch, "act", "gelu", probability=0.8, kind="architecture"))
    if args["depth"] < 4:
        ideas.append(setting(branch, "depth", args["depth"] + 1, probability=0.6, kind="architecture"))
    lower = [setting(branch, "lr", round(args["lr"] * factor, 6), probability=0.2) for factor in (0.9, 1.1, 0.8, 1.2)]
    return ideas + lower + [setting(branch, "idle", number / 50, probability=0.1) for number in range(50)]
