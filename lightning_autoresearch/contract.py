"""The contract with a language model: the schema of its reply, and how a reply is read.

A reply is data, never an instruction: its ops are looked up in a fixed list of pointers, and all that comes out is
values for knobs and edits of the search space.  A hypothesis is taken whole or not at all, and every fault is named in
words that the model can mend it by.  The rules that the study itself keeps (`policy`) are checked again when the
hypothesis arrives there.
"""

from __future__ import annotations

import difflib
import itertools
import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any, TypeAlias

from lightning_autoresearch import codec, policy
from lightning_autoresearch.bundled import resource
from lightning_autoresearch.checks import show, suggest
from lightning_autoresearch.classes import ClassText
from lightning_autoresearch.document import join_pointer
from lightning_autoresearch.hypothesis import Briefing, Hypothesis, Prediction, SpaceEdit
from lightning_autoresearch.jsontext import Unreadable, clean, find_object, loads
from lightning_autoresearch.knobs import Knob, keys_without_effect, with_parents
from lightning_autoresearch.rewrite import guard, protected_digest
from lightning_autoresearch.space import Categorical, Domain, SearchSpace, Value, apply_overrides, canonical
from lightning_autoresearch.spec import Mode, Spec

MAX_OPS = 20
"""Most ops of one hypothesis."""
LARGEST_DELTA = 1e12
"""Largest size of a predicted change and of its bounds."""
MAX_FAULTS = 30
"""Most faults that are named at once."""
MOST_CHARACTERS: Mapping[str, int] = {"statement": 400, "mechanism": 1500, "why": 400, "analysis": 6000}
"""Longest texts that are kept; what is beyond is cut off."""
ENUM_LIMIT = 250
"""Number of strings in all lists of options together from which on a server may refuse a schema."""

Place: TypeAlias = tuple[str, str]
"""A pointer's section (`task` or `search_space`) and the dotted key that it means."""

_BAD: Any = object()


@dataclass(frozen=True, kw_only=True)
class Contract:
    """What a reply to one briefing may say."""

    metric: str
    """Name of the objective."""
    mode: Mode
    """Whether smaller or larger is better."""
    wanted: int
    """How many hypotheses are asked for."""
    source: str
    """Name under which the hypotheses go."""
    space: SearchSpace
    """The search space now."""
    branch: Mapping[str, Value]
    """The branch's value of every key that is or was in the search space."""
    incumbent: Mapping[str, Value]
    """The same of the confirmed configuration."""
    knobs: Mapping[str, Knob]
    """What may be set, by key."""
    max_changes: int
    """Largest number of keys that one hypothesis may set."""
    max_factor: float
    """Largest factor by which a positive number may change."""
    tried: frozenset[str]
    """Canonical forms of the configurations that were screened."""
    quotes: frozenset[str]
    """Places of the passages that stand in the prompt."""
    data: Mapping[str, Any]
    """The spec as plain data, for the guard."""
    classes: Mapping[str, ClassText | None] = field(default_factory=dict)
    """The classes that a `class_path` may be switched to, by class path, for what they take."""

    @classmethod
    def of(
        cls,
        spec: Spec,
        briefing: Briefing,
        *,
        knobs: Mapping[str, Knob],
        quotes: Collection[str] = (),
        source: str,
        classes: Mapping[str, ClassText | None] = MappingProxyType({}),
    ) -> Contract:
        """The contract for a briefing.

        Args:
            spec: the user's spec.
            briefing: what the model is told.
            knobs: what `knobs_of` gave for the spec.
            quotes: places of the passages that stand in the prompt; nothing else can be cited.
            source: name under which the hypotheses go.
            classes: the classes that a `class_path` may be switched to; arguments that one of them does not take are
                refused while it is used.
        """
        return cls(
            metric=briefing.metric,
            mode=briefing.mode,
            wanted=briefing.wanted,
            source=source,
            space=briefing.space,
            branch=briefing.branch,
            incumbent=briefing.incumbent,
            knobs=knobs,
            max_changes=briefing.max_changes,
            max_factor=briefing.max_factor,
            tried=briefing.tried,
            quotes=frozenset(quotes),
            data=spec.data,
            classes=classes,
        )

    @cached_property
    def pointers(self) -> Mapping[str, Place]:
        """The editable pointers and what they mean; the same in every briefing of a study."""
        task = {join_pointer("task", *key.split(".")): ("task", key) for key in self.knobs}
        return task | {join_pointer("search_space", key): ("search_space", key) for key in self.knobs}

    def without_effect(self, overrides: Mapping[str, Value]) -> frozenset[str]:
        """The keys that the classes do not take which the branch has after a change."""
        config = {**self.branch, **overrides}
        return keys_without_effect(config, base_task=self.data["task"], class_texts=self.classes)

    def here(self, key: str) -> Value:
        """The branch's value of a knob."""
        return self.branch[key] if key in self.branch else self.knobs[key].value


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """What a reply says."""

    analysis: str
    """The model's reading of the evidence."""
    hypotheses: tuple[Hypothesis, ...]
    """Those without a fault that set something in the task, in the reply's order; ids are placeholders."""
    space_edits: tuple[SpaceEdit, ...]
    """Edits of the search space by hypotheses without a fault, at most one per key; they come before the hypotheses."""
    faults: tuple[str, ...]
    """What is wrong, each with its place, for example `hypotheses[1].ops[0].value_json: ...`; empty when nothing is."""
    space_only: tuple[Hypothesis, ...] = ()
    """Hypotheses without a fault that edit the search space alone: there is nothing to train, so nothing to score."""


