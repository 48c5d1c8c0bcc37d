"""What is wrong with a spec's data, in words: against the schema, and between its fields.

The faults carry JSON pointers only; `source.Source.locate` adds the positions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lightning_autoresearch.document import join_pointer
from lightning_autoresearch.errors import Fault
from lightning_autoresearch.space import Categorical, apply_overrides, domain_of, get_key, has_key, unsound

if TYPE_CHECKING:
    from jsonschema import ValidationError

STUDY_OWNED = {
    "seed_everything": "the study seeds every trial itself; change decision.seed for other seeds",
    "ckpt_path": "every trial starts from fresh weights; remove it",
    "cli": "it says how every trial is built",
}
"""Keys of a LightningCLI config that belong to the study, and what to do instead."""
_MEASURED = frozenset(
    (
        "check_val_every_n_epoch",
        "fast_dev_run",
        "limit_predict_batches",
        "limit_test_batches",
        "limit_val_batches",
        "num_sanity_val_steps",
        "overfit_batches",
        "val_check_interval",
    )
)
_LENGTH = frozenset(("limit_train_batches", "max_epochs", "max_steps", "max_time", "min_epochs", "min_steps"))
_SHELL_ONLY = frozenset(("keep_environment", "memory_gb", "preload", "slots"))
ENDS = ("max_steps", "max_epochs", "max_time")
"""Arguments of the Trainer that end a fit."""
_TYPES = {
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "null": "null",
    "object": "a map",
    "array": "a list",
}


def faults_of(data: Mapping[str, Any], schema: Mapping[str, Any], *, needs_task: bool = True) -> list[Fault]:
    """Every fault of the data: those of the schema, then those between fields whose own form is right.

    Args:
        data: the spec's data.
        schema: the schema of a spec.
        needs_task: whether a spec without a task is one that cannot be used.
    """
    faults = [fault for error in _schema_errors(data, schema) for fault in _in_words(error)]
    if needs_task and "task" not in data:
        about = schema["properties"]["task"]["description"]
        mend = f"add `task:` ({about[0].lower()}{about[1:].partition(',')[0]}); only the callback does without"
        faults.append(_fault(what="the key 'task' is missing", mend=mend))
    form = _Form(data, [fault.pointer for fault in faults if not _is_unknown(fault)])
    return [*_without_echoes(faults), *_task_faults(form), *_space_faults(form), *_scales_faults(form),
            *_guards_faults(form), *_decision_faults(form)]  # fmt: skip


def live_faults(data: Mapping[str, Any], own: Any, task: Mapping[str, Any]) -> list[Fault]:
    """What a spec says of a task that is live objects and that these do not have.

    Args:
        data: the spec's data.
        own: the spec's own `task`, None where it has none.
        task: what was read from the objects: `model`, `trainer` and perhaps `data`.
    """
    if own is not None and not isinstance(own, dict):
        return []  # the schema says it
    places: list[tuple[tuple[str | int, ...], str]] = [
        (("task", *leaf.split(".")), leaf) for leaf in (_leaves(own) if own else ())
    ]
    places += [(("search_space", key), key) for key in _keys(data.get("search_space"))]
    for index, scale in enumerate(data.get("scales") or ()):
        settings = scale.get("set") if isinstance(scale, dict) else None
        places += [(("scales", index, "set", key), key) for key in _keys(settings) if not _owned(key)]
    what = "the Trainer, model and data that were given have no {!r}"
    return [
        _fault(*place, what=what.format(key), mend=_nearest_leaf(key, task, otherwise=_those_there(key, task)))
        for place, key in places
        if not has_key(task, key)
    ]


def _keys(node: Any) -> list[str]:
    return [key for key in node if isinstance(key, str)] if isinstance(node, dict) else []


def _those_there(key: str, task: Mapping[str, Any]) -> str:
    """What an object has instead of a key."""
    section = key.split(".")[0]
    there = [leaf for leaf in _leaves(task) if leaf.split(".")[0] == section]
    if not there and section in ("model", "data"):
        return f"the {section} saves no hyperparameters: call self.save_hyperparameters() in its __init__"
    return f"there are: {', '.join(there or _leaves(task))}"


def _schema_errors(data: Mapping[str, Any], schema: Mapping[str, Any]) -> list[ValidationError]:
    """What breaks the schema.

    Whether anything does is asked of a compiled validator, which is imported four times as fast; the one that can say
    what is imported only then.
    """
    import jsonschema_rs

    if jsonschema_rs.Draft202012Validator(dict(schema)).is_valid(data):
        return []
    from jsonschema import Draft202012Validator

    return list(Draft202012Validator(dict(schema)).iter_errors(data))


def notes_of(data: Mapping[str, Any], *, live: bool = False) -> tuple[str, ...]:
    """What is worth saying about valid data; of a live task, what has no effect in the program that it lives in."""
    notes = []
    if live and (unused := sorted(_SHELL_ONLY & data.get("execution", {}).keys())):
        notes.append(f"execution: {', '.join(unused)} have no effect in the callback, which runs one trial at a time")
    if data.get("tracking"):
        notes.append("tracking: this version writes the journal and the report only; the section has no effect yet")
    if data.get("task", {}).get("seed_everything"):
        notes.append(f"task.seed_everything: has no effect; {STUDY_OWNED['seed_everything']}")
    if not data["search_space"]:
        notes.append("search_space: it is empty, so there is nothing to try")
    return (*notes, *_key_notes(data["search_space"]))


def suggest(word: str, options: Iterable[str]) -> str:
    """The option that was probably meant; empty when none is near."""
    from difflib import get_close_matches

    by_lower = {option.lower(): option for option in options}
    near = get_close_matches(word.lower(), by_lower, n=1)
    return by_lower[near[0]] if near else ""


def _key_notes(space: Mapping[str, Any]) -> Iterator[str]:
    for key in space:
        section, _, name = key.partition(".")
        if section == "trainer" and name in _MEASURED:
            yield f"search_space: {key} changes what is measured, so gains may come from the measurement alone"
        if section == "trainer" and name in _LENGTH:
            yield f"search_space: {key} changes how long a trial trains, so gains may come from longer training alone"


# Faults of form


def _in_words(error: ValidationError) -> Iterator[Fault]:
    pointer = join_pointer(*error.absolute_path)
    wording = _WORDINGS.get(str(error.validator))
    if wording is None:
        yield Fault(pointer=pointer, what=error.message, mend="see `lightning-autoresearch schema`")
        return
    schema = error.schema if isinstance(error.schema, dict) else {}
    for below, what, mend in wording(error.instance, error.validator_value, schema):
        yield Fault(
            pointer=pointer + below, what=what, mend=mend if _is_suggestion(mend) else schema.get("$comment", mend)
        )


_Wording = tuple[str, str, str]


def _unknown_keys(value: Mapping[str, Any], _: Any, schema: Mapping[str, Any]) -> Iterator[_Wording]:
    known = schema.get("properties", {})
    for key in value:
        if key not in known:
            near = suggest(key, [option for option in known if option not in value])
            mend = f"did you mean {near!r}?" if near else f"allowed here: {', '.join(known)}"
            yield join_pointer(key), f"unknown key {key!r}", mend


def _missing_keys(value: Mapping[str, Any], required: Sequence[str], schema: Mapping[str, Any]) -> Iterator[_Wording]:
    known = schema.get("properties", {})
    for key in required:
        if key not in value:
            near = suggest(key, [other for other in value if other not in known])
            yield "", f"the key {key!r} is missing", f"did you mean it by {near!r}?" if near else _add(key, known)


def _add(key: str, known: Mapping[str, Any]) -> str:
    about = known.get(key, {}).get("description", "").rstrip(".")
    return f"add `{key}:`" + (f" ({about[0].lower()}{about[1:]})" if about else "")


def _wrong_type(value: Any, types: str | Sequence[str], _: Any) -> Iterator[_Wording]:
    *names, last = [_TYPES[name] for name in ([types] if isinstance(types, str) else types)]
    allowed = f"{', '.join(names)} or {last}" if names else last
    mend = f"write {allowed}" + ("; an optional key may be removed" if value is None else "")
    yield "", f"{show(value)} is not {allowed}", mend


def _not_allowed(value: Any, options: Sequence[Any], _: Any) -> Iterator[_Wording]:
    shown = [show(option) for option in options]
    near = suggest(value, [option for option in options if isinstance(option, str)]) if isinstance(value, str) else ""
    mend = f"did you mean {near!r}?" if near else f"write {shown[0] if len(shown) == 1 else 'one of these'}"
    yield "", f"{show(value)} is not {'' if len(shown) == 1 else 'one of '}{', '.join(shown)}", mend


def _bound(relation: str, mend: str) -> Callable[[Any, Any, Any], Iterator[_Wording]]:
    def words(value: Any, bound: Any, _: Any) -> Iterator[_Wording]:
        yield "", f"{show(value)} is {relation} {bound}", f"write {mend} {bound}"

    return words


def _too_few(value: Any, least: int, _: Any) -> Iterator[_Wording]:
    yield "", f"has {len(value)} of at least {least} entries", f"write at least {least}"


def _twice(value: Sequence[Any], *_: Any) -> Iterator[_Wording]:
    for index, item in enumerate(value):
        earlier = next((at for at in range(index) if _same(value[at], item)), None)
        if earlier is not None:
            yield join_pointer(index), f"{show(item)} is already item {earlier}", "keep one of the two"


def _bad_text(value: str, _: Any, schema: Mapping[str, Any]) -> Iterator[_Wording]:
    shown = "the text" if schema.get("writeOnly") else show(value)
    yield "", f"{shown} cannot be {schema['title']}", "write it with letters, digits and underscores"


_WORDINGS: dict[str, Callable[[Any, Any, Any], Iterator[_Wording]]] = {
    "additionalProperties": _unknown_keys,
    "required": _missing_keys,
    "type": _wrong_type,
    "enum": _not_allowed,
    "const": lambda value, only, schema: _not_allowed(value, [only], schema),
    "minimum": _bound("below", "at least"),
    "maximum": _bound("above", "at most"),
    "exclusiveMinimum": _bound("not above", "a number above"),
    "exclusiveMaximum": _bound("not below", "a number below"),
    "minItems": _too_few,
    "minLength": lambda *_: iter([("", "the text is empty", "write at least one character")]),
    "maxLength": lambda value, most, _: iter([("", f"{len(value)} characters are more than {most}", "shorten it")]),
    "uniqueItems": _twice,
    "pattern": _bad_text,
}


def show(value: Any) -> str:
    """A value as the words of a fault name it."""
    if isinstance(value, (dict, list)):
        return "a map" if isinstance(value, dict) else "a list"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _is_suggestion(mend: str) -> bool:
    return mend.startswith("did you mean ")


def _is_unknown(fault: Fault) -> bool:
    return fault.what.startswith("unknown key ")


def _without_echoes(faults: Iterable[Fault]) -> list[Fault]:
    """One fault per cause: a key is not also missing where a misspelt one stands for it."""
    unique = {(fault.pointer, "unknown" if _is_unknown(fault) else fault.what): fault for fault in faults}.values()
    meant = {(fault.pointer.rpartition("/")[0], fault.mend) for fault in unique if _is_unknown(fault)}
    return [
        fault
        for fault in unique
        if not any(
            fault.pointer == place and fault.what == f"the key {mend[13:-1]} is missing"
            for place, mend in meant
            if _is_suggestion(mend)
        )
    ]


# Faults between fields


class _Form:
    """The data, and which parts of it have the right form: the others are left to the schema."""

    def __init__(self, data: Mapping[str, Any], bad: Iterable[str]):
        self._data = data
        self._bad = tuple(bad)

    def part(self, *path: str | int) -> Any:
        """The value at a path; None where there is none, or where something at or below it is wrong."""
        pointer = join_pointer(*path)
        if any(f"{bad}/".startswith(f"{pointer}/") for bad in self._bad):
            return None
        return self._raw(*path)

    def keys(self, *path: str) -> list[str]:
        """The keys of a map, whatever their values; empty where there is no map."""
        whole = self._raw(*path)
        return list(whole) if isinstance(whole, dict) else []

    def entries(self, *path: str) -> dict[Any, Any]:
        """The well-formed entries of a map or a list, by key or index."""
        whole = None if join_pointer(*path) in self._bad else self._raw(*path)
        keys = list(whole) if isinstance(whole, dict) else range(len(whole)) if isinstance(whole, list) else ()
        parts = {key: self.part(*path, key) for key in keys}
        return {key: part for key, part in parts.items() if part is not None}

    def _raw(self, *path: str | int) -> Any:
        node: Any = self._data
        for key in path:
            inside = key in node if isinstance(node, dict) else isinstance(node, list) and isinstance(key, int)
            node = node[key] if inside else None
        return node

    @property
    def task(self) -> dict[str, Any] | None:
        """The task, if there is a usable one."""
        task = self.part("task")
        return task if isinstance(task, dict) and "config" not in task else None


def _fault(*path: str | int, what: str, mend: str) -> Fault:
    return Fault(pointer=join_pointer(*path), what=what, mend=mend)


def _task_faults(form: _Form) -> Iterator[Fault]:
    if (form.task or {}).get("ckpt_path") is not None:
        yield _fault("task", "ckpt_path", what="a trial cannot go on from a checkpoint", mend=STUDY_OWNED["ckpt_path"])


def _space_faults(form: _Form) -> Iterator[Fault]:
    task = form.task
    for key, domain in form.entries("search_space").items():
        faults = list(_domain_faults(key, domain))
        yield from faults
        if key.split(".")[0] in STUDY_OWNED:
            owned = key.split(".")[0]
            yield _fault("search_space", key, what=f"{owned} belongs to the study", mend=STUDY_OWNED[owned])
        elif task is not None and not has_key(task, key):
            yield _fault("search_space", key, what=f"the task has no key {key!r}", mend=_nearest_leaf(key, task))
        elif task is not None and not faults:
            yield from _value_faults(key, domain, get_key(task, key))


def _domain_faults(key: str, domain: Mapping[str, Any]) -> Iterator[Fault]:
    if domain["type"] != "categorical":
        faults = list(_bound_faults(key, domain))
        yield from faults
        if faults:
            return
    if why := unsound(domain_of(domain)):
        yield _fault("search_space", key, what=why, mend="write another domain, or choose another unit")


def _bound_faults(key: str, domain: Mapping[str, Any]) -> Iterator[Fault]:
    low, high = domain["low"], domain["high"]
    if low >= high:
        mend = "write low below high, or take the key out of the search space"
        yield _fault("search_space", key, "low", what=f"low {low} is not below high {high}", mend=mend)
    if domain.get("scale") == "log" and low <= 0:
        mend = "write a low above 0, or scale: linear"
        yield _fault("search_space", key, "low", what=f"low {low} is not above 0, which scale: log needs", mend=mend)


def _value_faults(key: str, data: Mapping[str, Any], value: Any) -> Iterator[Fault]:
    domain = domain_of(data)
    mend = "widen the domain, or change the value in the task"
    if isinstance(value, (dict, list)):
        what, mend = f"the task has {show(value)} there, not a single value", "name a key inside it"
    elif not isinstance(domain, Categorical) and (isinstance(value, (str, bool)) or value is None):
        what, mend = (
            f"the task's value {show(value)} is not a number",
            "write a number in the task, or type: categorical",
        )
    elif not domain.contains(value):
        relation = "is not" if isinstance(domain, Categorical) else "is outside"
        what = f"the task's value {show(value)} {relation} {domain}"
    else:
        return
    yield _fault("search_space", key, what=what, mend=mend)


def _scales_faults(form: _Form) -> Iterator[Fault]:
    scales = form.entries("scales")
    names: dict[str, int] = {}
    for index, scale in scales.items():
        if scale["name"] in names:
            what = f"the name {scale['name']!r} is already that of scale {names[scale['name']]}"
            yield _fault("scales", index, "name", what=what, mend="give every scale a name of its own")
        names.setdefault(scale["name"], index)
        faults = list(_scale_faults(index, scale.get("set", {}), form))
        yield from faults
        if form.task is not None and not faults:
            yield from _end_faults(index, scale, form.task)


def _scale_faults(index: int, settings: Mapping[str, Any], form: _Form) -> Iterator[Fault]:
    searched = form.keys("search_space")
    for key, value in settings.items():
        others = [other for other in settings if other != key]
        trouble = (
            _owned(key)
            or _clash(key, searched, where="in the search space", mend="take one of the two out")
            or _clash(key, others, where="in the same scale", mend="keep one of the two")
            or (_misses(key, value, form.task) if form.task is not None else None)
        )
        if trouble:
            yield _fault("scales", index, "set", key, what=trouble[0], mend=trouble[1])


def _owned(key: str) -> tuple[str, str] | None:
    first, *rest = key.split(".")
    if not first or not all(rest):
        return f"{key!r} is not a dotted key", "write for example trainer.max_steps"
    return (f"{first} belongs to the study", STUDY_OWNED[first]) if first in STUDY_OWNED else None


def _clash(key: str, others: Sequence[str], *, where: str, mend: str) -> tuple[str, str] | None:
    """What stands at the same place as a key, above it or below it."""
    if key in others:
        return f"it is {where} too", mend
    clash = next((one for one in others if f"{key}.".startswith(f"{one}.") or one.startswith(f"{key}.")), None)
    return (f"it overlaps with {clash} {where}", mend) if clash else None


def _misses(key: str, value: Any, task: Mapping[str, Any]) -> tuple[str, str] | None:
    first = key.split(".")[0]
    sections = {**task, "trainer": None}
    if first not in sections:
        near = suggest(first, sections)
        return f"the task has no section {first!r}", f"did you mean {near!r}?" if near else f"it has {', '.join(task)}"
    try:
        apply_overrides(task, {key: value})
    except KeyError as error:
        return f"it cannot be set in the task ({error.args[0]})", "name a path of maps and existing list items"
    return None


def _end_faults(index: int, scale: Mapping[str, Any], task: Mapping[str, Any]) -> Iterator[Fault]:
    trainer = apply_overrides(task, scale.get("set", {})).get("trainer")
    settings = trainer if isinstance(trainer, dict) else {}
    if not settings.get("fast_dev_run") and all(settings.get(name) in (None, -1) for name in ENDS):
        what = (
            f"nothing ends a trial at the scale {scale['name']!r}, so Lightning would train for 1000 epochs or for ever"
        )
        yield _fault("scales", index, what=what, mend="set trainer.max_steps in the scale")


def _guards_faults(form: _Form) -> Iterator[Fault]:
    objective = form.part("objective") or {}
    seen: dict[str, int] = {}
    for index, guard in form.entries("guards").items():
        metric, least, most = guard["metric"], guard.get("min"), guard.get("max")
        if metric in seen:
            what = f"{metric!r} is already guarded by guard {seen[metric]}"
            yield _fault("guards", index, "metric", what=what, mend="put mode, min and max in one guard")
        seen.setdefault(metric, index)
        if guard.get("mode") is None and least is None and most is None:
            mend = "add `mode: min`, `mode: max`, `min:` or `max:`"
            yield _fault("guards", index, what=f"the guard {metric!r} forbids nothing", mend=mend)
        if least is not None and most is not None and least > most:
            yield _fault("guards", index, "min", what=f"min {least} is above max {most}", mend="swap them")
        if guard.get("hidden") and metric == objective.get("metric"):
            mend = "hide another metric; the scientist has to know the objective"
            yield _fault("guards", index, "metric", what=f"the objective {metric!r} cannot be hidden", mend=mend)


def _decision_faults(form: _Form) -> Iterator[Fault]:
    wanted = form.part("decision", "adopt_at")
    names = [scale["name"] for scale in form.entries("scales").values()]
    if wanted and names and wanted not in names:
        near = suggest(wanted, names)
        mend = f"did you mean {near!r}?" if near else f"write one of {', '.join(dict.fromkeys(names))}"
        yield _fault("decision", "adopt_at", what=f"there is no scale {wanted!r}", mend=mend)


def _nearest_leaf(
    key: str, task: Mapping[str, Any], *, otherwise: str = "write the key with its value into the task"
) -> str:
    leaves = list(_leaves(task))
    near = suggest(key, leaves) or next((leaf for leaf in leaves if leaf.split(".")[-1] == key.split(".")[-1]), "")
    return f"did you mean {near!r}?" if near else otherwise


def _leaves(node: Any, *, prefix: str = "") -> Iterator[str]:
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else None
    if items is None:
        yield prefix
        return
    for key, value in items:
        yield from _leaves(value, prefix=f"{prefix}.{key}" if prefix else str(key))


def _same(one: Any, other: Any) -> bool:
    return bool(one == other and isinstance(one, bool) == isinstance(other, bool))
