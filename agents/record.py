"""A trajectory as the run file keeps it: three JSON texts that read back as they were."""

from dataclasses import dataclass

from pydantic import TypeAdapter

from ..envs import Episode, Outcome
from .engine import PolicyVersion
from .tokengraph import TokenGraph
from .trajectory import EpisodeKey, Trajectory

_EPISODE: TypeAdapter[Episode] = TypeAdapter(Episode)
_OUTCOME: TypeAdapter[Outcome] = TypeAdapter(Outcome)
_GRAPH: TypeAdapter[TokenGraph] = TypeAdapter(TokenGraph)


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """The JSON of what an episode was and how it was judged; its key and version stand beside it."""

    episode: str
    outcome: str
    graph: str

    @classmethod
    def of(cls, trajectory: Trajectory) -> "Record":
        """Raises `ValueError` for a value of another type than its field's, which JSON might change."""
        return cls(
            episode=_EPISODE.dump_json(trajectory.episode, warnings="error").decode(),
            outcome=_OUTCOME.dump_json(trajectory.outcome, warnings="error").decode(),
            graph=_GRAPH.dump_json(trajectory.graph, warnings="error").decode(),
        )

    def read(self, key: EpisodeKey, version: PolicyVersion) -> Trajectory:
        """The trajectory. Raises `ValueError` for JSON that is not one, such as null in the place of NaN."""
        return Trajectory(
            key=key,
            version=version,
            episode=_EPISODE.validate_json(self.episode),
            graph=_GRAPH.validate_json(self.graph),
            outcome=_OUTCOME.validate_json(self.outcome),
        )


def outcome_json(outcome: Outcome) -> str:
    """An outcome alone."""
    return _OUTCOME.dump_json(outcome, warnings="error").decode()
