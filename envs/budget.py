"""Budgets: how much an episode may use, each with a stop reason of its own."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """Limits of one episode; None is no limit. `play` charges them.

    >>> Budget(max_turns=4).merged(Budget(max_turns=None, wall_s=60)).max_turns
    4
    """

    max_turns: int | None = None
    """Answers of the policy."""
    max_tokens: int | None = None
    """Sampled tokens over the whole episode."""
    max_context: int | None = None
    """Tokens of prompt and answer together, in the last call."""
    env_s: float | None = None
    """Seconds of all steps together, also in the middle of one; `reset` and the model are not charged."""
    wall_s: float | None = None
    """Seconds from reset to end, everything included."""

    def __post_init__(self) -> None:
        for name in self.__slots__:
            limit = getattr(self, name)
            if limit is not None and not limit > 0:
                raise ValueError(f"{name}={limit} lets nobody play; give more than 0, or None for no limit")

    def merged(self, override: "Budget") -> "Budget":
        """This budget with each limit that `override` sets."""
        limits = {
            name: mine if (theirs := getattr(override, name)) is None else theirs
            for name, mine in ((name, getattr(self, name)) for name in self.__slots__)
        }
        return Budget(**limits)
