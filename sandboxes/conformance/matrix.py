"""Which rows a tier holds, and which it refuses. A changed cell needs its reason.

A tier that refuses a row promises less than the row asks; what it does instead is tried in its place.
"""

from collections.abc import Mapping

from ..refusals import REFUSED

TABLE = """
row  namespaces  landlock  docker
  1  holds       holds     holds
  2  holds       holds     holds
  3  holds       holds     holds
  4  holds       holds     holds
  5  holds       holds     holds
  6  holds       refuses   holds
  7  holds       holds     holds
  8  holds       holds     holds
  9  holds       holds     holds
 10  holds       holds     holds
 11  holds       holds     holds
 12  holds       holds     holds
 13  holds       holds     holds
 14  holds       holds     holds
 15  holds       holds     holds
 16  holds       holds     holds
 17  holds       refuses   holds
 18  holds       holds     holds
 19  holds       holds     holds
 20  holds       holds     holds
 21  holds       holds     holds
 22  holds       holds     holds
 23  holds       holds     holds
 24  holds       holds     holds
 25  holds       holds     holds
 26  holds       holds     holds
 27  holds       holds     holds
 28  holds       holds     holds
 29  holds       holds     holds
 30  holds       holds     holds
 31  holds       holds     holds
 32  holds       holds     holds
 33  holds       holds     holds
 34  holds       holds     holds
 35  holds       holds     holds
 36  holds       holds     holds
 37  holds       holds     holds
 38  holds       holds     holds
"""

REFUSED_AS: Mapping[tuple[int, str], str] = {(6, "landlock"): "disk-quota", (17, "landlock"): "proc"}
"""Under which name a tier's capabilities refuse a row; the reason is in `refusals.py`."""


def refusal(number: int, tier: str) -> str | None:
    """Why the tier refuses the row; None: it holds. A tier that the table does not know holds every row.

    >>> refusal(6, "namespaces")
    """
    if cells()[number].get(tier) != "refuses":
        return None
    return REFUSED[tier][REFUSED_AS[number, tier]]


def cells() -> dict[int, dict[str, str]]:
    """The table by row and tier.

    >>> cells()[1]["docker"]
    'holds'
    """
    head, *lines = TABLE.strip().splitlines()
    tiers = head.split()[1:]
    rows = [line.split() for line in lines]
    return {int(number): dict(zip(tiers, words, strict=True)) for number, *words in rows}
