"""Copy a recipe and its spec into a folder of the user's."""

from __future__ import annotations

import shutil
from pathlib import Path

from lightning_autoresearch.bundled import resource
from lightning_autoresearch.document import parse
from lightning_autoresearch.errors import InputError


def recipe_names() -> tuple[str, ...]:
    """Names of the specs that come with the package."""
    return tuple(sorted(path.stem for path in resource("specs").glob("*.yaml")))


def copy_recipe(name: str, folder: Path) -> tuple[Path, ...]:
    """Copy a spec and the recipe that its task names.

    Returns:
        The files that were written.

    Raises:
        InputError: there is no such recipe, or a file of that name is there already.
    """
    if name not in recipe_names():
        raise InputError(f"there is no recipe {name!r}; there are: {', '.join(recipe_names())}")
    spec = resource("specs", f"{name}.yaml")
    module = parse(spec.read_text(encoding="utf-8")).data["task"]["model"]["class_path"].split(".")[1]
    copies = {
        spec: folder / f"{name}.yaml",
        resource("recipes", "__init__.py"): folder / "recipes" / "__init__.py",
        resource("recipes", f"{module}.py"): folder / "recipes" / f"{module}.py",
    }
    taken = [path for source, path in copies.items() if path.exists() and path.read_bytes() != source.read_bytes()]
    if taken:
        raise InputError(f"{taken[0]} is there already and differs; nothing was written, choose another folder")
    for source, path in copies.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, path)
    return tuple(copies.values())
