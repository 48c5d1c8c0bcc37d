"""Software that does research on model training and can be believed.

Everything that the commands do is a few lines of Python:

    from lightning_autoresearch import Study, load_spec

    summary = Study(load_spec("specs/quickstart.yaml")).run()
    print(summary.confirmed_gain)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lightning_autoresearch.version import __version__ as __version__

if TYPE_CHECKING:
    from lightning_autoresearch.callback import AutoResearch as AutoResearch
    from lightning_autoresearch.fold import summarize as summarize
    from lightning_autoresearch.spec import load_spec as load_spec
    from lightning_autoresearch.study import Study as Study

__all__ = ["AutoResearch", "Study", "__version__", "load_spec", "summarize"]

_HOME = {"AutoResearch": "callback", "Study": "study", "load_spec": "spec", "summarize": "fold"}


def __getattr__(name: str) -> Any:
    """Import on first use: `--help` and `check` must not wait for what they do not need."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
