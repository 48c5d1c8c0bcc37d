"""The next revision of the spec: what was promoted, in the user's own text, with the evidence on top."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lightning_autoresearch.classes import ClassText
from lightning_autoresearch.decision import Decision
from lightning_autoresearch.document import parse
from lightning_autoresearch.hypothesis import Hypothesis
from lightning_autoresearch.knobs import fitted, keys_without_effect, unfitting_keys
from lightning_autoresearch.rewrite import (
    changes_in_words,
    inline_config,
    ops_between,
    rewrite,
    text_digest,
    unified_diff,
    with_header,
)
from lightning_autoresearch.source import names_config
from lightning_autoresearch.space import (
    Categorical,
    Domain,
    Float,
    SearchSpace,
    Value,
    apply_overrides,
    get_key,
    has_key,
    lies_in,
)
from lightning_autoresearch.spec import Spec


@dataclass(frozen=True, kw_only=True, slots=True)
class Revision:
    """A promotion, ready to be written."""

    number: int
    """Number of the revision; the user's own text is 0."""
    config: Mapping[str, Value]
    """Value of every key that is or was in the search space."""
    hypotheses: tuple[Hypothesis, ...]
    """What it contains beyond its parent."""
    evidence: tuple[tuple[str, Decision], ...]
    """(name of the scale, the gate's decision), from cheap to dear; empty under a rule without gates."""
    total: Mapping[str, Any] | None
    """Confirmed gain over revision 0: scale, mean, low, high, pairs."""
    step: Mapping[str, Any] | None
    """The same over its parent."""


class Reviser:
    """Writes the revisions of one study into its `specs/` folder.

    Args:
        spec: the user's spec.
        text: its text when the study began, which revision 0 keeps byte for byte.
        config_text: text of the file that the task named then; None where the task stands in the spec.
        folder: the study's folder.
        class_texts: the classes that a `class_path` may be switched to, by class path.

    Attributes:
        space: the search space as it is now; edits of it enter the text with the next revision.
    """

    def __init__(
        self,
        spec: Spec,
        *,
        text: str,
        config_text: str | None,
        folder: Path,
        class_texts: Mapping[str, ClassText | None] = MappingProxyType({}),
    ):
        self.spec = spec
        self._class_texts = class_texts
        self._config_text = config_text
        self.folder = folder / "specs"
        self.space: SearchSpace = spec.search_space
        self._parent = text
        self.keep(0, text)

    def keep(self, number: int, text: str) -> Path:
        """Write a revision's file unless it is there already with this very text."""
        path = self.folder / f"{number:04d}.yaml"
        data = text.encode()
        if not path.is_file() or path.read_bytes() != data:
            self.folder.mkdir(parents=True, exist_ok=True)
            draft = path.with_suffix(".tmp")
            with draft.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        return path

    def without_effect(self, config: Mapping[str, Value]) -> frozenset[str]:
        """The keys of a configuration that its classes do not take."""
        return keys_without_effect(config, base_task=self.spec.task, class_texts=self._class_texts)

    def write(self, revision: Revision) -> dict[str, Any]:
        """Make the text of a revision and write its file.

        Returns:
            The record for the journal, the whole text in it.
        """
        parent = self._parent
        body = self._body(parent)
        old = parse(body).data
        new = self._target(old, revision)
        text = rewrite(body, ops_between(old, new))
        text = with_header(text, self._header(revision, parent))
        self._parent = text
        self.keep(revision.number, text)
        return {
            "number": revision.number,
            "digest": text_digest(text),
            "parent": text_digest(parent),
            "changes": list(changes_in_words(old, new)),
            "hypotheses": [hypothesis.id for hypothesis in revision.hypotheses],
            "incumbent": dict(revision.config),
            "total": revision.total and dict(revision.total),
            "step": revision.step and dict(revision.step),
            "diff": unified_diff(
                parent, text, old_name=f"{revision.number - 1:04d}.yaml", new_name=f"{revision.number:04d}.yaml"
            ),
            "text": text,
        }

    def _body(self, parent: str) -> str:
        """The parent's text with its task in place, where it named a file for it."""
        if self._config_text is not None and task_file(parent):
            return inline_config(parent, self._config_text)
        return parent

    def _target(self, old: Mapping[str, Any], revision: Revision) -> dict[str, Any]:
        """The data that the revision shall have: the user's, with task and search space as they were used."""
        before, seed = self.spec.search_space.domains, self.spec.data["search_space"]
        space = {
            key: seed[key] if domain == before.get(key) else _domain_data(domain, seed=seed.get(key, {}))
            for key, domain in self.space.domains.items()
        }
        if self.spec.live:
            return {**old, **self._live_task(old, revision.config), "search_space": space}
        task = apply_overrides(self.spec.data["task"], revision.config)
        arguments: dict[str, Any] = {"base_task": self.spec.data["task"], "class_texts": self._class_texts}
        gone = unfitting_keys(task, **arguments)
        return {
            **old,
            "task": fitted(task, **arguments),
            "search_space": {key: domain for key, domain in space.items() if not lies_in(key, gone)},
        }

    def _live_task(self, old: Mapping[str, Any], config: Mapping[str, Value]) -> dict[str, Any]:
        """The task of a text that holds only what differs from the program's objects."""
        own, base = old.get("task") or {}, self.spec.task
        differ = {key: value for key, value in config.items() if has_key(own, key) or get_key(base, key) != value}
        return {"task": apply_overrides(own, differ)} if differ else {}

    def _header(self, revision: Revision, parent: str) -> list[str]:
        metric = self.spec.objective.metric
        lines = [
            f"revision {revision.number} of study {self.spec.name}; "
            f"its parent is revision {revision.number - 1}, sha256 {text_digest(parent)[:16]}",
            f"gain over revision 0: {_gain_in_words(revision.total, metric)}",
        ]
        if revision.number > 1:
            lines.append(f"gain over its parent: {_gain_in_words(revision.step, metric)}")
        lines += [f"gate at scale {scale}: {decision.sentence}" for scale, decision in revision.evidence]
        if not revision.evidence:
            lines.append(f"rule {self.spec.decision.rule}: no gate, no error guarantee")
        lines += [
            f"{hypothesis.id} ({hypothesis.source}): {hypothesis.statement}" for hypothesis in revision.hypotheses
        ]
        return lines


def task_file(text: str) -> str | None:
    """The file that a spec's text names as its task, as it is written there; None where the task stands in the text."""
    task = parse(text).data.get("task")
    return str(task["config"]) if isinstance(task, dict) and names_config(task) else None


def _gain_in_words(gain: Mapping[str, Any] | None, metric: str) -> str:
    if gain is None:
        return "not measured"
    interval = (
        f"95 % interval {gain['low']:.4g} to {gain['high']:.4g}"
        if gain["low"] is not None and gain["high"] is not None
        else "interval unbounded"
    )
    return f"{metric} better by {gain['mean']:.4g} ({interval}; {gain['pairs']} fresh pairs at scale {gain['scale']})"


def _domain_data(domain: Domain, *, seed: Mapping[str, Any]) -> dict[str, Any]:
    """A domain as the spec writes it: keys in the order of `seed`, and its scale said where that says one."""
    if isinstance(domain, Categorical):
        data: dict[str, Any] = {"type": "categorical", "choices": list(domain.choices)}
    else:
        data = {"type": "float" if isinstance(domain, Float) else "int", "low": domain.low, "high": domain.high}
        if domain.scale != "linear" or "scale" in seed:
            data["scale"] = domain.scale
    return {**{key: data[key] for key in seed if key in data}, **data}
