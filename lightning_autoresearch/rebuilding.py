"""Objects of a program made again: new ones for trials, and the old ones anew in place."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import partial, wraps
from types import MethodType
from typing import Any

import numpy as np
import torch
from lightning.pytorch.core.mixins.hparams_mixin import HyperparametersMixin
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader, Dataset

from lightning_autoresearch.errors import InputError, TrialError
from lightning_autoresearch.plain import like, plain
from lightning_autoresearch.space import get_key, has_key


def made_again(old: Any, changes: Mapping[str, Any]) -> Any:
    """A new object of the same class from the saved hyperparameters, as `load_from_checkpoint` makes one."""
    make = instantiator(old)
    arguments = _arguments(old, changes)
    fresh = make(type(old), arguments) if make else type(old)(**arguments)
    _refuse_other_values(fresh, changes)
    return fresh


def _refuse_other_values(fresh: Any, changes: Mapping[str, Any]) -> None:
    saved, name = plain(dict(fresh.hparams)), type(fresh).__name__
    for key, value in changes.items():
        if not has_key(saved, key):
            raise TrialError(f"{key} was set to {value!r}, and the constructor of {name} does not take it")
        if (got := get_key(saved, key)) != value:
            raise TrialError(
                f"{key} was set to {value!r} and {name} made it {got!r}: take the key out of the search space"
            )


def _arguments(old: HyperparametersMixin, changes: Mapping[str, Any]) -> dict[str, Any]:
    """The constructor's arguments: the saved hyperparameters, those that change in their places."""
    values = copy.deepcopy(old.hparams)
    for key, value in changes.items():
        *parents, last = key.split(".")
        node: Any = values
        for part in parents:
            node = node[part]
        node[last] = like(node.get(last), value)
    parameters = inspect.signature(type(old).__init__).parameters
    name = str(getattr(old, "_hparams_name", None))
    if name in parameters and name != "kwargs":
        return {name: values}
    takes_any = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
    hidden = ("_instantiator",)
    return {key: value for key, value in values.items() if key not in hidden and (takes_any or key in parameters)}


def instantiator(old: Any) -> Callable[[type, dict[str, Any]], Any] | None:
    """LightningCLI's way to make the object, where that made it."""
    if "_instantiator" not in old.hparams:
        return None
    from lightning.pytorch.cli import instantiate_module

    return instantiate_module


def carry_over(old: torch.nn.Module, new: torch.nn.Module) -> None:
    """Give a new model copies of what the program gave the old one after it was made; methods get bound to it.

    What both have is the new one's, but for what is frozen and what is in evaluation mode.
    """
    memo = _counterparts(_parts(old), new) | {id(old): new, id(getattr(old, "_trainer", None)): None}
    for name, value in old.__dict__.items():
        if name not in new.__dict__:
            new.__dict__[name] = _rebound(value, new, memo) if isinstance(value, MethodType) else copied(value, memo)
    _set_modes(_modes(old), new)


Modes = tuple[Mapping[str, bool], Mapping[str, bool]]


def _modes(model: torch.nn.Module) -> Modes:
    """(whether each parameter is trained, whether each module is in training mode), by name."""
    trained = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    return trained, {name: module.training for name, module in model.named_modules()}


def _set_modes(modes: Modes, model: torch.nn.Module) -> None:
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(modes[0].get(name, parameter.requires_grad))
    for name, module in model.named_modules():
        module.training = modes[1].get(name, module.training)


def _rebound(method: MethodType, new: Any, memo: dict[int, Any]) -> MethodType:
    """A method that was set on an object, for another one.

    LightningCLI sets `configure_optimizers` with an optimizer that it has made of the object's parameters.
    """
    function: Any = method.__func__
    if isinstance(function, partial):
        function = copy.deepcopy(function, {**memo, **_parameter_lists(function, new)})
        for one in function.keywords.values():
            if isinstance(one, LRScheduler):
                _count_steps(one.optimizer)
    return MethodType(function, new)


