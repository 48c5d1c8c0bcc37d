"""Writes docs/spec.md from schemas/spec.schema.json, so that the page and the editor's help say the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
INTRO = """\
# The spec, key by key

Made from `schemas/spec.schema.json` by `python docs/make_spec_page.py`; `lightning-autoresearch schema` prints that
schema for your editor. The file is read strictly: YAML 1.2 scalars (`1e-3` is a number, `on` is text), no duplicate
keys, no anchors, no tags.

A *key* of the search space is a dotted path into the task, for example `model.init_args.lr`; a number in it indexes a
list (`trainer.callbacks.0.init_args.patience`).
"""


def page(schema: dict[str, Any]) -> str:
    """The whole page."""
    tops: dict[str, Any] = schema["properties"]
    rows = [f"| `{name}` | {_need(name, schema)} | {part['description']} |" for name, part in tops.items()]
    head = "\n## Top level\n\n| key | default | what |\n|---|---|---|\n" + "\n".join(rows) + "\n"
    return INTRO + head + "".join(_section(name, part) for name, part in tops.items())


def _section(name: str, part: dict[str, Any]) -> str:
    item = part.get("items", part)
    kinds = item if item.get("properties") else part.get("additionalProperties", {})
    if not isinstance(kinds, dict):
        return ""
    rows = list(_rows(kinds))
    for branch in kinds.get("allOf", []):
        when = branch["if"].get("properties", {}).get("type", {}).get("const")
        suffix = f" (type `{when}`)" if when else ""
        for part_of in (branch.get("then", {}), branch.get("else", {})):
            rows += [f"| `{key}`{suffix} | {default} | {what} |" for key, default, what in _fields(part_of)]
    if not rows:
        return ""
    return f"\n## {name}\n\n| key | default | what |\n|---|---|---|\n" + "\n".join(dict.fromkeys(rows)) + "\n"


def _rows(part: dict[str, Any]) -> list[str]:
    return [f"| `{key}` | {default} | {what} |" for key, default, what in _fields(part)]


def _fields(part: dict[str, Any]) -> list[tuple[str, str, str]]:
    return [
        (key, _need(key, part), field["description"])
        for key, field in part.get("properties", {}).items()
        if field is not True and "description" in field
    ]


def _need(key: str, part: dict[str, Any]) -> str:
    field = part["properties"][key]
    if "default" in field:
        return f"`{json.dumps(field['default'])}`"
    return "required" if key in part.get("required", []) else ""


if __name__ == "__main__":
    schema = json.loads((ROOT / "schemas" / "spec.schema.json").read_text(encoding="utf-8"))
    (ROOT / "docs" / "spec.md").write_text(page(schema), encoding="utf-8")
