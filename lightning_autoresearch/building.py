"""From a LightningCLI config to Trainer, model and data, as LightningCLI or the project's own CLI builds them.

Nothing is run, seeded or saved here: a CLI is stopped as soon as it has built.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeGuard

import lightning.pytorch as pl
from jsonargparse import ArgumentError, Namespace
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from lightning_autoresearch.errors import TrialError
from lightning_autoresearch.space import Value, apply_overrides, get_key, has_key, lies_in
from lightning_autoresearch.trial import Job, digest_of

QUIET: Mapping[str, Any] = {
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "logger": False,
    "num_sanity_val_steps": 0,
}
"""Trainer arguments of a trial, unless the task says otherwise."""
_TO_FIT = ("ckpt_path", "weights_only")
_TO_FILES = ("CSVLogger", "TensorBoardLogger")
_KEPT: dict[str, LightningArgumentParser] = {}
_REAL_INIT = LightningCLI.__init__


@dataclass(frozen=True, kw_only=True, slots=True)
class Training:
    """What a trial runs: one fit, and a closing validation where the last one is not of the last step."""

    trainer: pl.Trainer
    """The Trainer, not used before."""
    model: pl.LightningModule
    """The model, with fresh weights."""
    fit: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of `Trainer.fit` beside the model."""
    validate: Mapping[str, Any] = field(default_factory=dict)
    """The same of `Trainer.validate`."""
    digest: Callable[[], str]
    """SHA-256 of the effective configuration."""


class _Built(BaseException):
    """Stops whatever made a CLI, with the CLI; no exception that a project's code would catch."""

    def __init__(self, cli: LightningCLI):
        self.cli = cli


def build(config: Mapping[str, Any], *, requested: Mapping[str, Value]) -> LightningCLI:
    """Trainer, model and data of a config.

    Without a `cli` in the config any model and data class may be named.  `cli: module:NAME` names the project's own:
    a LightningCLI subclass, or a function that makes a CLI, for example the `main` of its training script.  Its model
    and data class, links, defaults and hooks hold; what it does after the CLI has built (a fit, a test) is not reached.

    Args:
        config: what `config_of` gave.
        requested: values that must hold in the config as parsed.

    Raises:
        TrialError: a requested value does not hold, or `cli` is none.
    """
    config = dict(config)
    name = config.pop("cli", None)
    make = _target(name) if name else LightningCLI
    with _intercepted(config, requested=requested, kept=name or ""):
        try:
            make()
        except _Built as built:
            return built.cli
    raise TrialError(f"task.cli: {name} made no LightningCLI; name the function or class that does")


def training_of(job: Job, folder: Path) -> Training:
    """What a job's LightningCLI config says, built.

    Raises:
        TrialError: as `build`.
    """
    config, arguments = config_of(job, folder)
    cli = build(config, requested=job.requested)
    data = {"datamodule": cli.datamodule}
    return Training(
        trainer=cli.trainer,
        model=cli.model,
        fit={**data, **arguments},
        validate=data,
        digest=partial(config_digest, cli),
    )


def let_go() -> None:
    """Forget what the kept parsers still know of the last model."""
    for parser in _KEPT.values():
        parser._instantiators = None  # they point back to the CLI, and so to the model


