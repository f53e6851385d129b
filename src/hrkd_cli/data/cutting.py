"""Which side of a cut a group of rows goes to."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

# A sum of shares is not exact; what differs by less is a tie.
_TIE = 1e-9


class Cutter:
    """Gives each group to the split that is furthest behind its share of what has been given out so far.

    "Behind" is counted within the strata of the group's rows (a stratum is a domain and a label), and between equals
    over everything. So a stratum of single rows is never off by more than a row.
    """

    def __init__(self, shares: Sequence[tuple[float, float, float]]) -> None:
        """Start with nothing given out.

        Args:
            shares: share of train, dev and test in each stratum; NaN for a split that cannot be cut from it.
        """
        self._shares = [tuple(0.0 if math.isnan(share) else share for share in shares_of) for shares_of in shares]
        # What can never be furthest behind is never chosen; a group of several strata needs the consent of all.
        self._behind = [[-math.inf if math.isnan(share) else 0.0 for share in shares_of] for shares_of in shares]
        self._overall = [0.0, 0.0, 0.0]

    def place(self, group: Iterable[tuple[int, int]]) -> int:
        """Choose the split of a group.

        Args:
            group: number of rows by stratum, in the order in which the strata are first met.
        """
        counts = list(group)
        overall = self._overall
        total = [0.0, 0.0, 0.0]
        for stratum, count in counts:
            behind = self._behind[stratum]
            for split, share in enumerate(self._shares[stratum]):
                behind[split] += share * count
                overall[split] += share * count
                total[split] += behind[split] * count
        size = sum(count for _, count in counts)
        least = max(total) - _TIE * size
        best = max((split for split in range(3) if total[split] > least), key=overall.__getitem__)
        for stratum, count in counts:
            self._behind[stratum][best] -= count
        overall[best] -= size
        return best

    def place_singles(self, strata: Iterable[int]) -> bytearray:
        """Choose the splits of groups of one row: ``place([(stratum, 1)])`` for each, without its loops."""
        chosen = bytearray()
        all_behind, all_shares = self._behind, self._shares
        overall0, overall1, overall2 = self._overall
        for stratum in strata:
            behind = all_behind[stratum]
            share0, share1, share2 = all_shares[stratum]
            behind0, behind1, behind2 = behind[0] + share0, behind[1] + share1, behind[2] + share2
            overall0 += share0
            overall1 += share1
            overall2 += share2
            least = max(behind0, behind1, behind2) - _TIE
            best, top = (0, overall0) if behind0 > least else (-1, -math.inf)
            if behind1 > least and (best < 0 or overall1 > top):
                best, top = 1, overall1
            if behind2 > least and (best < 0 or overall2 > top):
                best = 2
            if best == 0:
                behind0 -= 1
                overall0 -= 1
            elif best == 1:
                behind1 -= 1
                overall1 -= 1
            else:
                behind2 -= 1
                overall2 -= 1
            behind[0], behind[1], behind[2] = behind0, behind1, behind2
            chosen.append(best)
        self._overall = [overall0, overall1, overall2]
        return chosen
