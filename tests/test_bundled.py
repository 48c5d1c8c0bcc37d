from __future__ import annotations

from pathlib import Path

import pytest

from lightning_autoresearch import bundled
from lightning_autoresearch.bundled import recipes_root, resource
from lightning_autoresearch.errors import ResearchError


def test_a_checkout_has_its_files_beside_the_package() -> None:
    assert resource("schemas", "spec.schema.json").is_file()
    assert (recipes_root() / "recipes" / "__init__.py").is_file()


def test_a_wheel_has_its_files_inside_the_package_and_they_come_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "lightning_autoresearch"
    for folder in (package / "bundled" / "recipes", tmp_path / "recipes", tmp_path / "specs"):
        folder.mkdir(parents=True)
    monkeypatch.setattr(bundled, "_PACKAGE", package)
    assert recipes_root() == package / "bundled"
    assert resource("recipes") == package / "bundled" / "recipes"
    assert resource("specs") == tmp_path / "specs"


def test_a_missing_file_names_both_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundled, "_PACKAGE", tmp_path / "package")
    with pytest.raises(ResearchError, match=r"schemas/x\.json is neither in .*bundled nor in .*install .* again"):
        resource("schemas", "x.json")
