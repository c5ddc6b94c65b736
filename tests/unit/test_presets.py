"""The presets: each with golden answers, and all of GSM8K and FinQA."""

import json
import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spoken import graded, outcome, score
from support import data_path, require, run_async

from palaestra.envs import Task, Ungraded
from palaestra.envs.graders import Exact, Gsm8k, SqlResult, preset
from palaestra.envs.graders.finqa import amounts
from palaestra.envs.graders.prime_math import last_box, plain
from palaestra.envs.worker import Worker


def test_a_preset_is_named_and_takes_its_fields_as_options() -> None:
    assert preset("gsm8k") == Gsm8k() and preset("exact_match", ignore_case=True) == Exact(ignore_case=True)
    assert isinstance(preset("sql", timeout_s=2.0), SqlResult)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("gsm", {}, "no preset 'gsm'; the presets are: code, exact_match, finqa, gsm8k, ifeval"),
        ("gsm8k", {"mode": "strict"}, "preset 'gsm8k': mode: 'strict': no such field; did you mean 'method'"),
        ("gsm8k", {"method": "lax"}, "preset 'gsm8k': method: 'lax': Input should be 'flexible' or 'strict'"),
    ],
)
def test_a_preset_that_does_not_exist_is_refused_with_the_cure(
    name: str, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        preset(name, **options)


@pytest.mark.parametrize(
    ("said", "strict", "flexible"),
    [
        ("48/2 = 24\n#### 72", 1.0, 1.0),
        ("#### 72.00", 1.0, 1.0),
        ("#### $72", 1.0, 1.0),
        ("#### 72 apples", 1.0, 1.0),
        ("####72\n\nI checked it twice, with 2 methods.", 1.0, 0.0),
        ("So it is 72.", 0.0, 1.0),
        ("The answer is \\boxed{72}.", 0.0, 1.0),
        ("**72**", 0.0, 1.0),
        ("#### Step 1: 48 + 24\n#### Final answer\n72", 0.0, 1.0),
        ("#### 71 or 72", 0.0, 1.0),
        ("#### 72 or 71", 0.0, 0.0),
        ("#### 72\n#### 71", 0.0, 0.0),
        ("72 is too much, so #### 71", 0.0, 0.0),
        ("#### -72", 0.0, 0.0),
        ("#### 7 2", 0.0, 0.0),
        ("#### 0.72e2", 1.0, 1.0),
        ("#### seventy-two", 0.0, 0.0),
        ("#### ٧٢", 0.0, 0.0),
        ("", 0.0, 0.0),
        ("#" * 100_000, 0.0, 0.0),
    ],
)
def test_gsm8k_golden_answers(said: str, strict: float, flexible: float) -> None:
    found = score(preset("gsm8k"), "72", said)
    assert (found.reward, dict(found.components)) == (flexible, {"strict": strict, "flexible": flexible})
    assert score(preset("gsm8k", method="strict"), "72", said).reward == strict


@pytest.mark.parametrize("reference", ["1080", "1,080", 1080, "so 1000 + 80 = 1,080.\n#### 1,080"])
@pytest.mark.parametrize("said", ["#### 1080", "#### 1,080", "#### $1,080.00"])
def test_gsm8k_reads_a_reference_as_a_number_or_a_solution(reference: Any, said: str) -> None:
    assert score(preset("gsm8k"), reference, said).reward == 1.0
    assert score(preset("gsm8k"), reference, said.replace("8", "7")).reward == 0.0


@pytest.mark.parametrize("name", ["gsm8k", "finqa"])
@pytest.mark.parametrize("reference", [None, "", "none", "1 or 2", "#### 1 or 2", float("nan")])
def test_a_reference_that_is_no_number_is_not_graded(name: str, reference: Any) -> None:
    assert isinstance(outcome(preset(name), reference, "1"), Ungraded)


@pytest.mark.parametrize(
    ("reference", "said", "strict", "loose"),
    [
        ("0.10935", "Answer: 10.935%", 1.0, 1.0),
        ("0.10935", "Answer: 10.9%", 0.0, 1.0),
        ("0.10935", "Answer: 10.935 percent", 1.0, 1.0),
        ("0.10935", "Answer: 0.10935", 1.0, 1.0),
        ("0.10935", "Answer: 10.935", 0.0, 1.0),
        ("0.10935", "Answer: 0.10935%", 0.0, 1.0),
        ("0.10935", "Answer: 1.0935", 0.0, 0.0),
        ("0.10935", "Answer: -10.935%", 0.0, 0.0),
        ("0.10935", "Answer: 12%", 0.0, 0.0),
        ("3.8", "Answer: 3.8%", 0.0, 1.0),
        ("3.8", "Answer: $ 3.8 million", 1.0, 1.0),
        ("3800000.0", "Answer: US$3.8 million", 1.0, 1.0),
        ("3.8", "Answer: 3.8 billion euros", 1.0, 1.0),
        ("28987.0", "**Answer:** $28,987", 1.0, 1.0),
        ("28987.0", "Answer: 28,900", 0.0, 1.0),
        ("-3.5", "Answer: (3.5)", 1.0, 1.0),
        ("-3.5", "Answer: $ -3.5 ( 3.5 )", 1.0, 1.0),
        ("-3.5", "Answer: \N{MINUS SIGN}$3.50", 1.0, 1.0),
        ("-3.5", "Answer: 3.5 (rounded)", 0.0, 0.0),
        ("1e-05", "Answer: 0.001%", 1.0, 1.0),
        ("1e-05", "Answer: 0", 0.0, 0.0),
        ("0.0", "Answer: 0%", 1.0, 1.0),
        ("0.0", "Answer: 0.01", 0.0, 0.0),
        ("5.0", "Answer: 5 in 2012", 1.0, 1.0),
        ("5.0", "Answer: 4 or 5", 0.0, 0.0),
        ("5.0", "in 2012 it was 4\nin all 5.", 1.0, 1.0),
        ("5.0", "it is 5\nthank you", 0.0, 0.0),
        ("5.0", "Answer:", 0.0, 0.0),
        ("5.0", "", 0.0, 0.0),
        ("yes", "Answer: Yes, it rose.", 1.0, 1.0),
        ("yes", "Answer: yes or no", 0.0, 0.0),
        ("no", "Answer: No", 1.0, 1.0),
        ("no", "Answer: not known", 0.0, 0.0),
        ("no", "Answer: 0", 0.0, 0.0),
        ("yes", "", 0.0, 0.0),
        ("10.9%", "Answer: 0.109", 1.0, 1.0),
    ],
)
def test_finqa_golden_answers(reference: str, said: str, strict: float, loose: float) -> None:
    found = score(preset("finqa"), reference, said)
    assert (found.reward, dict(found.components)) == (loose, {"strict": strict, "loose": loose})


def test_finqa_takes_another_tolerance() -> None:
    assert score(preset("finqa", rel_tol=0.1), "100", "Answer: 95").reward == 1.0
    assert score(preset("finqa", rel_tol=0.001), "100", "Answer: 99.5").reward == 0.0


@given(st.text(alphabet="0123456789.,-+eE%()$ milonbtrhusad", max_size=60))
def test_no_text_breaks_the_reading_of_amounts(text: str) -> None:
    for amount in amounts(text):
        assert all(isinstance(number, Decimal) for number in (*amount.strict, *amount.loose))


@pytest.fixture
def math_workers() -> Iterator[None]:
    pytest.importorskip("math_verify", reason="needs the extra `catalog`")
    yield
    Worker.end_idle()


@pytest.mark.usefixtures("math_workers")
@pytest.mark.parametrize(
    ("reference", "said", "reward", "boxed"),
    [
        ("0.5", "so \\boxed{\\frac{1}{2}}.", 1.0, 1.0),
        ("\\frac12", "\\boxed{0.5}", 1.0, 1.0),
        ("2\\sqrt{2}", "\\boxed{\\sqrt{8}}", 1.0, 1.0),
        ("2\\sqrt{2}", "\\boxed{2}", 0.0, 1.0),
        ("(x+1)^2", "\\boxed{x^2+2x+1}", 1.0, 1.0),
        ("(3,5]", "\\boxed{(3,5]}", 1.0, 1.0),
        ("(3,5]", "\\boxed{[3,5]}", 0.0, 1.0),
        ("\\{1,2\\}", "\\boxed{\\{2,1\\}}", 1.0, 1.0),
        ("1,000", "\\boxed{1000}", 1.0, 1.0),
        ("10", "\\boxed{10\\text{ cm}}", 1.0, 1.0),
        ("90", "\\boxed{90^\\circ}", 1.0, 1.0),
        ("5", "\\boxed{x = 5}", 1.0, 1.0),
        ("5", "\\boxed{5 \\text{ or } 6}", 0.0, 1.0),
        ("\\text{Monday}", "\\boxed{Monday}", 1.0, 1.0),
        ("Monday", "\\boxed{\\text{Tuesday}}", 0.0, 1.0),
        ("\\textbf{(A)}", "\\boxed{\\text{(A)}}", 1.0, 1.0),
        ("4", "\\boxed{3} no, \\boxed{4}", 1.0, 1.0),
        ("4", "\\boxed{4} no, \\boxed{3}", 0.0, 1.0),
        ("4", "The answer is 4.", 1.0, 0.0),
        ("4", "Final answer: $4$", 1.0, 0.0),
        ("4", "4", 0.0, 0.0),
        ("4", "\\boxed{}", 0.0, 1.0),
        ("4", "\\boxed{4", 0.0, 0.0),
        ("so it is \\boxed{4}.", "\\boxed{2^2}", 1.0, 1.0),
        ("4", "\\boxed{" * 3000, 0.0, 0.0),
        ("4", "\\boxed{2**10**10}", 0.0, 1.0),
        ("4", "", 0.0, 0.0),
    ],
)
def test_prime_math_golden_answers(reference: str, said: str, reward: float, boxed: float) -> None:
    found = score(preset("prime_math"), reference, said)
    assert (found.reward, dict(found.components)) == (reward, {"boxed": boxed})


def test_boxes_nest_and_what_latex_means_nothing_by_is_left_out() -> None:
    assert last_box("\\boxed{1} and \\boxed{\\frac{1}{\\{2\\}}} end") == "\\frac{1}{\\{2\\}}"
    assert last_box("none") is None and last_box("\\boxed{1") is None
    assert plain("\\text{Monday}\\,") == "monday" and plain("\\left( 1,\\! 2 \\right)") == "(1,2)"


@pytest.mark.parametrize(
    ("said", "reward"), [("Paris", 1.0), (" Paris\n", 1.0), ("paris", 0.0), ("It is Paris", 0.0), ("", 0.0)]
)
def test_exact_match_golden_answers(said: str, reward: float) -> None:
    assert score(preset("exact_match"), "Paris", said).reward == reward


def lines(*path: str) -> list[dict[str, Any]]:
    with open(data_path(*path), encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def changed(answer: str) -> str:
    """A GSM8K solution whose last number is one more."""
    head, mark, tail = answer.rpartition("####")
    return f"{head}{mark} {int(tail.replace(',', '')) + 1}"


@pytest.mark.data
def test_every_gsm8k_answer_is_right_and_with_a_changed_number_wrong() -> None:
    require("data")
    grader = preset("gsm8k")

    async def main() -> list[tuple[float, ...]]:
        found: list[tuple[float, ...]] = []
        for number, row in enumerate(lines("gsm8k", "train.jsonl")):
            task = Task(id=str(number), reference=row["answer"])
            right = await graded(grader, task, row["answer"])
            wrong = await graded(grader, task, changed(row["answer"]))
            short = await graded(grader, task, re.sub(r".*####", "It is", row["answer"], flags=re.DOTALL))
            found.append(
                (
                    right.reward,
                    right.components["strict"],
                    short.reward,
                    wrong.reward,
                    wrong.components["strict"],
                )
            )
        return found

    found = run_async(main())
    assert len(found) == 7473
    assert set(found) == {(1.0, 1.0, 1.0, 0.0, 0.0)}


@pytest.mark.data
def test_every_finqa_answer_is_right_as_a_number_and_as_a_percentage_and_wrong_when_it_is_another() -> None:
    require("data")
    grader = preset("finqa")

    async def main() -> dict[str, set[tuple[float, float]]]:
        found: dict[str, set[tuple[float, float]]] = {"as it is": set(), "percent": set(), "other": set()}
        for row in lines("finqa_dev", "finqa_dev_flat.jsonl"):
            answer = row["answer"]
            is_word = answer in ("yes", "no")
            said = {
                "as it is": answer,
                "percent": answer if is_word else f"{Decimal(answer) * 100:f}%",
                "other": {"yes": "no", "no": "yes"}[answer] if is_word else f"{Decimal(answer) * 2 or 1:f}",
            }
            task = Task(id=row["id"], reference=answer)
            for kind, text in said.items():
                got = await graded(grader, task, f"Answer: {text}")
                found[kind].add((got.components["strict"], got.reward))
        return found

    right = {(1.0, 1.0)}
    assert run_async(main()) == {"as it is": right, "percent": right, "other": {(0.0, 0.0)}}