def _count_steps(optimizer: torch.optim.Optimizer) -> None:
    """What a scheduler does to its optimizer when it is made, so that it can tell a missing step; a copy lacks it."""
    step = type(optimizer).step

    @wraps(step)
    def counted(*args: Any, **kwargs: Any) -> Any:
        optimizer._opt_called = True  # type: ignore[attr-defined]
        return step(optimizer, *args, **kwargs)

    counted._wrapped_by_lr_sched = True  # type: ignore[attr-defined]
    optimizer.step = counted  # type: ignore[method-assign]


def _parts(whole: Any) -> dict[str, Any]:
    """Submodules and parameters of a model by name; empty for anything else."""
    if not isinstance(whole, torch.nn.Module):
        return {}
    return {**dict(whole.named_modules()), **dict(whole.named_parameters())}


def _counterparts(parts: Mapping[str, Any], new: Any) -> dict[int, Any]:
    """For `copy.deepcopy`: what stands in a new model for the parts of an old one."""
    others = _parts(new)
    return {id(part): others[name] for name, part in parts.items() if name in others}


def _parameter_lists(function: partial[Any], new: Any) -> dict[int, Any]:
    """For `copy.deepcopy`: a new model's parameters for the lists of them in an optimizer that a function holds."""
    optimizers = [one for one in function.keywords.values() if isinstance(one, torch.optim.Optimizer)]
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    return {id(group["params"]): list(new.parameters()) for group in groups} if len(groups) == 1 else {}


def renew(old: Any, ready_made: Any, changes: Mapping[str, Any]) -> None:
    """Make an object anew in place.

    A model keeps what the program gave it after it was made; a datamodule keeps nothing of that, since what its setup
    has made is among it.

    Args:
        old: the object.
        ready_made: a new one whose insides it gets; None to call its constructor.
        changes: hyperparameters that change.
    """
    before, parts = dict(old.__dict__), _parts(old)
    modes = _modes(old) if parts else None
    arguments = {} if ready_made else _arguments(old, changes)
    old.__dict__.clear()
    try:
        if ready_made:
            old.__dict__.update(ready_made.__dict__)
            _rebind(ready_made, old)
        else:
            old.__init__(**arguments)
    except BaseException:
        old.__dict__.clear()
        old.__dict__.update(before)
        raise
    if modes is None:
        return
    memo = _counterparts(parts, old) | {id(old): old}
    for name, value in before.items():
        if name not in old.__dict__:
            bound = isinstance(value, MethodType) and value.__self__ is old
            old.__dict__[name] = _rebound(value, old, memo) if bound else value
    _set_modes(modes, old)


def _rebind(from_: Any, to: Any) -> None:
    """Bind methods of one object that it has put into its own insides (hooks, patched methods) to another."""
    holders = [vars(module) for module in to.modules()] if isinstance(to, torch.nn.Module) else [vars(to)]
    for holder in holders:
        for one in (holder, *(value for value in holder.values() if isinstance(value, dict))):
            for key, value in one.items():
                if isinstance(value, MethodType) and value.__self__ is from_:
                    one[key] = MethodType(value.__func__, to)


def copied(value: Any, memo: dict[int, Any]) -> Any:
    """A copy with generators, samplers and other state of its own, datasets shared.

    Raises:
        InputError: it cannot be copied; shared, it would carry its state from trial to trial and into the fit.
    """
    try:
        return copy.deepcopy(value, {**memo, **{id(part): part for part in heavy(value)}})
    except (TypeError, RuntimeError) as error:
        raise InputError(
            f"{type(value).__name__} cannot be copied for a trial ({error}): make it in the constructor or in setup() "
            "of what has it, from hyperparameters that are saved"
        ) from error


def heavy(node: Any, *, depth: int = 4) -> Iterator[Any]:
    """What is shared instead of copied: datasets, tensors and arrays."""
    if isinstance(node, (Dataset, torch.Tensor, np.ndarray)):
        yield node
    elif isinstance(node, DataLoader):
        yield node.dataset
    elif depth and isinstance(node, Mapping):
        for one in node.values():
            yield from heavy(one, depth=depth - 1)
    elif depth and isinstance(node, (list, tuple)):
        for one in node:
            yield from heavy(one, depth=depth - 1)
