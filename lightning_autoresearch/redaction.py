"""Secrets out of texts, and texts made harmless: what goes into a prompt, a journal, a report or a log passes here.

Two nets.  The values of environment variables whose names look like secrets, and that of the variable that holds the
scientist's key, are taken out wherever they stand, whatever blanks and line ends are within them; and so is whatever
has the shape of a well-known kind of key.  Not covered: a secret that stands in no such variable and has no such shape,
and one that was encoded, split or translated before it got into the text.
"""

from __future__ import annotations

import re
import shlex
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Protocol

REDACTED = "[redacted]"
"""What stands in a secret's place."""

SHORTEST_SECRET = 6
"""A text of fewer characters is taken for no secret: it would stand in many an ordinary word."""

# A tokenizer is none, and tasks name theirs.
_SECRET_NAME = re.compile(r"KEY|TOKEN(?!IZ)|SECRET|PASSW|AUTH|CREDENTIAL", re.IGNORECASE)
_CUT = " [...] "

_SHAPES = tuple(
    (re.compile(pattern, flags), replacement)
    for pattern, flags, replacement in (
        (r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL, REDACTED),
        # A JSON web token: two or three parts, the first of which is an encoded object.
        (r"\beyJ[\w-]{5,}\.[\w-]{5,}(?:\.[\w-]*)?", 0, REDACTED),
        (r"\b(Bearer)(\s+)(?!\[)[\w.~+/=-]{6,}", re.IGNORECASE, rf"\1\2{REDACTED}"),
        (r"\b(Authorization\W{1,4}Basic\s+)[\w+/=-]{6,}", re.IGNORECASE, rf"\1{REDACTED}"),
        # OpenAI and those who copied it.  Servers echo a key with stars in it.  Words such as `sk-learn` stay.
        (r"(?<![\w-])sk-(?=[\w*-]*[\d*])[\w*-]{6,}", 0, REDACTED),
        (r"(?<![\w-])sk-[\w-]{20,}", 0, REDACTED),
        (r"\b(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}\b", 0, REDACTED),
        (r"\b(aws_(?:secret_access_key|session_token)\W{1,4})(?!\[)[\w/+=]{16,}", re.IGNORECASE, rf"\1{REDACTED}"),
        (r"\b(?:gh[pousr]_|github_pat_|glpat-|hf_|gsk_|xai-|nvapi-|AIza|xox[a-z]-)[\w-]{16,}", 0, REDACTED),
        # Weights & Biases: 40 hexadecimal digits (a git commit has that shape too, and goes with it), or the new form.
        (r"\bwandb_v\d+_\w{16,}|\b[0-9a-f]{40}\b", 0, REDACTED),
        (r"(://)(?!\[redacted\]@)[^\s/?#\"'<>]+@", 0, rf"\1{REDACTED}@"),
        (
            r"([?&](?:api[_-]?key|key|access_token|token|sig|signature)=)(?!\[)[^\s&\"'<>]+",
            re.IGNORECASE,
            rf"\1{REDACTED}",
        ),
    )
)

_ESCAPES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # colours and cursor movements
    r"|\x1b[\]PX^_].*?(?:\x07|\x1b\\|\Z)"  # window titles, links, device strings
    r"|\x1b[ -/]*[0-~]?|\x9b[0-?]*[ -/]*[@-~]",
    re.DOTALL,
)
_LINE_ENDS = re.compile(r"\r\n?|[\x85\u2028\u2029]")
_UNSEEN = frozenset({"Cc", "Cf", "Cs"})


class NamesKey(Protocol):
    """Settings of a language model."""

    @property
    def key_variable(self) -> str | None:
        """Name of the environment variable with its key; null where there is none."""
        ...


def is_secret_name(name: str) -> bool:
    """Whether a variable or an argument of this name is likely to hold a secret.

    >>> [name for name in ("HF_TOKEN", "db_password", "tokenizer", "lr") if is_secret_name(name)]
    ['HF_TOKEN', 'db_password']
    """
    return _SECRET_NAME.search(name) is not None


def without_secrets(
    environ: Mapping[str, str], *, keep: Iterable[str] = (), drop: Iterable[str] = ()
) -> dict[str, str]:
    """The environment without variables whose names look like secrets and without those to drop; `keep` wins."""
    kept, dropped = set(keep), set(drop)
    return {
        name: value for name, value in environ.items() if name in kept or not (name in dropped or is_secret_name(name))
    }


def secrets_of(settings: NamesKey | None, environ: Mapping[str, str]) -> frozenset[str]:
    """The values of `secrets_in`, and the key of a study's language model, however its variable is called.

    Args:
        settings: the spec's `scientist`; None where it has none.
        environ: the environment.
    """
    variable = settings.key_variable if settings else None
    key = environ.get(variable, "").strip() if variable else ""
    return secrets_in(environ) | ({key} if len(key) >= SHORTEST_SECRET else set())


def secrets_in(environ: Mapping[str, str]) -> frozenset[str]:
    """The values, of at least 6 characters, of the variables whose names look like secrets.

    >>> sorted(secrets_in({"OPENAI_API_KEY": "abcdef", "SSH_TOKEN": "short", "HOME": "/home/me"}))
    ['abcdef']
    """
    named = (value.strip() for name, value in environ.items() if is_secret_name(name))
    return frozenset(value for value in named if len(value) >= SHORTEST_SECRET)


def redact(text: str, *, secrets: Collection[str] = ()) -> str:
    """The text with `[redacted]` in the place of every secret.

    Args:
        text: any text.
        secrets: values to take out wherever they stand, for example those of `secrets_in`; empty ones are passed over.

    >>> redact("401 for sk-abc123def at https://me:word@host/v1")
    '401 for [redacted] at https://[redacted]@host/v1'
    """
    # The longest first: a secret may be a part of another.
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        parts = secret.split()
        if len(parts) > 1:  # it may have been put on one line, or its blank lines left out
            text = re.sub(r"\s+".join(map(re.escape, parts)), REDACTED, text)
        text = text.replace(secret, REDACTED)
    for shape, replacement in _SHAPES:
        text = shape.sub(replacement, text)
    return text


def without_secret_arguments(command: Sequence[str]) -> str:
    """A command as a shell takes it, the values of options whose names look like secrets taken out.

    >>> without_secret_arguments(["python", "train.py", "--hf_token=abc", "--api-key", "abc", "--lr", "0.1"])
    "python train.py '--hf_token=[redacted]' --api-key '[redacted]' --lr 0.1"
    """
    kept: list[str] = []
    hide = False
    for one in command:
        name, equals, _ = one.partition("=")
        secret = is_secret_name(name) and name.startswith("-")
        kept.append(
            REDACTED if hide and not one.startswith("-") else f"{name}={REDACTED}" if secret and equals else one
        )
        hide = secret and not equals
    return redact(shlex.join(kept))


def plain(text: str, *, most: int) -> str:
    """The text without control characters, escape sequences and unseen characters, of at most `most` characters.

    Line ends become `\\n`; tabs stay.  What is too long is cut in the middle, where ` [...] ` then stands: of a log and
    of a traceback the beginning and the end say most.
    """
    text = _LINE_ENDS.sub("\n", _ESCAPES.sub("", text))
    if not text.isascii() or not text.isprintable():
        text = "".join(sign for sign in text if sign in "\n\t" or unicodedata.category(sign) not in _UNSEEN)
    if len(text) <= most:
        return text
    room = most - len(_CUT)
    if room < 2:
        return text[: max(most, 0)]
    return text[: room - room // 2] + _CUT + text[len(text) - room // 2 :]
