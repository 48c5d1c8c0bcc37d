"""What a language model may set: the knobs, each with its kind of values and its value in revision 0; and the guard
of a trial's task.

A knob comes from the search space, where the user named it, or from a place that `policy.editable` names: a value in
the task, or an argument of one of its classes that has a plain default.  Left out, whatever is named:

- keys that a scale sets, or that lie above or below such a key, and what belongs to the study (`seed_everything`);
- seeds, also those in the search space (the sampler alone varies them);
- text without a fixed list of options (a `Literal` in the signature, or choices in the search space): names, paths,
  code; `_target_` and other keys with a leading underscore, and everything with `${` in it;
- `class_path`, unless `policy.allowed_classes` has another class for the place: the options are then the present class
  and those (in the search space: those of them that are listed there);
- keys of `trainer`, unless written out in full, and of `data` or any other section that a pattern begins with `*` for.

Arguments that only another allowed class has are no knobs: after a switch such a class runs with its own defaults.
"""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from lightning_autoresearch.checks import STUDY_OWNED
from lightning_autoresearch.classes import ClassText, Parameter, read_class
from lightning_autoresearch.document import join_pointer
from lightning_autoresearch.jsontext import LARGEST_WHOLE
from lightning_autoresearch.rewrite import guard
from lightning_autoresearch.space import (
    NO_SOUND_NUMBER,
    Categorical,
    Domain,
    Float,
    Overrides,
    Value,
    apply_overrides,
    get_key,
    has_key,
    is_sound,
    lies_in,
)
from lightning_autoresearch.spec import Spec

KnobKind: TypeAlias = Literal["float", "int", "choice"]

_OPEN_SECTIONS = frozenset({"model", "optimizer", "lr_scheduler"})
SEED = re.compile(r".*seed.*|.*random_?state.*|(.*_)?rng(_.*)?", re.IGNORECASE)
"""Last parts of keys that are never varied: what they hold decides which run it is, not how well it trains."""
_CODE = frozenset({"class_path", "dict_kwargs"})
_INTERPOLATION = "text with an interpolation"


@dataclass(frozen=True, kw_only=True, slots=True)
class Knob:
    """A key of the task that a language model may set."""

    key: str
    """The dotted key."""
    value: Value
    """Its value in revision 0: that of the task, else the default of the class's argument."""
    kind: KnobKind
    """Kind of its values; true and false are a choice."""
    options: tuple[Value, ...] = ()
    """All values that a choice may take; empty for numbers."""
    nullable: bool = False
    """Whether a number may also be null."""
    about: str = ""
    """What the class's documentation says of it; empty where it says nothing."""
    in_task: bool = True
    """Whether the task has the key; else the default of the class's argument is in effect."""
    domain: Domain | None = None
    """Its domain in the search space of revision 0; null where it has none there."""

    def coerced(self, value: Any) -> Any:
        """A number in the type that the knob has: 4.0 as 4 where it is whole, 1 as 1.0 where not, options as listed."""
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return value
        if self.kind == "choice":
            return Categorical(choices=self.options).as_listed(value)
        if self.kind == "int":
            return int(value) if float(value).is_integer() else value
        return float(value)

    def fault(self, value: Value) -> str:
        """Why the knob cannot hold a value, and what it can; empty where it can."""
        if self.kind == "choice":
            listed = Categorical(choices=self.options)
            return "" if listed.contains(value) else f"is not {listed}"
        if value is None:
            return "" if self.nullable else "is not a number"
        if isinstance(value, (bool, str)):
            return "is not a number" if self.kind == "float" else "is not a whole number"
        if self.kind == "int" and (not float(value).is_integer() or abs(value) > LARGEST_WHOLE):
            return f"is not a whole number of at most {LARGEST_WHOLE}"
        return "" if is_sound(value) else NO_SOUND_NUMBER

    @property
    def mend(self) -> str:
        """What to write in place of a value that it cannot hold."""
        if self.kind == "choice":
            return f"write {' or '.join(json.dumps(option, ensure_ascii=False) for option in self.options)}"
        return f"write a {'whole ' if self.kind == 'int' else ''}number{' or null' if self.nullable else ''}"

    def times(self, value: Value, factor: float) -> str:
        """A number times a factor, as a bound that is named; a whole number moves by one at least."""
        assert isinstance(value, (int, float))
        bound = value * factor
        if self.kind == "int":
            return str(max(math.floor(bound), int(value) + 1) if factor > 1 else min(math.ceil(bound), int(value) - 1))
        return f"{bound:.3g}"


