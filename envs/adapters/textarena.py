"""Games of TextArena, alone or against other policies. Comes with the extra `textarena`.

class Noughts(TextArenaEnv):
    def opponent(self, task, player):
        return minimax()

Noughts.tasks(game="TicTacToe-v0", num_players=2, size=100)
"""

import random
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, ClassVar, TypeVar

from ..budget import Budget
from ..env import Env, Observation, Step
from ..message import AssistantMessage, Message, UserMessage
from ..policy import Policy
from ..task import Task, TaskSet, seed_of

T = TypeVar("T")


class TextArenaEnv(Env[Task]):
    """A game played in messages; the reward is the game's own, at its end.

    Every player has a conversation of its own and sees what the game tells it. A game's calls run on the
    event loop, and its draws do not touch the `random` of anyone else. An exception out of a game fails the
    episode. Games that want a download (NLTK's, in Wordle and Hangman) or a jury of models bring their needs.
    """

    reward_range: ClassVar[tuple[float, float]] = (-1.0, 1.0)
    budget: Budget = Budget(max_turns=64)

    def __init__(self) -> None:
        self._game: Any = None
        self._player = 0
        self._others: dict[int, Policy] = {}
        self._heard: dict[int, list[Message]] = {}
        self._dice = random.Random()
        self._facts: dict[str, str] = {}

    @classmethod
    def tasks(
        cls, *, game: str, num_players: int = 1, player: int | None = None, size: int = 100, seed: int = 0
    ) -> TaskSet:
        """`size` games, each dealt once: siblings begin with the same one, and draw what follows each for
        itself.

        `player`: which one the policy is, from 0; None: each in turn.
        """
        if player is not None and not 0 <= player < num_players:
            raise ValueError(f"player={player} is none of the {num_players} players, who count from 0")
        return TaskSet(
            Task(
                id=f"{game}-{seed}-{number}",
                private={
                    "seed": seed_of(f"{seed}/{game}/{number}"),
                    "game": game,
                    "num_players": num_players,
                    "player": number % num_players if player is None else player,
                },
            )
            for number in range(size)
        )

    def opponent(self, task: Task, player: int) -> Policy:
        """The policy that plays `player`: scripted, a chat endpoint, a policy in training."""
        raise NotImplementedError(
            f"{task.private['game']} has {task.private['num_players']} players and {type(self).__name__} no "
            "policy for the others: define the method `opponent`"
        )

    async def reset(self, task: Task, *, seed: int) -> Observation:
        """Start the game and let the others play up to the policy's first turn."""
        arena: Any = import_module("textarena")
        private = task.private
        self._player, num_players = private["player"], private["num_players"]
        self._others = {
            number: self.opponent(task, number) for number in range(num_players) if number != self._player
        }
        self._heard = {number: [] for number in self._others}
        deal = private.get("seed", seed)
        self._dice.seed(deal)  # some games draw while they are made
        # "-raw" tells each player what is new; the other kinds repeat the game so far at every turn.
        self._game = self._alone(lambda: arena.make(f"{private['game']}-raw"))
        self._alone(lambda: self._game.reset(num_players=num_players, seed=deal))
        self._dice.seed(seed)
        if await self._others_play():
            raise ValueError(f"{private['game']} was over before player {self._player} had a turn")
        return Observation(messages=(self._told(),))

    async def step(self, action: AssistantMessage) -> Step:
        """Make the policy's move, then those of the others up to its next turn."""
        is_over = self._move(action.content) or await self._others_play()
        if not is_over:
            return Step(Observation(messages=(self._told(),)), 0.0, False, False, {})
        closed: tuple[Mapping[int, Any] | None, Mapping[int, Any]] = self._game.close()
        rewards, about = closed[0] or {}, closed[1][self._player]
        self._facts = {"reason": str(about.get("reason")), "invalid_move": str(about.get("invalid_move"))}
        reward = float(rewards.get(self._player, 0.0))
        return Step(Observation(), reward, True, False, dict(self._facts))

    async def _others_play(self) -> bool:
        """Whether the game ended before it is the policy's turn again."""
        while (player := self._now()) != self._player:
            heard = self._heard[player]
            heard.append(self._told())
            said = await self.partner(self._others[player])(tuple(heard), ())
            heard.append(said)
            if self._move(said.content):
                return True
        return False

    def _now(self) -> int:
        return int(self._game.state.current_player_id)

    def _move(self, text: str) -> bool:
        """Whether the game is over after this move of the player whose turn it is."""
        is_over, _ = self._alone(lambda: self._game.step(action=text))
        return bool(is_over)

    def _told(self) -> UserMessage:
        """What the player whose turn it is has not heard yet, without its own words."""
        player, lines = self._alone(self._game.get_observation)
        return UserMessage("\n".join(_lines(player, lines)))

    def _alone(self, call: Callable[[], T]) -> T:
        """`call()` with the episode's own state of `random`, which TextArena's games draw from."""
        ours = random.getstate()
        random.setstate(self._dice.getstate())
        try:
            return call()
        finally:
            self._dice.setstate(random.getstate())
            random.setstate(ours)

    def facts(self) -> Mapping[str, str]:
        """Why the game ended."""
        return self._facts


def _lines(player: int, lines: Sequence[tuple[int, str, Any]]) -> list[str]:
    """(who, what, kind) rows of TextArena as text; -1 is the game itself.

    >>> _lines(0, [(-1, "Your turn.", None), (0, "[4]", None), (1, "[5]", None)])
    ['Your turn.', 'Player 1: [5]']
    """
    told = [(who, text.strip()) for who, text, _ in lines if who != player]
    return [text if who < 0 else f"Player {who}: {text}" for who, text in told]
