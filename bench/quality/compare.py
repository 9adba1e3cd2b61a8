# SPDX-License-Identifier: Apache-2.0
"""Compute accuracy with its interval, and compare two servers on the same questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import binomtest

LEVEL = 0.95


@dataclass(frozen=True)
class Accuracy:
    """Hold a share of questions, with its 95 % Wilson interval."""

    right: int
    count: int
    low: float
    high: float

    @property
    def share(self) -> float:
        return self.right / self.count


def accuracy(right: Sequence[bool]) -> Accuracy:
    interval = binomtest(sum(right), len(right)).proportion_ci(LEVEL, method="wilson")
    return Accuracy(sum(right), len(right), interval.low, interval.high)


@dataclass(frozen=True)
class Difference:
    """Compare in pairs: how many questions only the first, only the second answered correctly.

    p: McNemar's exact test, two-sided; 1 where no question tells them apart
    """

    only_first: int
    only_second: int
    count: int
    p: float

    @property
    def share(self) -> float:
        """Return the accuracy of the second less that of the first."""
        return (self.only_second - self.only_first) / self.count


def difference(first: Sequence[bool], second: Sequence[bool]) -> Difference:
    """Compare two lists of answers.

    Raises ValueError unless both answered the same number of questions.
    """
    pairs = list(zip(first, second, strict=True))
    only_first = sum(a and not b for a, b in pairs)
    only_second = sum(b and not a for a, b in pairs)
    apart = only_first + only_second
    p = binomtest(only_first, apart).pvalue if apart else 1.0
    return Difference(only_first, only_second, len(pairs), p)
