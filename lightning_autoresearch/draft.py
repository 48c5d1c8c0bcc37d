"""A first spec for a LightningCLI project: guesses from names and values, each said to be one.

The text is meant to be read and changed.  What cannot be guessed with some confidence stands there as a comment.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_autoresearch.emit import flow_text, scalar_text
from lightning_autoresearch.knobs import SEED, Knob, knobs_of
from lightning_autoresearch.space import Value
from lightning_autoresearch.spec import Spec, parse_spec
from lightning_autoresearch.sweeps import objective_of_sweep, parameters_of
from lightning_autoresearch.trial import TrialResult

MEASURED = ("train_seconds", "peak_memory_gb", "parameters")
"""Metrics of every trial that its model did not log."""
MOST_KEYS = 10
"""Keys of the first search space; more are proposed as comments."""
SECTIONS = ("model", "data", "optimizer", "lr_scheduler")
"""Sections of a config in which keys are looked for."""
SHORT = 0.25
"""Length of the cheap scale, as a part of the whole training."""
LEAST_LENGTH = 4
"""Epochs or steps from which on a cheaper scale is proposed."""
_NOT_SEARCHED = ("class_path", "num_workers", "verbose", "T_max", "total_steps", "total_iters")


@dataclass(frozen=True, kw_only=True, slots=True)
class Guess:
    """A domain for a key, and why."""

    key: str
    """The dotted key."""
    domain: Mapping[str, Any]
    """As a spec writes it."""
    why: str
    """The reason, in a few words."""
    sure: bool
    """Whether it is proposed, or only mentioned in a comment."""


def draft_for(
    config: Path,
    *,
    folder: Path,
    cli: str | None,
    probe: Callable[[Spec], TrialResult],
    sweep: Mapping[str, Any] | None = None,
) -> tuple[str, str]:
    """A first spec for a config, after two steps of it.

    Args:
        config: the config file.
        folder: where the spec shall stand.
        cli: what makes the project's CLI, `module:NAME`; None for plain LightningCLI.
        probe: runs two steps.
        sweep: configuration of a W&B sweep, which says better than a guess what may be varied.

    Returns:
        (the spec's text, what went wrong with the two steps or "").

    Raises:
        SpecError: the config cannot be read, or is none.
    """
    name = os.path.relpath(config, folder)
    known: dict[str, Any] = {"name": config.resolve().parent.name or "study", "config": name, "cli": cli}
    bare = draft(**known, task={}, knobs={}, logged=())
    spec = parse_spec(bare, path=folder / "spec.yaml")
    knobs = knobs_of(spec, search_path=(str(folder), os.getcwd()))
    result = probe(spec)
    logged = sorted(set(result.metrics) - set(MEASURED))
    text = draft(**known, task=spec.task, knobs=knobs, logged=logged, sweep=sweep)
    parse_spec(text, path=folder / "spec.yaml")
    return text, "" if logged else result.failure or result.status.value


def draft(
    *,
    name: str,
    config: str,
    cli: str | None,
    task: Mapping[str, Any],
    knobs: Mapping[str, Knob],
    logged: Collection[str],
    sweep: Mapping[str, Any] | None = None,
) -> str:
    """The text of a first spec.

    Args:
        name: name of the study.
        config: the config file, relative to the spec.
        cli: what makes the project's CLI, `module:NAME`; None for plain LightningCLI.
        task: what the config holds.
        knobs: what is known of its classes' arguments.
        logged: metrics that two steps of it logged; empty where they are not known.
        sweep: configuration of a W&B sweep, if there is one: its parameters and its metric instead of guesses.
    """
    metric, mode, others = objective_of(logged)
    guesses = list(guesses_of(task, knobs))
    swept: list[str] = []
    if sweep is not None:
        guessed = metric
        metric, mode = objective_of_sweep(sweep) or (metric, mode)
        others = [name for name in (guessed, *others) if name != metric and name in logged]
        guesses, swept = swept_guesses(sweep, task)
    sure = [guess for guess in guesses if guess.sure][: None if sweep else MOST_KEYS]
    rest = [guess for guess in guesses if guess not in sure]
    known = "" if logged else "  # a guess: what is logged could not be found out"
    lines = [
        "# A first spec, written from the config: every domain, the objective and the scales are guesses from names",
        "# and values.  Read it, change it, then: lightning-autoresearch check --deep THIS_FILE",
        "version: 1",
        f"name: {scalar_text(name)}",
        f"goal: {scalar_text(f'Make {metric} {_BETTER[mode]} with the training that we have.')}",
        "",
        f"task: {flow_text({'cli': cli, 'config': config} if cli else {'config': config})}",
        "",
        f"objective: {{metric: {scalar_text(metric, flow=True)}, mode: {mode}}}{known}",
        *_guards(others),
        "",
        "search_space:" + ("" if sure else " {}"),
        *(f"  {scalar_text(guess.key)}: {flow_text(guess.domain)}  # {guess.why}" for guess in sure),
        *(f"  # {scalar_text(guess.key)}: {flow_text(guess.domain)}  # {guess.why}" for guess in rest),
        *(f"  # {line}" for line in swept),
        "",
        *_scales(task),
        "",
        "# A hypothesis changes at most two keys, a positive number by at most a factor of four.",
        "policy: {max_changes: 2, max_factor: 4.0}",
        "",
        "budget: {trials: 150, hours: 8}",
        "execution: {slots: 1, timeout_seconds: 3600}",
    ]
    return "\n".join(lines) + "\n"


# ----------------------------------------------------------------------------------------------------------- objective
_BETTER = {"min": "lower", "max": "higher"}
_LARGER = re.compile(r"acc|auroc|auc|f1|iou|dice|map\b|precision|recall|r2|psnr|ssim|bleu|rouge|reward|score")


def objective_of(logged: Collection[str]) -> tuple[str, str, list[str]]:
    """The metric that is most likely the objective, its mode, and what else is measured on validation data.

    >>> objective_of(["train_loss", "val/acc", "val/loss", "lr-AdamW"])
    ('val/loss', 'min', ['val/acc'])
    """
    judged = [name for name in logged if re.match(r"(val|valid|validation|eval|dev)([_/.-]|$)", name, re.IGNORECASE)]
    judged = sorted(judged, key=lambda name: ("loss" not in name.lower(), name))
    if not judged:
        loss = [name for name in logged if "loss" in name.lower()]
        return (loss or ["val_loss"])[0], "min", []
    return judged[0], mode_of(judged[0]), judged[1:]


def mode_of(metric: str) -> str:
    """Whether a metric of this name is usually to fall (`min`) or to rise (`max`)."""
    return "max" if _LARGER.search(metric.lower()) and "loss" not in metric.lower() else "min"


def _guards(metrics: Collection[str]) -> Iterator[str]:
    if not metrics:
        return
    yield "# What may not get worse meanwhile, if you want that:"
    yield "# guards:"
    yield from (f"#   - {{metric: {scalar_text(name, flow=True)}, mode: {mode_of(name)}}}" for name in metrics)


# -------------------------------------------------------------------------------------------------------------- domains
def guesses_of(task: Mapping[str, Any], knobs: Mapping[str, Knob]) -> Iterator[Guess]:
    """A domain for every single value in the config's sections that may be searched, in the config's order."""
    for key, value in _leaves({name: task.get(name) for name in SECTIONS}, ()):
        last = key.rpartition(".")[2]
        if last in _NOT_SEARCHED or last.startswith("_") or SEED.fullmatch(last):
            continue
        knob = knobs.get(key)
        if knob is not None and knob.kind == "choice" and len(knob.options) > 1:
            choices = list(knob.options)
            yield Guess(
                key=key, domain={"type": "categorical", "choices": choices}, why="its type's choices", sure=True
            )
        elif isinstance(value, bool):
            yield Guess(
                key=key, domain={"type": "categorical", "choices": [value, not value]}, why="a switch", sure=False
            )
        elif isinstance(value, (int, float)):
            yield _number(key, last.lower(), value)


def swept_guesses(sweep: Mapping[str, Any], task: Mapping[str, Any]) -> tuple[list[Guess], list[str]]:
    """A sweep's parameters as guesses for the keys of a task that they name, in full or by their end.

    Returns:
        (the guesses, a line for each parameter that gives none).
    """
    keys = [key for key, _ in _leaves(task, ())]
    guesses, lines = [], []
    for one in parameters_of(sweep):
        named = [key for key in keys if key == one.name] or [key for key in keys if key.endswith(f".{one.name}")]
        if one.domain is None:
            lines.append(f"{one.name}: {one.note}")
        elif len(named) != 1:
            several = (
                f"several keys of the config end so: {', '.join(named)}" if named else "the config has no such key"
            )
            lines.append(f"{one.name}: {flow_text(one.domain)}  # {several}")
        else:
            guesses.append(Guess(key=named[0], domain=one.domain, why=f"from the sweep, {one.note}", sure=True))
    return guesses, lines


def _leaves(node: Any, path: tuple[str, ...]) -> Iterator[tuple[str, Value]]:
    if isinstance(node, Mapping):
        for key, item in node.items():
            yield from _leaves(item, (*path, str(key)))
    elif not isinstance(node, list) and node is not None:
        yield ".".join(path), node


def _number(key: str, last: str, value: float) -> Guess:
    for pattern, rule in _RULES:
        if pattern.search(last) and (found := rule(value)):
            domain, why = found
            return Guess(key=key, domain=domain, why=f"{why}, now {value:g}", sure=True)
    domain = _around(value, 4.0 if isinstance(value, int) else 10.0) if value > 0 else _linear(min(value, 0.0), 1.0)
    return Guess(key=key, domain=domain, why=f"does it matter? now {value:g}", sure=False)


def _around(value: float, factor: float) -> Mapping[str, Any]:
    """A logarithmic domain around a positive value."""
    if isinstance(value, int):
        low, high = max(1, int(value / factor)), max(int(value * factor), value + 1)
        return {"type": "int", "low": low, "high": high, "scale": "log"}
    return {"type": "float", "low": _short(value / factor), "high": _short(value * factor), "scale": "log"}


def _short(value: float) -> float:
    return float(f"{value:.2g}")


def _linear(low: float, high: float) -> Mapping[str, Any]:
    return {"type": "float", "low": float(low), "high": float(high)}


def _rate(value: float) -> tuple[Mapping[str, Any], str] | None:
    return (_around(float(value), 10.0), "a learning rate: ten times to both sides") if value > 0 else None


def _decay(value: float) -> tuple[Mapping[str, Any], str] | None:
    return (_around(float(value), 10.0) if value > 0 else _linear(0, 0.1)), "a decay"


def _share(value: float) -> tuple[Mapping[str, Any], str] | None:
    return (_linear(0, max(0.5, _short(min(1.0, 2 * value)))), "a share") if 0 <= value < 1 else None


def _memory(value: float) -> tuple[Mapping[str, Any], str] | None:
    return (_linear(min(0.8, value), max(0.99, value)), "an averaging constant") if 0 < value < 1 else None


def _size(value: float) -> tuple[Mapping[str, Any], str] | None:
    whole = isinstance(value, int) and value > 0
    return (_around(value, 4.0), "a size: four times to both sides; it changes the cost") if whole else None


def _count(value: float) -> tuple[Mapping[str, Any], str] | None:
    if not isinstance(value, int) or value < 0:
        return None
    return {"type": "int", "low": max(0, value - 2), "high": value + 3}, "a number of layers; it changes the cost"


def _batch(value: float) -> tuple[Mapping[str, Any], str] | None:
    whole = isinstance(value, int) and value > 0
    return (_around(value, 4.0), "a batch size: four times to both sides") if whole else None


_RULES: tuple[tuple[re.Pattern[str], Callable[[float], tuple[Mapping[str, Any], str] | None]], ...] = (
    (re.compile(r"(^|_)lr$|^lr|learning_?rate"), _rate),
    (re.compile(r"weight_?decay|^wd$|l2|(^|_)gamma$"), _decay),
    (re.compile(r"drop|smoothing|mask_?prob|mixup|cutmix|noise"), _share),
    (re.compile(r"momentum|beta\d?$|ema"), _memory),
    (re.compile(r"batch_?size"), _batch),
    (re.compile(r"width|hidden|(^|_)dim$|channels|units|features_out|embed"), _size),
    (re.compile(r"depth|(num|n)_?layers|blocks"), _count),
    (re.compile(r"warm_?up"), _size),
)


# --------------------------------------------------------------------------------------------------------------- scales
def _scales(task: Mapping[str, Any]) -> Iterator[str]:
    trainer = task.get("trainer") or {}
    lengths = ((key, trainer.get(key)) for key in ("max_steps", "max_epochs"))
    key, length = next(((key, value) for key, value in lengths if isinstance(value, int) and value > 0), ("", 0))
    yield "# From cheap to dear: hypotheses are screened at the first scale, and what survives is gated at each."
    yield "scales:"
    if not key:
        yield "  - {name: whole, set: {trainer.max_steps: 1000}}  # the config names no length: write yours"
        return
    if length >= LEAST_LENGTH:
        short = max(1, round(SHORT * length))
        own = _own_length(task, length)
        settings = {f"trainer.{key}": short} | ({own: short} if own else {})
        said = "  # the schedule's own length follows" if own else ""
        yield f"  - {{name: short, set: {flow_text(settings)}}}{said}"
    yield f"  - {{name: whole, set: {{trainer.{key}: {length}}}}}"


def _own_length(task: Mapping[str, Any], length: int) -> str:
    """The key of a schedule's own length, where that is the training's; else empty."""
    arguments = (task.get("lr_scheduler") or {}).get("init_args") or {}
    named = (name for name in ("T_max", "total_steps", "total_iters") if arguments.get(name) == length)
    return next((f"lr_scheduler.init_args.{name}" for name in named), "")
