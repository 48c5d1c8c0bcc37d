"""Values of live objects as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any

import numpy as np

from lightning_autoresearch.redaction import is_secret_name

_NOTHING = object()


def plain(values: Mapping[Any, Any]) -> dict[str, Any]:
    """What of some values a dotted key can name and YAML can hold; the rest stays as it is in every trial."""
    pairs = ((key, _plain_value(value)) for key, value in values.items() if _is_key(key))
    return {key: value for key, value in pairs if value is not _NOTHING}


def _plain_value(value: Any) -> Any:
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, Mapping):
        return plain(value)
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if np.isfinite(value) else _NOTHING
    if isinstance(value, (list, tuple)):
        items = [_plain_value(item) for item in value]
        return _NOTHING if any(item is _NOTHING for item in items) else items
    return _NOTHING


def like(old: Any, value: Any) -> Any:
    """A plain value as the kind of thing that stood in its place: a member of an enumeration, a tuple."""
    if isinstance(old, Enum):
        return type(old)(value)
    return tuple(value) if isinstance(old, tuple) and isinstance(value, list) else value


def _is_key(key: Any) -> bool:
    """Whether a dotted key can name it, and it may be written down."""
    return isinstance(key, str) and "." not in key and key[:1] not in ("", "_") and not is_secret_name(key)