def reply_schema(contract: Contract) -> dict[str, Any]:
    """The JSON Schema of a reply: `path` is one of the editable pointers, or any text where they are too many."""
    schema: dict[str, Any] = json.loads(resource("schemas", "proposal.schema.json").read_text(encoding="utf-8"))
    for annotation in ("$schema", "title", "description"):
        schema.pop(annotation)
    hypothesis = schema["properties"]["hypotheses"]["items"]["properties"]
    op = hypothesis["ops"]["items"]["properties"]
    others = len(hypothesis["kind"]["enum"]) + len(op["op"]["enum"])
    if 0 < len(contract.pointers) + others < ENUM_LIMIT and contract.pointers:
        op["path"]["enum"] = list(contract.pointers)
    return schema


def read_reply(text: str, contract: Contract) -> Reading:
    """Read a reply; never raises, whatever the text is.

    The one JSON object is found between prose, code fences and thoughts (`<think>`).  What lies beyond the number of
    hypotheses that were asked for is cut off.

    Args:
        text: the reply as it came.
        contract: what it may say.
    """
    try:
        data = find_object(text, key="hypotheses")
    except Unreadable as error:
        return Reading(analysis="", hypotheses=(), space_edits=(), faults=(str(error),))
    if isinstance(data.get("hypotheses"), list):
        data = {**data, "hypotheses": data["hypotheses"][: contract.wanted]}
    form = _Form(contract)
    general = form.of_reply(data)
    reader = _Reader(contract)
    items = data["hypotheses"] if isinstance(data.get("hypotheses"), list) else []
    for index, item in enumerate(items):
        place = f"hypotheses[{index}]"
        bad = form.of_hypothesis(item, place=place, brief=len(reader.faults) > MAX_FAULTS)
        if not bad:
            reader.take(item, place=place)
        reader.faults += bad
    if items == [] and not general:
        general = ["hypotheses: there is none; state at least one"]
    analysis = data.get("analysis")
    return Reading(
        analysis=clean(analysis, most=MOST_CHARACTERS["analysis"]) if isinstance(analysis, str) else "",
        hypotheses=tuple(reader.hypotheses),
        space_edits=tuple(reader.edits()),
        faults=_at_most([*general, *reader.faults]),
        space_only=tuple(reader.space_only),
    )


# -- the hypotheses of a reply ---------------------------------------------------------------------------------------


