"""What an episode pays for its length: the soft overlong punishment of DAPO.

    0                                        n <= max_tokens - cache_tokens
    ((max_tokens - cache_tokens) - n) / cache_tokens      up to max_tokens
    -1                                       beyond

n: tokens that the policy sampled over the whole episode. It is added to the reward, times `weight`, before
anything is compared; with a turn's reward of its own, the last turn pays. What is reported as the reward, and
what counts as a pass, is the grader's alone; a recipe whose advantage tells by the reward who passes
(`pass_at_k`) is refused. Equation 13 of Yu et al., arXiv 2503.14476, where max_tokens is 20480 and
cache_tokens 4096. Imports without torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..agents.trajectory import Group, Trajectory
from ..envs import Scored
from .advantages import turn_rewards


@dataclass(frozen=True, kw_only=True, slots=True)
class Overlong:
    """
    >>> [Overlong(max_tokens=100, cache_tokens=20)(n) for n in (80, 90, 100, 101)]
    [0.0, -0.5, -1.0, -1.0]
    """

    max_tokens: int
    cache_tokens: int
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not 1 <= self.cache_tokens <= self.max_tokens:
            raise ValueError(
                f"Overlong.cache_tokens is {self.cache_tokens}; it must be from 1 to "
                f"max_tokens={self.max_tokens}: the penalty grows over the last of these tokens"
            )

    def __call__(self, num_tokens: int) -> float:
        """The penalty of an episode, 0 down to -`weight`."""
        free = self.max_tokens - self.cache_tokens
        if num_tokens <= free:
            return 0.0
        return self.weight * max(-1.0, (free - num_tokens) / self.cache_tokens)

    def shaped(self, groups: Sequence[Group]) -> list[Group]:
        """The groups with the penalty in each reward that there is."""
        return [replace(group, members=tuple(map(self._shaped, group.members))) for group in groups]

    def _shaped(self, member: Trajectory) -> Trajectory:
        penalty = self(member.graph.num_sampled)
        if not isinstance(member.outcome, Scored) or not penalty:
            return member
        *before, last = turn_rewards(member, member.outcome.reward)
        return replace(
            member,
            outcome=replace(
                member.outcome, reward=member.outcome.reward + penalty, turns=(*before, last + penalty)
            ),
        )
