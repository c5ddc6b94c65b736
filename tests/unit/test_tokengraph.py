from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palaestra.agents.engine import Finish, Generation, PolicyVersion, VersionSpan
from palaestra.agents.tokengraph import Call, InexactTokens, Segment, TokenGraph, TokenRow, common_prefix


def generation(ids: tuple[int, ...], *, first_logprob: float = 0.0, cut: int = 0) -> Generation:
    """Sampled by version 1 up to `cut` and by version 2 behind it; each logprob is another number."""
    spans = (
        VersionSpan(version=PolicyVersion(1), start=0, end=cut),
        VersionSpan(version=PolicyVersion(2), start=cut, end=len(ids)),
    )
    logprobs = tuple(first_logprob - 1 - index for index in range(len(ids)))
    return Generation(ids=ids, logprobs=logprobs, versions=spans, finish=Finish.STOP)


@dataclass(frozen=True)
class Played:
    """A graph and what the engine saw while it grew."""

    graph: TokenGraph
    seen: tuple[tuple[tuple[int, ...], Generation], ...]


tokens = st.lists(st.integers(0, 2), max_size=5).map(tuple)  # few tokens: prefixes also agree by accident


@st.composite
def episodes(draw: st.DrawFn) -> Played:
    """Calls whose prompts extend, cut or replace what any earlier call ended with."""
    graph, logprob = TokenGraph(), 0.0
    seen: list[tuple[tuple[int, ...], Generation]] = []
    histories: list[tuple[int, ...]] = [()]
    for _ in range(draw(st.integers(1, 8))):
        base = draw(st.sampled_from(histories[-2:] if draw(st.booleans()) else histories))
        kept = len(base) if draw(st.booleans()) else draw(st.integers(0, len(base)))
        prompt = base[:kept] + draw(tokens)
        ids = draw(tokens)
        answer = generation(ids, first_logprob=logprob, cut=draw(st.integers(0, len(ids))))
        logprob -= len(ids)
        graph = graph.commit(prompt, answer)
        seen.append((prompt, answer))
        histories.append(prompt + ids)
    return Played(graph, tuple(seen))


@given(episodes())
def test_every_call_is_held_as_the_engine_saw_it(played: Played) -> None:
    whole = {played.graph.ids(index) for index in range(len(played.graph.segments))}
    for prompt, answer in played.seen:
        sequence = prompt + answer.ids
        assert any(ids[: len(sequence)] == sequence for ids in whole)
    last_prompt, last_answer = played.seen[-1]
    assert played.graph.ids(len(played.graph.segments) - 1) == last_prompt + last_answer.ids


@given(episodes())
def test_every_sampled_token_is_trained_exactly_once(played: Played) -> None:
    trained = sorted(
        (logprob, token, version)
        for row in played.graph.rows()
        for token, is_trained, logprob, version in zip(
            row.ids, row.mask, row.logprobs, row.versions, strict=True
        )
        if is_trained
    )
    sampled = sorted(
        (answer.logprobs[index], answer.ids[index], int(span.version))
        for _, answer in played.seen
        for span in answer.versions
        for index in range(span.start, span.end)
    )
    assert trained == sampled
    assert len(sampled) == played.graph.num_sampled


@given(episodes())
def test_what_a_row_does_not_train_has_no_logprob_and_no_version(played: Played) -> None:
    for row in played.graph.rows():
        for is_trained, logprob, version in zip(row.mask, row.logprobs, row.versions, strict=True):
            assert is_trained or (logprob, version) == (0.0, -1)


@given(episodes())
def test_only_the_new_part_of_a_prompt_is_stored(played: Played) -> None:
    stored = sum(
        len(call.prompt_ids) + len(call.completion_ids)
        for segment in played.graph.segments
        for call in segment.calls
    )
    shared = sum(segment.shared for segment in played.graph.segments)
    assert stored + shared == sum(len(played.graph.ids(index)) for index in range(len(played.graph.segments)))


