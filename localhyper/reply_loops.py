"""Whether a reply goes in circles: small models, asked for the likeliest token each time, often never leave one.

Looks at the reply's tokens alone and changes none of them, unlike a penalty, which would change sound replies, too.
"""

from __future__ import annotations

import numpy as np

LONGEST_ROUND = 64  # tokens of the longest circle looked for
LEAST_ROUNDS = 4
LEAST_TOKENS = 48  # a row of dashes or a table's rule is shorter


class LoopWatch:
    """Told each token of a reply; the work a token is the same however long the reply."""

    def __init__(self) -> None:
        self._recent = np.full(LONGEST_ROUND, -1, np.int64)  # the last ones, the latest first
        self._alike = np.zeros(LONGEST_ROUND, np.int64)  # for each length: tokens in a row equal to those before
        rounds = np.arange(1, LONGEST_ROUND + 1)
        self._wanted = np.maximum(LEAST_ROUNDS * rounds, LEAST_TOKENS) - rounds

    def goes_in_circles(self, token: int) -> bool:
        """Whether, with this token, the reply ends with so many equal rounds that it is unlikely to leave them."""
        self._alike = np.where(self._recent == token, self._alike + 1, 0)
        self._recent = np.roll(self._recent, 1)
        self._recent[0] = token
        return bool((self._alike >= self._wanted).any())
