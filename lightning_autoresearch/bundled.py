"""Files that come with the package: `schemas/`, `specs/`, `prompts/` and `recipes/`.

A wheel carries them inside the package, in `bundled/`; in an editable checkout they lie beside it.
"""

from __future__ import annotations

from pathlib import Path

from lightning_autoresearch.errors import ResearchError

_PACKAGE = Path(__file__).parent


def resource(*parts: str) -> Path:
    """The path of a bundled file or folder, for example `resource("schemas", "spec.schema.json")`.

    Raises:
        ResearchError: it is in neither place.
    """
    return _root_of(*parts).joinpath(*parts)


def recipes_root() -> Path:
    """The folder to put at the end of `sys.path` so that `import recipes.gpt` works where the user has no such module.

    Raises:
        ResearchError: the recipes are in neither place.
    """
    return _root_of("recipes")


def _root_of(*parts: str) -> Path:
    roots = (_PACKAGE / "bundled", _PACKAGE.parent)
    for root in roots:
        if root.joinpath(*parts).exists():
            return root
    places = " nor in ".join(map(str, roots))
    raise ResearchError(f"{'/'.join(parts)} is neither in {places}; install lightning-autoresearch again")
