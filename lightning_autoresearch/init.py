"""Copy a recipe and its spec into a folder of the user's."""

from __future__ import annotations

import shutil
from pathlib import Path

from lightning_autoresearch.bundled import resource
from lightning_autoresearch.document import parse
from lightning_autoresearch.errors import InputError


def recipe_names() -> tuple[str, ...]:
    """Names of the specs, and of the whole projects with a spec, that come with the package."""
    projects = (path.parent.name for path in resource("recipes").glob("*/spec.yaml"))
    return tuple(sorted([*(path.stem for path in resource("specs").glob("*.yaml")), *projects]))


def copy_recipe(name: str, folder: Path) -> tuple[Path, ...]:
    """Copy a spec and the recipe that its task names, or a whole project with its spec.

    Returns:
        The files that were written.

    Raises:
        InputError: there is no such recipe, or a file of that name is there already.
    """
    if name not in recipe_names():
        raise InputError(f"there is no recipe {name!r}; there are: {', '.join(recipe_names())}")
    copies = _of_project(name, folder) or _of_spec(name, folder)
    taken = [path for source, path in copies.items() if path.exists() and path.read_bytes() != source.read_bytes()]
    if taken:
        raise InputError(f"{taken[0]} is there already and differs; nothing was written, choose another folder")
    for source, path in copies.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, path)
    return tuple(copies.values())


def _of_project(name: str, folder: Path) -> dict[Path, Path]:
    """What is copied where of a whole project; empty where the recipe is none."""
    root = resource("recipes") / name
    files = [path for path in sorted(root.rglob("*")) if path.is_file() and "__pycache__" not in path.parts]
    return {path: folder / path.relative_to(root) for path in files}


def _of_spec(name: str, folder: Path) -> dict[Path, Path]:
    """What is copied where of a spec and the module that it names."""
    spec = resource("specs", f"{name}.yaml")
    module = parse(spec.read_text(encoding="utf-8")).data["task"]["model"]["class_path"].split(".")[1]
    return {
        spec: folder / f"{name}.yaml",
        resource("recipes", "__init__.py"): folder / "recipes" / "__init__.py",
        resource("recipes", f"{module}.py"): folder / "recipes" / f"{module}.py",
    }
