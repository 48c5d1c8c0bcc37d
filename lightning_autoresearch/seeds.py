"""Seeds: derived from the study's own seed, each drawn once, out of any proposer's reach."""

from __future__ import annotations

import hashlib


def derive_seed(*parts: object) -> int:
    """A seed in [0, 2^31) that depends on all parts, by SHA-256.

    >>> derive_seed(0, "trial", 1) == derive_seed(0, "trial", 1)
    True
    """
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


class SeedStream:
    """Fresh seeds for trials, in an order that depends on the study's seed alone."""

    def __init__(self, study_seed: int):
        self._study_seed = study_seed
        self._drawn: dict[int, int] = {}
        self._index = 0

    def fresh(self) -> int:
        """A seed that was not drawn before."""
        while True:
            self._index += 1
            seed = derive_seed(self._study_seed, "trial", self._index)
            if seed not in self._drawn:
                self._drawn[seed] = len(self._drawn) + 1
                return seed

    def number(self, seed: int) -> int:
        """The how manieth seed it was, counted from 1: tells which runs are paired without telling the seed."""
        return self._drawn[seed]