class _Reader:
    """What the hypotheses so far come to; those that follow must go together with them."""

    def __init__(self, contract: Contract):
        self.contract = contract
        self.space = contract.space
        self.hypotheses: list[Hypothesis] = []
        self.space_only: list[Hypothesis] = []
        self.faults: list[str] = []
        self._edits: dict[str, SpaceEdit] = {}
        self._editors: dict[str, str] = {}
        self._set: dict[str, list[tuple[str, Value]]] = {}
        self._configs: dict[str, str] = {}
        self._why: dict[str, str] = {}

    def take(self, item: Mapping[str, Any], *, place: str) -> None:
        """Take a hypothesis of the right form whole, or note all that is wrong with it."""
        draft = _Draft(self.contract, space=self.space, place=place)
        hypothesis = draft.read(item)
        problems = draft.faults or list(self._clashes(draft)) or draft.guarded()
        if problems:
            self.faults += problems
            return
        self.space = draft.space
        for edit in draft.edits:
            self._edits[edit.key], self._editors[edit.key] = edit, place
        for key, value in hypothesis.overrides.items():
            self._set.setdefault(key, []).append((place, value))
            self._why.setdefault(key, hypothesis.statement)
        self._configs[draft.config] = place
        (self.hypotheses if hypothesis.overrides else self.space_only).append(hypothesis)

    def edits(self) -> Iterator[SpaceEdit]:
        """The edits that were asked for, then one `add` for each key that is set and is not in the space yet."""
        yield from self._edits.values()
        for key, settings in self._set.items():
            if key not in self.space:
                domain = _joined(self.contract, key, [value for _, value in settings])
                yield SpaceEdit(
                    op="add", key=key, domain=domain, why=f"it is set by: {self._why[key]}", source=self.contract.source
                )

    def _clashes(self, draft: _Draft) -> Iterator[str]:
        """Where a hypothesis and an earlier one of the same reply cannot both be had."""
        if draft.overrides and draft.config in self._configs:
            yield f"{draft.place}: the same configuration as {self._configs[draft.config]}; change a value or drop it"
        for edit in draft.edits:
            pointer = join_pointer("search_space", edit.key)
            if edit.key in self._edits:
                yield f"{draft.place}.ops: {self._editors[edit.key]} edits {pointer} already; edit it in one of the two"
            for place, value in self._set.get(edit.key, ()):
                if edit.domain is None or not edit.domain.contains(value):
                    yield f"{draft.place}.ops: {place} sets {edit.key} to {_json(value)}; {pointer} must hold that"
        for key in draft.overrides:
            if key in self._edits and self._edits[key].domain is None:
                yield f"{draft.place}.ops: {self._editors[key]} takes {key} out of the search space; do one of the two"


@dataclass(kw_only=True)
class _Asked:
    """One op whose place is known."""

    place: str
    op: str
    key: str
    old: Any
    value: Any
    why: str