def config_of(job: Job, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the CLI is given, with quiet defaults, and what belongs to `Trainer.fit`."""
    config = apply_overrides(job.task, {})
    config.pop("seed_everything", None)
    arguments = {name: config.pop(name) for name in _TO_FIT if name in config}
    trainer = config.get("trainer") or {}
    quiet = {"default_root_dir": str(folder), "enable_checkpointing": _has_checkpoint(trainer), **QUIET}
    config["trainer"] = {**quiet, **trainer}
    if trainer.get("logger"):
        config["trainer"]["logger"] = _into(folder, trainer["logger"])
    return config, {name: value for name, value in arguments.items() if value is not None}


def _into(folder: Path, loggers: Any) -> Any:
    """Loggers that write files, with the trial's folder as the place: the project's own is for its own runs."""
    if isinstance(loggers, list):
        return [_into(folder, one) for one in loggers]
    if not isinstance(loggers, Mapping) or loggers.get("class_path", "").rpartition(".")[2] not in _TO_FILES:
        return loggers
    return {**loggers, "init_args": {**(loggers.get("init_args") or {}), "save_dir": str(folder)}}


def _has_checkpoint(trainer: Mapping[str, Any]) -> bool:
    callbacks = trainer.get("callbacks") or []
    listed = callbacks if isinstance(callbacks, list) else [callbacks]
    paths = (entry.get("class_path", "") if isinstance(entry, Mapping) else str(entry) for entry in listed)
    return any("Checkpoint" in path.rpartition(".")[2] for path in paths)


def config_digest(cli: LightningCLI) -> str:
    """Digest of the parsed config without what differs between equal trials: the folder."""
    cli._dump_config()
    dump = apply_overrides(cli.config_dump, {})
    dump.get("trainer", {}).pop("default_root_dir", None)
    dump.pop("seed_everything", None)
    return digest_of(dump)


def _target(name: str) -> Callable[[], Any]:
    """What `module:NAME` names.

    Raises:
        TrialError: there is no such module or name, or it cannot be called.
    """
    module, _, attribute = name.partition(":")
    try:
        target = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise TrialError(f"task.cli: {name} cannot be had: {error}") from error
    if not callable(target):
        raise TrialError(f"task.cli: {name} is no class or function but {type(target).__name__}")
    return target  # type: ignore[no-any-return]


@contextmanager
def _intercepted(config: Mapping[str, Any], *, requested: Mapping[str, Value], kept: str) -> Iterator[None]:
    """Let the next LightningCLI that is made build from a config, and stop there."""

    def init(cli: LightningCLI, *args: Any, **options: Any) -> None:
        cli.__class__ = _trial_class(type(cli))
        cli._trial = (requested, kept)  # type: ignore[attr-defined]
        said = _arguments(args, options)
        parser = {**(said.get("parser_kwargs") or {}), "exit_on_error": False, "default_config_files": None}
        parser = {key: value for key, value in parser.items() if key not in ("fit", "validate", "test", "predict")}
        plain = {
            "args": dict(config),
            "run": False,
            "save_config_callback": None,
            "seed_everything_default": False,
            "parser_kwargs": parser,
            "parser_class": _recording(said.get("parser_class") or LightningArgumentParser),
        }
        _REAL_INIT(cli, **{**said, **plain})
        raise _Built(cli)

    LightningCLI.__init__ = init  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        LightningCLI.__init__ = _REAL_INIT  # type: ignore[method-assign]


def _arguments(args: tuple[Any, ...], options: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a LightningCLI by name."""
    names = list(inspect.signature(_REAL_INIT).parameters)[1:]
    return {**dict(zip(names, args, strict=False)), **options}


class _TrialCLI:
    """What a CLI does in another way in a trial: one kept parser, and a look that what was asked for holds."""

    _trial: tuple[Mapping[str, Value], str]
    parser: LightningArgumentParser
    config: Namespace

    def setup_parser(
        self, add_subcommands: bool, main_kwargs: dict[str, Any], subparser_kwargs: dict[str, Any]
    ) -> None:
        """Use the kept parser: building one takes longer than all the rest of the instantiation."""
        kept = self._trial[1]
        if kept not in _KEPT:
            super().setup_parser(add_subcommands, main_kwargs, subparser_kwargs)  # type: ignore[misc]
            _KEPT[kept] = self.parser
        self.parser = _KEPT[kept]

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the config; 16.0 for an integer parameter is accepted as 16."""
        try:
            self.config = parser.parse_object(args)
        except ArgumentError as error:
            _refuse_other_package(error)
            whole = {key: int(value) for key, value in self._trial[0].items() if _is_whole(value)}
            if not whole:
                raise
            self.config = parser.parse_object(apply_overrides(args, whole))

    def before_instantiate_classes(self) -> None:
        """Refuse to run anything else than what was asked for, after the project's own hook."""
        super().before_instantiate_classes()  # type: ignore[misc]
        parsed = self.config.as_dict()
        links: Mapping[str, str] = self.parser.links  # type: ignore[attr-defined]
        for key, value in self._trial[0].items():
            if target := next((one for one in links if lies_in(key, [one]) or lies_in(one, [key])), None):
                raise TrialError(
                    f"{key} was set to {value!r}, but the project links {target} to {links[target]}: "
                    f"it would have no effect, so take the key out of the search space (or search {links[target]})"
                )
            if not has_key(parsed, key):
                raise TrialError(f"{key} was set to {value!r} and is not in the parsed config: it would have no effect")
            got = get_key(parsed, key)
            if not _same(got, value):
                raise TrialError(
                    f"{key} was set to {value!r} and the parsed config has {got!r}: "
                    "something else determines it (a linked argument?), so take the key out of the search space"
                )


def _refuse_other_package(error: ArgumentError) -> None:
    """Say what is wrong with a class that derives from the package's namesake.

    Raises:
        TrialError: it is that.
    """
    named = re.search(r"Import path ([\w.]+) does not correspond to a subclass", str(error))
    module, _, name = named.group(1).rpartition(".") if named else ("", "", "")
    bases = getattr(getattr(sys.modules.get(module), name, None), "__mro__", ())
    if any(base.__module__.startswith("pytorch_lightning.") for base in bases):
        raise TrialError(
            f"{module}.{name} is a class of pytorch_lightning, which a Trainer of lightning cannot run: "
            "write `import lightning.pytorch as pl` in its module"
        ) from None


@cache
def _recording(cls: type[LightningArgumentParser]) -> type[LightningArgumentParser]:
    """A parser class that remembers which keys are linked, and to what."""

    class Recording(cls):  # type: ignore[misc, valid-type]
        def __init__(self, *args: Any, **options: Any):
            self.links: dict[str, str] = {}
            super().__init__(*args, **options)

        def link_arguments(self, source: Any, target: str, *args: Any, **options: Any) -> None:
            super().link_arguments(source, target, *args, **options)
            self.links[target] = source if isinstance(source, str) else ", ".join(source)

    return Recording


def _trial_class(cls: type[LightningCLI]) -> type[LightningCLI]:
    """A CLI class as a trial uses it."""
    return type(cls.__name__, (_TrialCLI, cls), {"__module__": cls.__module__})


def _is_whole(value: Value) -> TypeGuard[float]:
    return isinstance(value, float) and value.is_integer()


def _same(got: Any, wanted: Value) -> bool:
    if isinstance(got, bool) != isinstance(wanted, bool):
        return False
    if isinstance(got, Namespace):  # a class given by its name alone
        got = got.get("class_path")
    return bool(got == wanted) or (isinstance(wanted, str) and wanted in (str(got), getattr(got, "name", None)))