def knobs_of(spec: Spec, *, search_path: Sequence[str]) -> Mapping[str, Knob]:
    """Every key that a language model may set in a study, those of the search space first; see the module's text.

    Classes are read from their source; nothing is imported or run.

    Args:
        spec: the user's spec.
        search_path: folders that the task's classes are looked for in.
    """
    texts = {node["class_path"]: None for _, node in _class_nodes(spec.task, ())}
    texts |= dict.fromkeys(spec.policy.allowed_classes)
    reader = _Knobs(spec, {path: read_class(path, search_path=search_path) for path in texts})
    found = [*reader.of_space(), *reader.of_classes(), *reader.of_task(), *reader.of_signatures()]
    knobs: dict[str, Knob] = {}
    for knob in found:
        knobs.setdefault(knob.key, knob)
    return {key: knob for key, knob in knobs.items() if reader.is_free(key) and _is_plain(knob)}


def guard_task(
    base_task: Mapping[str, Any],
    task: Mapping[str, Any],
    *,
    allowed_keys: Collection[str],
    allowed_classes: Collection[str] = (),
) -> tuple[str, ...]:
    """What of a trial's task differs from the spec's where nothing may, in words; empty when it may be run.

    Beside the keys, what becomes code is looked at: a `class_path` must be one that the spec's task has or that the
    user allows, and neither `${` nor a `_target_` may appear that the spec's task does not have.

    Args:
        base_task: the spec's task with the scale's keys applied, so that these are guarded too.
        task: the trial's task, before `fitted`.
        allowed_keys: dotted keys that may differ: those of the search space and of the knobs.
        allowed_classes: what `class_choices` gave: texts that may appear where they become code.
    """
    pointers = {join_pointer("task", *key.split(".")) for key in allowed_keys}
    old = {"task": with_parents(base_task, allowed_keys)}
    problems = guard(old, {"task": with_parents(task, allowed_keys)}, editable=pointers)
    known = {*_code(base_task), *((name, text) for text in allowed_classes for name in _names_of_code(text))}
    strange = [text for text in dict.fromkeys(_code(task)) if text not in known]
    return (*problems, *(f"{name}: {value!r} is neither in the spec nor allowed by it" for name, value in strange))


def with_parents(task: Mapping[str, Any], keys: Collection[str]) -> dict[str, Any]:
    """A copy of a task in which the maps that lead to the keys exist where they were missing or null."""
    copied: dict[str, Any] = copy.deepcopy(dict(task))
    for key in keys:
        node: Any = copied
        for part in key.split(".")[:-1]:
            if isinstance(node, dict) and node.get(part) is None:
                node[part] = {}
            if isinstance(node, list) and part.isdecimal() and int(part) < len(node):
                node = node[int(part)]
            else:
                node = node.get(part) if isinstance(node, dict) else None
    return copied


def fitted(
    task: Mapping[str, Any], *, base_task: Mapping[str, Any], class_texts: Mapping[str, ClassText | None]
) -> dict[str, Any]:
    """A copy of a task from which the arguments are gone that a class which was switched to does not take.

    Only where the `class_path` differs from the spec's, so that the user's own mistakes stay visible.  What a class
    takes is what its source says: every named argument of its `__init__`, own or inherited.  A class whose `__init__`
    takes `**kwargs`, or which cannot be read, keeps everything.

    Args:
        task: a trial's task, or that of a revision.
        base_task: the spec's task.
        class_texts: what `read_class` gave, by class path.
    """
    copied: dict[str, Any] = copy.deepcopy(dict(task))
    for key in unfitting_keys(task, base_task=base_task, class_texts=class_texts):
        *parents, last = key.split(".")
        node: Any = copied
        for part in parents:
            node = node[int(part)] if isinstance(node, list) else node[part]
        del node[last]
    return copied


def unfitting_keys(
    task: Mapping[str, Any], *, base_task: Mapping[str, Any], class_texts: Mapping[str, ClassText | None]
) -> tuple[str, ...]:
    """The dotted keys that `fitted` takes out; it has the same arguments."""
    keys: list[str] = []
    for path, node in _class_nodes(task, ()):
        if lies_in(".".join(path), keys):
            continue
        text = class_texts.get(node["class_path"])
        was = ".".join([*path, "class_path"])
        switched = not has_key(base_task, was) or get_key(base_task, was) != node["class_path"]
        arguments = node.get("init_args")
        if switched and text is not None and not text.takes_any and isinstance(arguments, Mapping):
            keys += [".".join([*path, "init_args", name]) for name in arguments if name not in text.names]
    return tuple(keys)


