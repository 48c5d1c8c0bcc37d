"""Is a model what its constructor gives again?  Differences that would make trials train something else, in words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from lightning_autoresearch.plain import plain

_LAZY = (torch.nn.parameter.UninitializedParameter, torch.nn.parameter.UninitializedBuffer)


def difference(model: Any, fresh: tuple[Any, Any]) -> str:
    """The first thing in which a model differs from itself made again, in words; empty where there is none.

    Args:
        model: the program's model, before its fit.
        fresh: two models made again with different seeds: what differs between them is random, and not compared.
    """
    return next(_differences(model, fresh), "")


def _differences(model: Any, fresh: tuple[Any, Any]) -> Iterator[str]:
    mine, (one, other) = _tensors(model), map(_tensors, fresh)
    for name in {**mine, **one}:
        if _shape(mine.get(name)) != _shape(one.get(name)):
            yield f"{name} is {_shape(mine.get(name))}, and {_shape(one.get(name))} when it is made again"
        elif mine[name].dtype != one[name].dtype:
            yield f"{name} is of {mine[name].dtype}, and of {one[name].dtype} when it is made again"
    for name, value in mine.items():
        if value._version > one[name]._version and isinstance(value, torch.nn.Parameter):
            yield f"{name} was changed after the constructor"
        if torch.equal(one[name], other[name]) and not torch.equal(value.cpu(), one[name].cpu()):
            yield f"{name} has other values than when it is made again"
    hparams = plain(dict(model.hparams)), plain(dict(fresh[0].hparams))
    if hparams[0] != hparams[1]:
        key = next(key for key in {**hparams[0], **hparams[1]} if hparams[0].get(key) != hparams[1].get(key))
        yield f"the hyperparameter {key} is {hparams[0].get(key)!r}, and {hparams[1].get(key)!r} when it is made again"
    yield from _of_modules(model, fresh)


def _of_modules(model: Any, fresh: tuple[Any, Any]) -> Iterator[str]:
    """Differences in the classes and plain attributes of submodules."""
    others = [dict(one.named_modules()) for one in fresh]
    for name, module in model.named_modules():
        where = name or "the model"
        again = others[0].get(name)
        if again is None or type(module) is not type(again):
            yield f"{where} is a {type(module).__name__}, and {type(again).__name__} when it is made again"
            continue
        attributes = _attributes(module), _attributes(again), _attributes(others[1][name])
        for key, value in attributes[0].items():
            pair = attributes[1].get(key, value), attributes[2].get(key, value)
            if _same(*pair) and not _same(value, pair[0]):
                yield f"{key} of {where} is {_short(value)}, and {_short(pair[0])} when it is made again"


def _attributes(module: torch.nn.Module) -> dict[str, Any]:
    """Public attributes that are neither parameters nor modules, nor the mode."""
    return {key: value for key, value in vars(module).items() if not key.startswith("_") and key != "training"}


def _same(one: Any, other: Any) -> bool:
    """Whether two values are equal, as far as it can be told: of objects without a plain value, the class."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.shape == other.shape and torch.equal(one.cpu(), other.cpu())
    if type(one) is not type(other):
        return False
    if isinstance(one, (bool, int, float, str, type(None))):
        return bool(one == other) or one != one
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(_same, one, other))
    return True


def shared(models: tuple[Any, ...]) -> str:
    """Name of a parameter or buffer that two models have in common; empty where there is none."""
    seen: dict[int, int] = {}
    for number, model in enumerate(models):
        for name, value in _tensors(model).items():
            if value.numel() and seen.setdefault(value.data_ptr(), number) != number:
                return name
    return ""


def _tensors(model: Any) -> dict[str, torch.Tensor]:
    """Parameters and buffers that have a shape already."""
    named = (*model.named_parameters(), *model.named_buffers())
    return {name: value for name, value in named if not isinstance(value, _LAZY) and not value.is_meta}


def _shape(value: torch.Tensor | None) -> str:
    return "missing" if value is None else "x".join(map(str, value.shape)) or "a scalar"


def _short(value: Any) -> str:
    plainly = value is None or isinstance(value, (bool, int, float, str, torch.Tensor))
    text = repr(value) if plainly else f"a {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "..."
