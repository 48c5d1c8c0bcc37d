"""A W&B sweep's parameters as domains of a search space: every distribution of its format.

The format is that of https://docs.wandb.ai/models/sweeps/sweep-config-keys (read 2026-11-23).  The bounds of
`log_uniform`, `q_log_uniform` and `inv_log_uniform` are exponents of e; those of the `_values` variants are values.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

SPREAD = 2.0
"""Standard deviations to both sides of a normal distribution that become the bounds."""
DIGITS = 6
"""Significant digits of a bound."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Swept:
    """One parameter of a sweep."""

    name: str
    """Its name; nested ones with dots."""
    domain: Mapping[str, Any] | None
    """As a spec writes it; null where there is nothing to search."""
    note: str
    """What it was, and what was lost, in a few words."""


def parameters_of(sweep: Mapping[str, Any]) -> Iterator[Swept]:
    """The parameters of a sweep's configuration, in its order.

    >>> [one.domain for one in parameters_of({"parameters": {"lr": {"distribution": "log_uniform_values",
    ...     "min": 1e-4, "max": 0.1}}})]
    [{'type': 'float', 'low': 0.0001, 'high': 0.1, 'scale': 'log'}]
    """
    yield from _below(sweep.get("parameters"), ())


def objective_of_sweep(sweep: Mapping[str, Any]) -> tuple[str, str] | None:
    """The metric and its mode (`min` or `max`); None where the sweep names none."""
    metric = sweep.get("metric")
    if not isinstance(metric, Mapping) or not isinstance(metric.get("name"), str):
        return None
    return metric["name"], "max" if metric.get("goal") == "maximize" else "min"


def _below(node: Any, path: tuple[str, ...]) -> Iterator[Swept]:
    for name, settings in node.items() if isinstance(node, Mapping) else ():
        here = (*path, str(name))
        if isinstance(settings, Mapping) and isinstance(settings.get("parameters"), Mapping):
            yield from _below(settings["parameters"], here)
        else:
            yield _swept(".".join(here), settings if isinstance(settings, Mapping) else {})


def _swept(name: str, settings: Mapping[str, Any]) -> Swept:
    kind = settings.get("distribution") or _implied(settings)
    try:
        domain, lost = _domain(str(kind), settings)
    except (KeyError, TypeError, ValueError, OverflowError):
        return Swept(name=name, domain=None, note=f"{kind}: its settings do not make a domain")
    return Swept(name=name, domain=domain, note=f"{kind}{f'; {lost}' if lost else ''}")


def _implied(settings: Mapping[str, Any]) -> str:
    """The distribution that a sweep means where it names none."""
    if "value" in settings:
        return "constant"
    if "values" in settings:
        return "categorical_w_probabilities" if "probabilities" in settings else "categorical"
    if "mu" in settings or "sigma" in settings:
        return "normal"
    whole = all(isinstance(settings.get(end), int) for end in ("min", "max"))
    return "int_uniform" if whole else "uniform"


def _domain(kind: str, settings: Mapping[str, Any]) -> tuple[Mapping[str, Any] | None, str]:
    """The domain, and what it does not keep of the distribution."""
    if kind == "constant":
        return None, f"set {settings['value']!r} in the config"
    if kind.startswith("categorical"):
        return _choices(settings["values"], weighed=kind != "categorical")
    step = settings.get("q", 1) if kind.startswith("q_") else None
    plain = kind.removeprefix("q_")
    low, high, scale, lost = _bounds(plain, settings)
    if kind == "int_uniform" or (isinstance(step, int) and low < math.floor(high)):
        least, most = math.ceil(low - 1e-9), math.floor(high + 1e-9)
        if least >= most or (scale == "log" and least < 1):
            raise ValueError(kind)
        lost = "; ".join(filter(None, (lost, f"steps of {step} are not kept" if step not in (None, 1) else "")))
        return {"type": "int", "low": least, "high": most, **({"scale": scale} if scale == "log" else {})}, lost
    lost = "; ".join(filter(None, (lost, f"steps of {step} are not kept" if step is not None else "")))
    ends = {"low": _short(low), "high": _short(high)}
    if not ends["low"] < ends["high"] or (scale == "log" and ends["low"] <= 0):
        raise ValueError(kind)
    return {"type": "float", **ends, **({"scale": scale} if scale == "log" else {})}, lost


def _choices(values: Any, *, weighed: bool) -> tuple[Mapping[str, Any] | None, str]:
    plain = [value for value in values if value is None or isinstance(value, (bool, int, float, str))]
    if len(plain) < 2:
        return None, "fewer than two single values"
    dropped = len(values) - len(plain)
    lost = [f"{dropped} nested values are left out"] if dropped else []
    lost += ["the probabilities are not kept"] if weighed else []
    return {"type": "categorical", "choices": plain}, "; ".join(lost)


def _bounds(kind: str, settings: Mapping[str, Any]) -> tuple[float, float, str, str]:
    """Lower end, upper end, scale, and what is lost."""
    if kind in ("normal", "log_normal"):
        mu, sigma = float(settings.get("mu", 0)), abs(float(settings.get("sigma", 1)))
        ends = mu - SPREAD * sigma, mu + SPREAD * sigma
        lost = f"bounds at {SPREAD:g} standard deviations"
        return (*ends, "linear", lost) if kind == "normal" else (math.exp(ends[0]), math.exp(ends[1]), "log", lost)
    if kind == "beta":
        return 0.0, 1.0, "linear", "the shape is not kept"
    low, high = float(settings["min"]), float(settings["max"])
    if kind in ("int_uniform", "uniform"):
        return low, high, "linear", ""
    if kind in ("log_uniform_values", "inv_log_uniform_values"):
        return low, high, "log", ""
    if kind == "log_uniform":
        return math.exp(low), math.exp(high), "log", ""
    if kind == "inv_log_uniform":
        return math.exp(-high), math.exp(-low), "log", ""
    raise ValueError(kind)


def _short(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