@given(tokens, tokens)
def test_the_common_prefix_ends_where_two_sequences_differ(
    left: tuple[int, ...], right: tuple[int, ...]
) -> None:
    length = common_prefix(left, right)
    assert left[:length] == right[:length]
    assert length == min(len(left), len(right)) or left[length] != right[length]


def test_turns_that_extend_each_other_are_one_row() -> None:
    graph = TokenGraph().commit((1, 2), generation((3,)))
    graph = graph.commit((1, 2, 3, 4, 5), generation((6, 7), cut=1))
    assert graph.num_forks == 0
    assert list(graph.rows()) == [
        TokenRow(
            ids=(1, 2, 3, 4, 5, 6, 7),
            mask=(False, False, True, False, False, True, True),
            logprobs=(0.0, 0.0, -1.0, 0.0, 0.0, -1.0, -2.0),
            versions=(-1, -1, 2, -1, -1, 1, 2),
        )
    ]


def test_a_fork_inside_an_answer_leaves_the_whole_answer_to_its_parent() -> None:
    graph = TokenGraph().commit((1, 2), generation((3, 4, 5)))
    graph = graph.commit((1, 2, 3, 9), generation((8,)))
    parent, fork = graph.rows()
    assert graph.num_forks == 1
    assert parent.mask == (False, False, True, True, True)
    assert (fork.ids, fork.mask) == ((1, 2, 3, 9, 8), (False, False, False, False, True))


def test_a_fork_takes_the_segment_with_the_longest_shared_prefix() -> None:
    graph = TokenGraph().commit((1, 2, 3), generation((4,)))
    graph = graph.commit((7, 7), generation((7,)))
    graph = graph.commit((1, 2, 9), generation((9,)))
    assert [(segment.parent, segment.shared) for segment in graph.segments] == [(None, 0), (None, 0), (0, 2)]


def test_a_graph_does_not_change_when_it_grows() -> None:
    first = TokenGraph().commit((1,), generation((2,)))
    sizes = [len(first.ids(0)), len(first.commit((1, 2, 3), generation((4,))).ids(0)), len(first.ids(0))]
    assert sizes == [2, 4, 2]


def test_a_chain_of_two_thousand_forks_does_not_exhaust_the_stack() -> None:
    graph = TokenGraph(
        segments=tuple(
            Segment(
                parent=index - 1 if index else None,
                shared=index,
                calls=(Call(prompt_ids=(index, -1), completion_ids=(), logprobs=(), versions=()),),
            )
            for index in range(2000)
        )
    )
    assert graph.ids(1999) == (*range(2000), -1)


def test_a_fork_may_share_less_than_its_parent_took_over() -> None:
    def segment(parent: int | None, shared: int, *ids: int) -> Segment:
        call = Call(prompt_ids=ids, completion_ids=(), logprobs=(), versions=())
        return Segment(parent=parent, shared=shared, calls=(call,))

    graph = TokenGraph(segments=(segment(None, 0, 1, 2, 3), segment(0, 2, 8), segment(1, 1, 9)))
    assert [graph.ids(index) for index in range(3)] == [(1, 2, 3), (1, 2, 8), (1, 9)]


@pytest.mark.parametrize(
    ("logprobs", "spans"),
    [
        ((-1.0,), ((0, 2),)),
        ((-1.0, -1.0), ((0, 1),)),
        ((-1.0, -1.0), ((1, 2),)),
        ((-1.0, -1.0), ((0, 2), (0, 2))),
        ((-1.0, -1.0), ()),
    ],
)
def test_an_answer_without_a_logprob_and_a_version_for_each_token_is_refused(
    logprobs: tuple[float, ...], spans: tuple[tuple[int, int], ...]
) -> None:
    versions = tuple(VersionSpan(version=PolicyVersion(0), start=start, end=end) for start, end in spans)
    answer = Generation(ids=(5, 6), logprobs=logprobs, versions=versions, finish=Finish.STOP)
    with pytest.raises(InexactTokens):
        TokenGraph().commit((1,), answer)