def keys_without_effect(
    config: Overrides, *, base_task: Mapping[str, Any], class_texts: Mapping[str, ClassText | None]
) -> frozenset[str]:
    """The keys of a configuration that its classes do not take: whatever their values, the fitted task is the same.

    Args:
        config: value of every key that is or was in the search space.
        base_task: the spec's task.
        class_texts: what `read_class` gave, by class path.
    """
    gone = unfitting_keys(apply_overrides(base_task, config), base_task=base_task, class_texts=class_texts)
    return frozenset(key for key in config if lies_in(key, gone))


def _code(node: Any) -> Iterator[tuple[str, str]]:
    """(what it is, text) of everything in a task that is looked up or filled in when it is read."""
    if isinstance(node, Mapping):
        yield from ((key, str(node[key])) for key in ("class_path", "_target_") if key in node)
        node = list(node.values())
    if isinstance(node, list):
        for item in node:
            yield from _code(item)
    elif isinstance(node, str) and "${" in node:
        yield _INTERPOLATION, node


def _names_of_code(text: str) -> tuple[str, ...]:
    """What a text that the user lists may be in a task, as `_code` names it."""
    return ("class_path", "_target_", *([_INTERPOLATION] if "${" in text else []))


class _Knobs:
    """The sources of knobs in one spec."""

    def __init__(self, spec: Spec, texts: Mapping[str, ClassText | None]):
        self.spec = spec
        self._texts = texts
        self._allowed = frozenset(spec.policy.allowed_classes)
        self._patterns = [pattern.split(".") for pattern in spec.policy.editable]
        self._scaled = [key for scale in spec.scales for key in scale.set]
        self._parameters = dict(self._read_parameters())

    def of_space(self) -> Iterator[Knob]:
        """The search space's keys."""
        for key, domain in self.spec.search_space.domains.items():
            value = get_key(self.spec.task, key)
            parameter = self._parameters.get(key)
            about = parameter.about if parameter else ""
            if isinstance(domain, Categorical):
                options = tuple(one for one in domain.choices if self._may_name(key, one, value))
                yield Knob(key=key, value=value, kind="choice", options=options, about=about, domain=domain)
            else:
                kind: KnobKind = "float" if isinstance(domain, Float) else "int"
                yield Knob(key=key, value=value, kind=kind, about=about, domain=domain)

    def of_classes(self) -> Iterator[Knob]:
        """Each `class_path` in an editable place for which another class of the same family is allowed."""
        for path, node in _class_nodes(self.spec.task, ()):
            present = node["class_path"]
            others = [
                one
                for one in self.spec.policy.allowed_classes
                if one != present and self._akin(one, present) and self._takes_scales(one, path)
            ]
            key = ".".join([*path, "class_path"])
            if others and self._is_editable_class(path):
                about = "the class that is used; after a switch, arguments that it does not take are left out"
                yield Knob(key=key, value=present, kind="choice", options=(present, *others), about=about)

    def _takes_scales(self, class_path: str, path: Sequence[str]) -> bool:
        """Whether a class takes what the scales set of the class in a place: a revision with it has to load."""
        text = self._texts.get(class_path)
        if text is None or text.takes_any:
            return True
        start = ".".join([*path, "init_args", ""])
        return all(key.removeprefix(start).split(".")[0] in text.names for key in self._scaled if key.startswith(start))

    def of_task(self) -> Iterator[Knob]:
        """Single values in the task that the policy names."""
        for path, value in _leaves(self.spec.task, ()):
            key = ".".join(path)
            if self._is_editable(path):
                knob = _knob(key, value, self._parameters.get(key), in_task=True)
                if knob is not None:
                    yield knob

    def of_signatures(self) -> Iterator[Knob]:
        """Arguments with a plain default that the policy names and the task leaves out."""
        for key, parameter in self._parameters.items():
            if parameter.has_default and not has_key(self.spec.task, key) and self._is_editable(key.split(".")):
                knob = _knob(key, parameter.default, parameter, in_task=False)
                if knob is not None:
                    yield knob

    def is_free(self, key: str) -> bool:
        """Whether neither a scale nor the study owns a key, and it is no seed."""
        first, last = key.split(".")[0], key.split(".")[-1]
        scaled = any(f"{key}.".startswith(f"{one}.") or one.startswith(f"{key}.") for one in self._scaled)
        return not scaled and first not in STUDY_OWNED and not SEED.fullmatch(last)

    def _may_name(self, key: str, option: Value, present: Value) -> bool:
        """Whether a choice of the search space may be used: what becomes code must be allowed as such."""
        last = key.split(".")[-1]
        becomes_code = last in _CODE or last.startswith("_")
        return not becomes_code or option == present or (last == "class_path" and option in self._allowed)

    def _read_parameters(self) -> Iterator[tuple[str, Parameter]]:
        for path, node in _class_nodes(self.spec.task, ()):
            text = self._texts.get(node["class_path"])
            if isinstance(node.get("init_args"), (dict, type(None))):
                for parameter in text.parameters if text else ():
                    yield ".".join([*path, "init_args", parameter.name]), parameter

    def _is_editable(self, parts: Sequence[str]) -> bool:
        if any(part in _CODE or part.startswith("_") for part in parts):
            return False
        return any(_names(pattern, parts) for pattern in self._patterns)

    def _is_editable_class(self, path: Sequence[str]) -> bool:
        """Whether the policy names the `class_path` itself, or all arguments of the class."""
        wanted = [[*path, "class_path"], [*path, "init_args", "*"]]
        return any(_names(pattern, parts) for pattern in self._patterns for parts in wanted)

    def _akin(self, one: str, other: str) -> bool:
        """Whether two classes derive from a common one; believed where one of them cannot be read."""
        families = []
        for path in (one, other):
            text = self._texts.get(path)
            if text is None:
                return True
            families.append({base.rpartition(".")[2] for base in (path, *text.bases)})
        return bool(families[0] & families[1])


