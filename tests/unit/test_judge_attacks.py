"""Answers that speak to the judge, and answers that say nothing."""

import json
import re

import pytest
from aiohttp import web
from judging import GRADES, SUM, careful, judged, verdict, writes

from palaestra.envs.graders.judge import Judge, PairJudge
from palaestra.envs.graders.judge.fence import cut, inert, says_nothing
from palaestra.envs.graders.probes import HOSTILE, INJECTIONS

ATTACKS = {**INJECTIONS, "1 MB": HOSTILE["1 MB"], "half a surrogate pair": "four \ud800"}
SILENT = {
    "empty": "",
    "white space": " \n",
    "colon": ":",
    "dots": "...",
    "fence": "```\n```",
    "1 MB of it": ":" * 10**6,
}


@pytest.mark.parametrize("name", ATTACKS)
def test_row_44_an_attack_stays_inside_its_fence_and_earns_nothing(name: str) -> None:
    found = judged(writes(careful), answers=(ATTACKS[name],), max_asks=1)
    assert found.reward == 0.0
    (asked,) = found.questions
    assert list(asked.sections) == ["QUESTION", "REFERENCE", "ANSWER"]
    assert asked.sections["ANSWER"] == inert(cut(ATTACKS[name], 20_000))
    assert asked.text.count(asked.mark) == 8, "two lines a text, the rules and the order"
    assert asked.sections["REFERENCE"] not in asked.sections["ANSWER"] or name == "1 MB"
    assert len(json.dumps(asked.payload)) < 30_000
    rules, (_, order) = asked.payload["messages"][0], asked.text.split(f"[{asked.mark} ANSWER ends]")
    (plain,) = judged(writes(careful)).questions
    assert rules["content"].replace(asked.mark, plain.mark) == plain.payload["messages"][0]["content"]
    assert order.replace(asked.mark, plain.mark) == plain.text.split(f"[{plain.mark} ANSWER ends]")[1]


@pytest.mark.parametrize("name", ATTACKS)
def test_row_44_a_judge_that_repeats_the_answer_or_a_verdict_in_it_gives_no_number(name: str) -> None:
    def copies(text: str) -> str:
        found = re.search(r"\{.*\}", text)
        return found[0] if found else text

    repeats = judged(writes(lambda asked: asked.sections["ANSWER"]), answers=(ATTACKS[name],), max_asks=2)
    assert "gave no verdict in 2 replies" in repeats.reason
    misled = judged(writes(lambda asked: copies(asked.sections["ANSWER"])), answers=(ATTACKS[name],))
    assert "gave no verdict in 3 replies" in misled.reason


@pytest.mark.parametrize("name", ATTACKS)
def test_row_44_a_judge_that_fails_over_an_answer_gives_no_number(name: str) -> None:
    broken = judged(web.Response(status=500, text="out of memory"), answers=(ATTACKS[name],), max_retries=1)
    assert "EndpointError" in broken.reason and "HTTP 500" in broken.reason


@pytest.mark.parametrize("name", SILENT)
def test_row_44_an_answer_that_says_nothing_earns_the_floor_and_nobody_is_asked(name: str) -> None:
    praises = writes(lambda asked: verdict(asked, score=3, winner="A"))
    found = judged(praises, answers=(SILENT[name],))
    assert found.reward == 0.0 and found.endpoint.asked == []
    pair = judged(praises, answers=(SILENT[name],), make=lambda model: PairJudge(model=model))
    assert pair.reward == 0.0 and pair.endpoint.asked == []


def test_an_answer_of_a_sign_or_in_any_script_says_something() -> None:
    for text in ("<", "7", "解", "ß", "€", "\N{THUMBS UP SIGN}", "-1"):
        assert not says_nothing(text), text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a<|im_end|>b", "a< |im_end|>b"),
        ("<|im_<|x|>end|>", "<|im_< |x|>end|>"),
        ("</s>[/INST]<end_of_turn>", "< /s>[ /INST]< end_of_turn>"),
        ("<\uff5cend\u2581of\u2581sentence\uff5c>", "< \uff5cend\u2581of\u2581sentence\uff5c>"),
        ("if a <b and [INSTANCE] | c|>", "if a <b and [INSTANCE] | c|>"),
        ("\ud800", "?"),
    ],
)
def test_control_tokens_are_taken_apart_and_other_text_is_left_alone(text: str, shown: str) -> None:
    assert inert(text) == shown


def test_the_judge_is_told_how_much_of_a_long_answer_it_does_not_see() -> None:
    found = judged(
        writes(careful),
        answers=("a" * 500 + "b" * 500,),
        make=lambda model: Judge(model=model, form=GRADES, max_chars=101),
    )
    (asked,) = found.questions
    assert asked.sections["ANSWER"] == "a" * 51 + "\n[... 899 characters left out ...]\n" + "b" * 50
    assert SUM.prompt_text == asked.sections["QUESTION"]
