"""How many starts at one time a pool allows itself, on machines that are made up."""

from collections.abc import Callable

import pytest

from palaestra.sandboxes._start_limit import Begun, StartLimit


class Machine:
    """Starts take `lasts_s(how many are under way)` on a clock that only they move."""

    def __init__(self, lasts_s: Callable[[int], float], maximum: int = 64) -> None:
        self.now_s = 0.0
        self.limit = StartLimit(maximum, lambda: self.now_s)
        self._lasts_s = lasts_s

    def rounds(self, count: int, at_most: int = 1000) -> list[int]:
        """As many starts at one time as the limit allows, again and again; the sizes of the rounds."""
        sizes: list[int] = []
        for _ in range(count):
            num = 0
            begun: list[Begun] = []
            while self.limit.has_room(num) and num < at_most:
                num += 1
                begun.append(self.limit.begin(num))
            self.now_s += self._lasts_s(num)
            for each in begun:
                self.limit.succeed(each)
            sizes.append(num)
        return sizes


@pytest.mark.parametrize("capacity", [1, 4, 16])
def test_the_limit_settles_about_where_more_starts_only_take_longer(capacity: int) -> None:
    machine = Machine(lambda num: 0.3 * max(1.0, num / capacity))
    late = machine.rounds(400)[200:]
    # Over twice the fastest is slow: the limit climbs to twice the capacity and falls back.
    assert capacity <= sum(late) / len(late) <= 2 * capacity + 1
    assert max(late) <= 2 * capacity + 1 and min(late) >= min(capacity, 1.4 * capacity - 1)


def test_a_machine_that_bears_everything_gets_everything_and_no_more_than_the_maximum() -> None:
    sizes = Machine(lambda num: 0.3, maximum=10).rounds(100)
    assert sizes[:2] == [1, 2] and sizes[-1] == 10 == max(sizes)


def test_delays_of_a_few_milliseconds_are_not_a_crowd() -> None:
    assert Machine(lambda num: 0.001 * num, maximum=10).rounds(100)[-1] == 10


def test_a_limit_that_is_not_used_does_not_grow() -> None:
    machine = Machine(lambda num: 0.3)
    machine.rounds(100, at_most=1)
    assert machine.limit.limit < 3


def test_a_machine_that_became_slower_for_good_is_learned_anew() -> None:
    speed = [0.3]
    machine = Machine(lambda num: speed[0] * max(1.0, num / 8))
    machine.rounds(100)
    speed[0] = 3.0
    assert min(machine.rounds(100)) == 1
    assert min(machine.rounds(100)) >= 8


def test_what_fails_together_lowers_the_limit_once_and_never_under_one() -> None:
    limit = StartLimit(64)
    limit.limit = 10.0
    for begun in [limit.begin(num) for num in range(1, 11)]:
        limit.fail(begun)
    assert limit.limit == pytest.approx(7.0)
    for _ in range(50):
        limit.fail(limit.begin(1))
    assert limit.limit == 1.0 and limit.has_room(0) and not limit.has_room(1)