def _knob(key: str, value: Value, parameter: Parameter | None, *, in_task: bool) -> Knob | None:
    """The knob of an editable place; None where its values are not numbers and not listed."""
    kind = parameter.kind if parameter is not None and (parameter.annotation or value is None) else "other"
    nullable = bool(parameter and parameter.nullable) or value is None
    if parameter is not None and parameter.options:
        options: tuple[Value, ...] = (*parameter.options, *((None,) if nullable else ()))
    elif kind == "bool" or isinstance(value, bool):
        options = (False, True, *((None,) if nullable else ()))
    else:
        options = ()
    about = parameter.about if parameter else ""
    if options:
        knob = Knob(key=key, value=value, kind="choice", options=options, about=about, in_task=in_task)
        return knob if not knob.fault(value) else None
    number = kind if kind in ("float", "int") else {float: "float", int: "int"}.get(type(value))
    if number is None or kind == "text":
        return None
    if number == "int" and isinstance(value, float):
        number = "float"
    whole = Knob(
        key=key,
        value=value,
        kind="float" if number == "float" else "int",
        nullable=nullable,
        about=about,
        in_task=in_task,
    )
    return whole if not whole.fault(value) else None


def _is_plain(knob: Knob) -> bool:
    """Whether a knob leaves a choice, and none of its values is filled in from elsewhere."""
    if knob.kind != "choice":
        return True
    return len(knob.options) > 1 and not any(isinstance(one, str) and "${" in one for one in knob.options)


def _names(pattern: Sequence[str], parts: Sequence[str]) -> bool:
    """Whether a pattern of `policy.editable` means a key; `*` stands for any text within one part."""
    if len(pattern) != len(parts) or (parts[0] not in _OPEN_SECTIONS and "*" in pattern[0]):
        return False
    if parts[0] == "trainer" and list(pattern) != list(parts):
        return False
    pairs = zip(pattern, parts, strict=True)
    return all(re.fullmatch(re.escape(wild).replace(r"\*", ".*"), part, re.DOTALL) for wild, part in pairs)


def _class_nodes(node: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    """(path, map) of every map with a `class_path`."""
    if isinstance(node, Mapping):
        if isinstance(node.get("class_path"), str):
            yield path, node
        for key, value in node.items():
            if key and "." not in str(key):
                yield from _class_nodes(value, (*path, str(key)))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _class_nodes(value, (*path, str(index)))


def _leaves(node: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Value]]:
    """(path, value) of every single value that a dotted key can reach."""
    if isinstance(node, (Mapping, list)):
        items = node.items() if isinstance(node, Mapping) else enumerate(node)
        for key, value in items:
            if str(key) and "." not in str(key):  # with a dot in it, no dotted key leads there
                yield from _leaves(value, (*path, str(key)))
    else:
        yield path, node


def class_choices(spec: Spec) -> tuple[str, ...]:
    """The texts that a trial may hold where they become code: the user's list of classes, and her own choices.

    Of the search space's choices these are class paths, `_target_`s, and whatever has `${` in it.
    """
    listed = [
        choice
        for key, domain in spec.search_space.domains.items()
        for choice in (domain.choices if isinstance(domain, Categorical) else ())
        if isinstance(choice, str) and (key.rsplit(".", 1)[-1] in ("class_path", "_target_") or "${" in choice)
    ]
    return tuple(dict.fromkeys([*spec.policy.allowed_classes, *listed]))
