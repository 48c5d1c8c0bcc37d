from __future__ import annotations

import json
import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_the_page_of_the_spec_says_what_the_schema_says():
    make = runpy.run_path(str(ROOT / "docs" / "make_spec_page.py"))["page"]
    schema = json.loads((ROOT / "schemas" / "spec.schema.json").read_text(encoding="utf-8"))
    assert (ROOT / "docs" / "spec.md").read_text(encoding="utf-8") == make(schema), "run python docs/make_spec_page.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_file_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_the_readme_commands_use_the_tested_versions():
    commands = [line for line in (ROOT / "README.md").read_text().splitlines() if "pip install" in line]
    assert len(commands) == 2
    assert all("-c constraints.txt" in line for line in commands)
    assert "torch==2.13.0" in (ROOT / "constraints.txt").read_text()
