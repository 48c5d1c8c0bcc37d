"""Putting texts into a prompt: foreign ones made fit to be shown, ours filled in from `prompts/*.md`.

Foreign is what comes from files, programs and models: documentation, tasks, research notes, failures, statements.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from functools import cache
from string import Template

from lightning_autoresearch.bundled import resource
from lightning_autoresearch.redaction import REDACTED, SHORTEST_SECRET, is_secret_name, plain, redact
from lightning_autoresearch.spec import Spec

MOST_CHARACTERS = 20_000
"""A text that is longer is looked at no further."""
MOST_LEAF = 1_000
"""Length at which a text within data is cut."""
CUT = " [...] "
"""What stands where something was cut out."""
CUT_CHARACTERS = 2_000
"""What is then dropped at its end, so that no half of a secret stays there."""


class Voice:
    """Makes texts that are not ours fit to be shown.

    Args:
        spec: names the hidden metrics.
        secrets: texts that may not be shown.
    """

    def __init__(self, spec: Spec, *, secrets: Collection[str] = ()):
        guards = spec.guards
        shown = {spec.objective.metric, *(guard.metric for guard in guards if not guard.hidden)}
        hidden = {guard.metric for guard in guards if guard.hidden} - shown
        self._secrets = secrets
        self._hidden = _hidden_pattern(shown, hidden) if hidden else None
        self._known: dict[str, str] = {}

    def clean(self, text: str, most: int) -> str:
        """The text without control characters, secrets and hidden metrics, cut in the middle at `most` characters."""
        if text not in self._known:
            self._known[text] = self._cleaned(text)
        return _cut(self._known[text], most)

    def tree(self, data: object) -> str:
        """Plain data as JSON, with every text in it cleaned, and none shown whose key is the name of a secret."""
        return json.dumps(self._tree(data), ensure_ascii=False, default=str)

    def _tree(self, node: object, *, secret: bool = False) -> object:
        if isinstance(node, Mapping):
            return {
                self.clean(str(key), MOST_LEAF): self._tree(value, secret=secret or is_secret_name(str(key)))
                for key, value in node.items()
            }
        if isinstance(node, (list, tuple)):
            return [self._tree(one, secret=secret) for one in node]
        if not isinstance(node, str):
            return node
        return REDACTED if secret and len(node) >= SHORTEST_SECRET else self.clean(node, MOST_LEAF)

    def _cleaned(self, text: str) -> str:
        """The whole text, cleaned; of one that is far too long the beginning, without half a secret at its end."""
        cleaned = redact(plain(text[:MOST_CHARACTERS], most=MOST_CHARACTERS), secrets=self._secrets)
        if len(text) > MOST_CHARACTERS:
            cleaned = cleaned[:-CUT_CHARACTERS]
        if self._hidden is None:
            return cleaned
        return self._hidden.sub(lambda found: found["shown"] or "[hidden]", cleaned)

    def verdict(self, sentence: str, most: int) -> str:
        """The sentence of a decision, quoted; one that speaks of a hidden metric is told without its numbers."""
        if self._hidden is not None and any(not found["shown"] for found in self._hidden.finditer(sentence)):
            sentence = "Refused: a metric that is not shown here got worse."
        return self.quote(sentence, most)

    def quote(self, text: str, most: int) -> str:
        """The same as a JSON string, at most `most` characters long in all (two at least)."""
        room = most - 2
        while len(said := json_text(self.clean(text, max(room, 0)))) > most and room > 0:
            room -= max(1, (len(said) - most) // 2)
        return said


def _cut(text: str, most: int) -> str:
    """The text, or its beginning and its end."""
    if len(text) <= most:
        return text
    front = max(0, most - len(CUT)) * 2 // 3
    back = max(0, most - len(CUT) - front)
    return (text[:front] + CUT + text[len(text) - back :])[:most]


def _hidden_pattern(shown: Iterable[str], hidden: Iterable[str]) -> re.Pattern[str]:
    """Matches hidden metrics with the number that follows, and shown ones, which may contain a hidden one's name."""
    one, other = (
        "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True)) for names in (shown, hidden)
    )
    value = r"(?:_step|_epoch)?(?:[\"']?\s*[=:,]?\s*[-+]?\d[\d.]*(?:e[-+]?\d+)?)?"
    return re.compile(rf"(?<![A-Za-z0-9])(?:(?P<shown>{one})|(?:{other}){value})(?![A-Za-z0-9])", flags=re.IGNORECASE)


def json_text(text: str) -> str:
    """A text as a JSON string."""
    return json.dumps(text, ensure_ascii=False)


def filled(name: str, **values: str) -> str:
    """A file of `prompts/` with its `$names` filled in; what is filled in is not looked at again."""
    return Template(wording_of(name)).substitute(values)


@cache
def wording_of(name: str) -> str:
    """A file of `prompts/` as it is."""
    return resource("prompts", name).read_text(encoding="utf-8")


def cut_lines(text: str, *, room: int, rest: str) -> str:
    """The text, or its first lines that fit and how many do not."""
    if len(text) <= room:
        return text
    lines = text.split("\n")
    kept: list[str] = []
    left = room - len(rest) - 12
    for line in lines:
        left -= len(line) + 1
        if left < 0:
            break
        kept.append(line)
    return "\n".join([*kept, f"and {len(lines) - len(kept)} {rest}"])