class _Draft:
    """One hypothesis while it is read."""

    def __init__(self, contract: Contract, *, space: SearchSpace, place: str):
        self.contract = contract
        self.space = space
        self.place = place
        self.faults: list[str] = []
        self.edits: list[SpaceEdit] = []
        self.overrides: dict[str, Value] = {}

    @property
    def config(self) -> str:
        """Canonical form of the configuration that it tests."""
        return canonical({**self.contract.branch, **self.overrides})

    def read(self, item: Mapping[str, Any]) -> Hypothesis:
        """Read an item of the right form; what is wrong with it stands in `faults`."""
        statement = self._text(item, "statement")
        mechanism = self._text(item, "mechanism")
        prediction = self._prediction(item["prediction"])
        for index, place in enumerate(item["cites"]):
            if place not in self.contract.quotes:
                self._fault(f"cites[{index}]", f"{show(place)} is not a quoted passage", _cite_mend(self.contract))
        in_task, in_space = self._ops(item["ops"], statement)
        for asked in in_space:
            self._reshape(asked)
        for asked in in_task:
            self._set(asked)
        if not self.faults:
            self._check_whole(item["kind"])
        return Hypothesis(
            id="",
            statement=statement,
            mechanism=mechanism,
            source=self.contract.source,
            overrides=self.overrides,
            prediction=prediction,
            kind=item["kind"],
            cites=tuple(dict.fromkeys(item["cites"])),
        )

    def guarded(self) -> list[str]:
        """What the guard of the spec says to the hypothesis applied to a copy; it should have nothing to say."""
        keys = self.contract.knobs.keys() | self.overrides.keys()
        old = {**self.contract.data, "task": with_parents(self.contract.data["task"], keys)}
        space = {**old["search_space"]}
        for edit in self.edits:
            space.pop(edit.key, None)
            if edit.domain is not None:
                space[edit.key] = codec.to_json(edit.domain)
        new = {**old, "task": apply_overrides(old["task"], self.overrides), "search_space": space}
        problems = guard(old, new, editable=self.contract.pointers.keys())
        if not problems and protected_digest(new) != protected_digest(self.contract.data):
            problems = ("a protected section would change",)
        return [f"{self.place}.ops: {problem}" for problem in problems]

    def _fault(self, at: str, what: str, mend: str) -> None:
        self.faults.append(f"{self.place}{'.' if at else ''}{at}: {what}; {mend}")

    def _text(self, item: Mapping[str, Any], name: str) -> str:
        text = clean(item[name], most=MOST_CHARACTERS[name])
        if not text:
            self._fault(name, "it is empty", "write a sentence")
        return text

    def _prediction(self, said: Mapping[str, Any]) -> Prediction:
        delta, low, high, probability = (
            float(said[name]) for name in ("delta", "delta_low", "delta_high", "probability")
        )
        if said["metric"] != self.contract.metric:
            what = f"{show(said['metric'])} is not the objective"
            self._fault("prediction.metric", what, f"write {self.contract.metric!r}")
        if not 0.0 <= probability <= 1.0:
            self._fault("prediction.probability", f"{probability:g} is not between 0 and 1", "write a probability")
        if not all(abs(number) <= LARGEST_DELTA for number in (delta, low, high)):
            mend = f"write numbers from {-LARGEST_DELTA:g} to {LARGEST_DELTA:g}"
            self._fault("prediction", "delta, delta_low or delta_high is beyond all measure", mend)
        elif not low <= delta <= high:
            what = f"delta {delta:g} is not between delta_low {low:g} and delta_high {high:g}"
            self._fault("prediction", what, "write delta_low <= delta <= delta_high, all signed changes of the metric")
        if self.contract.mode == "max":
            return Prediction(gain=delta, low=low, high=high, probability=probability)
        return Prediction(gain=0.0 - delta, low=0.0 - high, high=0.0 - low, probability=probability)

    def _ops(self, ops: Sequence[Mapping[str, Any]], statement: str) -> tuple[list[_Asked], list[_Asked]]:
        """The ops on the task and on the search space, as far as they can be read."""
        if not 1 <= len(ops) <= MAX_OPS:
            self._fault("ops", f"{len(ops)} ops", f"write 1 to {MAX_OPS}")
        asked: dict[str, list[_Asked]] = {"task": [], "search_space": []}
        seen: dict[str, int] = {}
        for index, op in enumerate(ops[:MAX_OPS]):
            at, pointer = f"ops[{index}]", op["path"]
            if pointer in seen:
                self._fault(f"{at}.path", f"ops[{seen[pointer]}] has the same path", "keep one of the two")
                continue
            seen[pointer] = index
            section, key = self.contract.pointers.get(pointer, ("", ""))
            old, value = (self._value(op, name, at) for name in ("old_json", "value_json"))
            if not section:
                self._fault(f"{at}.path", f"{show(pointer)} is not editable", _near(pointer, self.contract.pointers))
            elif old is not _BAD and value is not _BAD:
                why = clean(op["why"], most=MOST_CHARACTERS["why"]) or statement
                asked[section].append(_Asked(place=at, op=op["op"], key=key, old=old, value=value, why=why))
        return asked["task"], asked["search_space"]

    def _value(self, op: Mapping[str, Any], name: str, at: str) -> Any:
        if not op[name].strip():
            return None
        try:
            return loads(op[name])
        except Unreadable as error:
            self._fault(f"{at}.{name}", f"{show(op[name])} {error}", 'write JSON, text in quotes: "gelu"')
            return _BAD

    def _set(self, asked: _Asked) -> None:
        """A value of the task."""
        key, knob, here = asked.key, self.contract.knobs[asked.key], self.contract.here(asked.key)
        if asked.op != "set":
            self._fault(f"{asked.place}.op", f"{asked.op!r} does not fit a value of the task", "write 'set'")
        if not _equal(asked.old, here):
            self._fault(
                f"{asked.place}.old_json", f"the branch has {_json(here)}, not {show(asked.old)}", "start from that"
            )
        value = knob.coerced(asked.value)
        fault = "is not a single value" if isinstance(value, (dict, list)) else knob.fault(value)
        at, shown = f"{asked.place}.value_json", show(value)
        if fault:
            self._fault(at, f"{shown} {fault}", knob.mend)
        elif _equal(value, here):
            self._fault(at, f"{shown} is the present value", "write another one")
        elif (
            factor := policy.change_factor(here, value, whole=knob.kind == "int")
        ) > self.contract.max_factor * policy.ROUNDING:
            most = self.contract.max_factor
            mend = f"write {knob.times(here, 1 / most)} to {knob.times(here, most)}"
            self._fault(at, f"{shown} is {factor:.3g} times off {_json(here)}, the policy allows {most:g}", mend)
        elif key in self.space and not self.space[key].contains(value):
            mend = f"write a value inside, or widen {join_pointer('search_space', key)} in the same hypothesis"
            self._fault(at, f"{shown} is outside the search space, {self.space[key]}", mend)
        elif key not in self.space and (why := self._cannot_join(key, value)):
            self._fault(at, f"{shown}: {why}", "write another value")
        elif any(edit.key == key and edit.domain is None for edit in self.edits):
            self._fault(at, f"another op takes {key} out of the search space", "do one of the two")
        else:
            self.overrides[key] = value

    def _cannot_join(self, key: str, value: Value) -> str | None:
        """Why a key that is not in the search space yet cannot join it with a value."""
        domain = _joined(self.contract, key, [value])
        edit = SpaceEdit(op="add", key=key, domain=domain, why="")
        return policy.edit_refusal(self.space, edit, must_contain=(), knobs=self.contract.knobs)

    def _reshape(self, asked: _Asked) -> None:
        """An edit of the search space."""
        old = self.space.domains.get(asked.key)
        believed = policy.domain_or_fault(asked.old)
        if (asked.op == "add") != (old is None):
            what, mend = (
                (f"{asked.key} is not in the search space", "write 'add'")
                if old is None
                else (f"{asked.key} is in the search space already", "write 'set', 'widen' or 'remove'")
            )
            self._fault(f"{asked.place}.op", f"{asked.op!r} does not fit: {what}", mend)
        elif (asked.old is None) != (old is None) or (old is not None and believed != old):
            present = "null" if old is None else _json(codec.to_json(old))
            self._fault(f"{asked.place}.old_json", f"the search space has {present}", "start from that")
        elif asked.op == "remove" and asked.value is not None:
            self._fault(f"{asked.place}.value_json", "remove takes no value", "write null")
        else:
            self._edit(asked, old)

    def _edit(self, asked: _Asked, old: Domain | None) -> None:
        at = f"{asked.place}.value_json"
        new = None if asked.op == "remove" else policy.domain_or_fault(asked.value)
        if isinstance(new, str):
            self._fault(at, new, 'write for example {"type": "float", "low": 0.0, "high": 0.3}')
            return
        if isinstance(new, Categorical):
            knob = self.contract.knobs[asked.key]
            new = replace(new, choices=tuple(knob.coerced(choice) for choice in new.choices))
        if old is not None and new == old:
            self._fault(at, "it is the present domain", "write another one")
            return
        op: Any = {"add": "add", "remove": "freeze"}.get(asked.op, "widen")
        if asked.op == "set" and old is not None and new is not None and not policy.within(old, new):
            op = "narrow"
        edit = SpaceEdit(op=op, key=asked.key, domain=new, why=asked.why, source=self.contract.source)
        why = policy.edit_refusal(
            self.space,
            edit,
            must_contain=(self.contract.incumbent, self.contract.branch),
            knobs=self.contract.knobs,
            max_factor=self.contract.max_factor,
        )
        if why:
            self._fault(at, why, "write a domain that keeps to this, or drop the op")
            return
        self.edits.append(edit)
        self.space = policy.edited(self.space, edit)

    def _check_whole(self, kind: str) -> None:
        if (kind == "space") == bool(self.overrides):
            what, mend = (
                ("it sets values of the task", "write value, schedule, data, loss, architecture or class")
                if self.overrides
                else ("it sets no value of the task", "write 'space', or set one")
            )
            self._fault("kind", f"{kind!r} does not fit: {what}", mend)
        if len(self.overrides) > self.contract.max_changes:
            what = f"it sets {len(self.overrides)} keys, the policy allows {self.contract.max_changes}"
            self._fault("ops", what, "set fewer, or split the hypothesis")
        for key in sorted(self.contract.without_effect(self.overrides) & self.overrides.keys()):
            what = f"{key} has no effect, since the class that would be used does not take it"
            self._fault("ops", what, "drop the op, or switch the class in the same hypothesis")
        if self.overrides and self.config in self.contract.tried:
            self._fault("ops", "this very configuration was tried before", "change a value")


