"""Pairs that must not be recommended."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Int

from probmf.data import Ratings
from probmf.rows.store import sort_rows


@dataclass(frozen=True, eq=False)
class Exclusions:
    """Items to leave out, by line of what is ranked.

    Args:
        begin: Where each group's items begin, shape (groups + 1,).
        item: The items, by group.
        group: The group of each line; -1 has none. (Groups are users of some table of ratings,
            which need not be the users of the fit.)
    """

    begin: Int[np.ndarray, " groups1"]
    item: Int[np.ndarray, " n"]
    group: Int[np.ndarray, " lines"]

    @classmethod
    def from_pairs(
        cls, group: Int[np.ndarray, " n"], item: Int[np.ndarray, " n"], num_groups: int
    ) -> "Exclusions":
        """Collect pairs by group; line i is group i unless `for_lines` says otherwise."""
        order, begin = sort_rows(group, num_groups)
        return cls(begin, item[order], np.arange(num_groups))

    @classmethod
    def of_ratings(cls, data: Ratings) -> "Exclusions":
        """The items that each user has rated; those of sorted ratings are not copied."""
        order, begin = data.by_user
        return cls(
            begin, data.item if order is None else data.item[order], np.arange(data.num_users)
        )

    def for_lines(self, group: Int[np.ndarray, " lines"]) -> "Exclusions":
        """The same pairs for other lines."""
        return Exclusions(self.begin, self.item, group)

    def among(self, items: Int[np.ndarray, " some"], num_items: int) -> "Exclusions":
        """The pairs of some items, these called by their places in the list."""
        place = np.full(num_items, -1)
        place[items] = np.arange(len(items))
        inside = place[self.item] >= 0
        begin = np.concatenate([[0], np.cumsum(inside)])[self.begin]
        return Exclusions(begin, place[self.item][inside], self.group)

    @cached_property
    def counts(self) -> Int[np.ndarray, " lines"]:
        """Number of items that each line leaves out."""
        return np.where(self.group < 0, 0, self.begin[self.group + 1] - self.begin[self.group])

    def block(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """(line - start, item) of the pairs of lines start..stop-1."""
        count, begin = self.counts[start:stop], self.begin[self.group[start:stop]]
        line = np.repeat(np.arange(stop - start), count)
        first = np.repeat(begin - np.cumsum(count) + count, count)
        return line, self.item[first + np.arange(len(line))]