def _joined(contract: Contract, key: str, values: Sequence[Value]) -> Domain:
    """The domain with which a key joins the search space because it is set; it holds what the key is now and was."""
    knob = contract.knobs[key]
    held = [knob.value, contract.here(key), contract.incumbent.get(key, knob.value), *values]
    return policy.joining_domain(knob, held)


def _equal(one: Any, other: Any) -> bool:
    """Whether a value is the one that was meant: numbers to nine digits, true and 1 apart."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, (int, float)) and isinstance(other, (int, float)):
        return math.isclose(one, other, rel_tol=1e-9)
    return type(one) is type(other) and bool(one == other)


# -- words -----------------------------------------------------------------------------------------------------------


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _near(pointer: str, pointers: Collection[str]) -> str:
    near = difflib.get_close_matches(pointer[:200], pointers, n=3, cutoff=0.5)
    if near:
        return f"editable pointers near it: {', '.join(near)}"
    return f"editable pointers are, for example: {', '.join(list(pointers)[:3])}" if pointers else "nothing is editable"


def _cite_mend(contract: Contract) -> str:
    if not contract.quotes:
        return "no passage was quoted, leave the list empty"
    return f"write one of: {', '.join(sorted(contract.quotes)[:8])}, or leave the list empty"


def _at_most(faults: Sequence[str]) -> tuple[str, ...]:
    if len(faults) <= MAX_FAULTS:
        return tuple(faults)
    return (*faults[:MAX_FAULTS], "and more of this kind in the same reply")


class _Form:
    """The schema of a reply in two parts, so that a fault in one hypothesis does not cost the others."""

    def __init__(self, contract: Contract):
        schema = reply_schema(contract)
        item = schema["properties"]["hypotheses"].pop("items")
        item["properties"]["ops"]["items"]["properties"]["path"].pop("enum", None)  # looked up later, in better words
        self._schema, self._item = schema, item
        self._is_valid = _validator(item)

    def of_reply(self, data: Mapping[str, Any]) -> list[str]:
        """What is wrong with a reply, its hypotheses left aside."""
        return [] if _validator(self._schema)(data) else _form_faults(data, self._schema, place="")

    def of_hypothesis(self, item: Any, *, place: str, brief: bool) -> list[str]:
        """What is wrong with the form of a hypothesis; `brief` where there are more faults than are told anyway."""
        if self._is_valid(item):
            return []
        return [f"{place}: it has not the right form"] if brief else _form_faults(item, self._item, place=place)


def _validator(schema: Mapping[str, Any]) -> Callable[[Any], bool]:
    """Whether data keep to a schema; compiled, and imported in a quarter of the time of what can say what is wrong."""
    import jsonschema_rs

    return jsonschema_rs.Draft202012Validator(dict(schema)).is_valid


def _form_faults(data: Any, schema: Mapping[str, Any], *, place: str) -> list[str]:
    from jsonschema import Draft202012Validator

    faults = []
    for error in itertools.islice(Draft202012Validator(dict(schema)).iter_errors(data), MAX_FAULTS + 1):
        path = [place, *error.absolute_path] if place else list(error.absolute_path)
        words = _in_words(str(error.validator), error.instance, error.validator_value, error.schema)
        faults += [f"{_place(path)}{what}" for what in itertools.islice(words, MAX_FAULTS)]
    return list(dict.fromkeys(faults))


_TYPES = {"string": "text", "number": "a number", "object": "a map", "array": "a list"}


def _in_words(validator: str, instance: Any, wanted: Any, schema: Any) -> Iterator[str]:
    if validator == "type":
        yield f"{show(instance)} is not {_TYPES[wanted]}; write {_TYPES[wanted]}"
    elif validator == "enum":
        yield f"{show(instance)} is not allowed; write one of {', '.join(wanted)}"
    elif validator == "required":
        yield from (f"the key {key!r} is missing; add it" for key in wanted if key not in instance)
    else:
        known = schema["properties"]
        for key in (name for name in instance if name not in known):
            near = suggest(key, [name for name in known if name not in instance])
            mend = f"did you mean {near!r}?" if near else f"allowed here: {', '.join(known)}"
            yield f"unknown key {show(key)}; {mend}"


def _place(path: Sequence[str | int]) -> str:
    words = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return f"{words.lstrip('.')}: " if words else ""
