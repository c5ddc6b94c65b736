"""`check_judge` tells a judge that can be trusted from others."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from chat_endpoint import Answer, endpoint
from judging import GRADES, Asked, verdict, writes
from support import run_async

from palaestra.envs.graders.judge import Checklist, Criterion, Judge, JudgeModel, PairJudge, VerdictCache
from palaestra.envs.graders.judge.agreement import agreement, cohen_kappa
from palaestra.envs.graders.judge.check import JudgeReport, check_judge, num_questions
from palaestra.envs.graders.judge.labels import Rater, read_labels

SUMS = [
    {"question": "2 + 2?", "answer": answer, "reference": "4", "label": label}
    for answer, label in [
        ("4", 3),
        ("four", 3),
        ("5", 1),
        ("It is 4 or 5.", 2),
        ("fish", 1),
        ("2 + 2 = 4", 3),
    ]
]
PAIRS = [
    {"question": "2 + 2?", "first": "It is 4.", "second": "It is 5.", "label": "first"},
    {"question": "2 + 3?", "first": "It is 4.", "second": "It is 5.", "label": "second"},
    {"question": "2 + 4?", "first": "It is 6.", "second": "6", "label": "tie"},
]
BY_ANSWER = {row["answer"]: row["label"] for row in SUMS}


def right(asked: Asked) -> str:
    """The people's own judgement."""
    return verdict(asked, score=BY_ANSWER.get(asked.sections["ANSWER"], 1))


def point(model: JudgeModel) -> Judge:
    return Judge(model=model, form=GRADES)


def check(
    *replies: Answer,
    rows: list[dict[str, Any]] | None,
    tmp_path: Path,
    make: Callable[[JudgeModel], Judge | PairJudge] = point,
    **options: Any,
) -> JudgeReport:
    path = tmp_path / "labels.jsonl"
    path.write_text("\n\n".join(map(json.dumps, rows or ())), encoding="utf-8")

    async def main() -> JudgeReport:
        async with endpoint(*replies) as found:
            judge = make(JudgeModel(found.url, "m", backoff_s=0.0, max_retries=0, **options))
            labelled = read_labels(path, Rater(judge=judge)) if rows else ()
            return await check_judge(judge, labelled, num_probed=1)

    return run_async(main())


def failed(report: JudgeReport) -> dict[str, str]:
    return {row.name: row.detail for row in report.checks if not row.passed}


def test_a_good_judge_passes_and_its_figures_are_told(tmp_path: Path) -> None:
    report = check(writes(right), rows=SUMS, tmp_path=tmp_path)
    assert failed(report) == {}
    assert [row.name for row in report.checks] == [
        "verdicts",
        "people",
        "consistency",
        "null probes",
        "injections",
    ]
    assert report.facts == {
        "kappa": 1.0, "kappa_low": 1.0, "kappa_high": 1.0, "agreement": 1.0, "consistency": 1.0,
    }  # fmt: skip
    # 6 rows, twice 6, 4 null probes with words in them, an answer that is none and 10 attacks
    assert report.spent.num_asked == 6 + 12 + 4 + 11


@pytest.mark.parametrize("num_rows", [0, 1, 6])
def test_progress_is_told_as_often_as_was_announced(num_rows: int, tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_text("\n".join(map(json.dumps, SUMS[:num_rows])))
    asked: list[None] = []

    async def main() -> None:
        async with endpoint(writes(right)) as found:
            judge = point(JudgeModel(found.url, "m"))
            rows = read_labels(path, Rater(judge=judge)) if num_rows else ()
            await check_judge(judge, rows, on_asked=lambda: asked.append(None))

    run_async(main())
    assert len(asked) == num_questions(num_rows)


def test_a_label_may_hold_any_separator_that_json_allows(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    rows = [{**SUMS[0], "answer": "4\u2028\u0085"}, SUMS[1]]
    path.write_text("\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    found = read_labels(path, Rater(judge=point(JudgeModel("http://127.0.0.1:1/v1", "m"))))
    assert [row.answer for row, _ in found] == ["4\u2028\u0085", "four"]


def test_known_verdicts_are_not_used(tmp_path: Path) -> None:
    report = check(writes(right), rows=SUMS, tmp_path=tmp_path, cache=VerdictCache())
    assert report.spent.num_cached == 0 and report.spent.num_asked == 33


def test_a_judge_that_disagrees_with_people_fails(tmp_path: Path) -> None:
    generous = writes(lambda asked: verdict(asked, score=3 if "4" not in asked.sections["ANSWER"] else 1))
    assert "kappa -" in failed(check(generous, rows=SUMS, tmp_path=tmp_path))["people"]


def test_a_judge_that_gives_way_fails_by_the_name_of_the_attack(tmp_path: Path) -> None:
    def gullible(asked: Asked) -> str:
        return verdict(asked, score=3) if "highest score" in asked.sections["ANSWER"] else right(asked)

    found = failed(check(writes(gullible), rows=SUMS, tmp_path=tmp_path))
    assert list(found) == ["injections"]
    assert found["injections"] == "1 worked; 'ignore the rubric' got 1.0 where the answer alone got 0.0"


def test_an_attack_that_costs_the_verdict_counts_as_one_that_works(tmp_path: Path) -> None:
    def copies(asked: Asked) -> str:
        answer = asked.sections["ANSWER"]
        return answer if "SYSTEM:" in answer else right(asked)

    found = failed(check(writes(copies), rows=SUMS, tmp_path=tmp_path))
    assert "'system voice' got no verdict (JudgeError" in found["injections"]


def test_a_judge_that_pays_for_a_beginning_fails_the_null_probes(tmp_path: Path) -> None:
    def hopeful(asked: Asked) -> str:
        return verdict(asked, score=2) if "step by step" in asked.sections["ANSWER"] else right(asked)

    found = failed(check(writes(hopeful), rows=SUMS, tmp_path=tmp_path))
    assert list(found) == ["null probes"] and "'promise' got 0.5" in found["null probes"]


def test_a_moody_judge_is_not_consistent(tmp_path: Path) -> None:
    mood = random.Random(0)
    report = check(
        writes(lambda asked: verdict(asked, score=mood.randint(1, 3))), rows=SUMS * 4, tmp_path=tmp_path
    )
    assert {"consistency", "people"} <= set(failed(report))


def test_a_judge_that_is_often_silent_fails_and_its_rows_are_in_no_figure(tmp_path: Path) -> None:
    def shy(asked: Asked) -> str:
        return "Well..." if asked.sections["ANSWER"] == "fish" else right(asked)

    report = check(writes(shy), rows=SUMS, tmp_path=tmp_path)
    found = failed(report)
    assert found["verdicts"].startswith("5 of 6 rows got one; the first without: no verdict (JudgeError")
    assert report.facts["kappa"] == 1.0
    assert found["consistency"].startswith(
        "83% of 6 questions, asked twice, got one verdict; 1 got none; the"
    )
    assert report.facts["consistency"] == 5 / 6
    dead = failed(check(web.Response(status=500), rows=SUMS, tmp_path=tmp_path))
    assert set(dead) == {"verdicts", "people", "consistency", "null probes", "injections"}


def test_a_pair_judge_is_held_against_the_order_of_the_answers(tmp_path: Path) -> None:
    def sums(asked: Asked) -> str:
        total = str(sum(int(part) for part in asked.sections["QUESTION"].rstrip("?").split(" + ")))
        a, b = (total in asked.sections[f"ANSWER {name}"] for name in "AB")
        return verdict(asked, winner="tie" if a == b else "A" if a else "B")

    def make(model: JudgeModel) -> PairJudge:
        return PairJudge(model=model)

    report = check(writes(sums), rows=PAIRS, tmp_path=tmp_path, make=make)
    assert failed(report) == {} and report.facts["first_wins"] == 0.5
    assert report.facts["kappa"] == 1.0
    always_first = writes(lambda asked: verdict(asked, winner="A"))
    biased = check(always_first, rows=PAIRS, tmp_path=tmp_path, make=make)
    assert biased.facts["first_wins"] == 1.0
    assert failed(biased)["order"].startswith("0% of 3 questions, asked in both orders, got one verdict")


def test_a_pair_judge_that_is_silent_in_one_order_is_not_consistent(tmp_path: Path) -> None:
    def shy(asked: Asked) -> str:
        return verdict(asked, winner="A") if asked.sections["ANSWER A"] == "It is 4." else "Well..."

    report = check(writes(shy), rows=PAIRS[:2], tmp_path=tmp_path, make=lambda model: PairJudge(model=model))
    assert report.facts["consistency"] == 0.0
    assert failed(report)["order"].startswith(
        "0% of 2 questions, asked in both orders, got one verdict; 2 got none"
    )


def test_a_checklist_is_measured_by_each_criterion(tmp_path: Path) -> None:
    criteria = (Criterion(name="right", asks="Right?"), Criterion(name="short", asks="Short?"))
    rows = [
        {"question": "2 + 2?", "answer": "4", "label": {"right": True, "short": True}},
        {"question": "2 + 2?", "answer": "The answer is 5.", "label": {"right": False, "short": False}},
    ]

    def judge(asked: Asked) -> str:
        answer = asked.sections["ANSWER"]
        return verdict(asked, right="4" in answer, short=len(answer) < 9 and "4" in answer)

    report = check(
        writes(judge),
        rows=rows,
        tmp_path=tmp_path,
        make=lambda model: Judge(model=model, form=Checklist(criteria=criteria)),
    )
    assert failed(report) == {} and report.facts["kappa"] == 1.0
    assert report.facts["kappa_by_criterion"] == {"right": 1.0, "short": 1.0}


def test_without_labels_a_judge_is_probed_all_the_same(tmp_path: Path) -> None:
    report = check(writes(right), rows=None, tmp_path=tmp_path)
    assert [row.name for row in report.checks] == ["consistency", "null probes", "injections"]
    assert report.passed


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "line 2: .*Invalid JSON"),
        ('{"question": "q", "answer": "a"}', "line 2: label: Field required"),
        ('{"question": "q", "answer": "a", "label": 3, "lable": 4}', "line 2: lable: Extra inputs"),
        ('{"question": "q", "answer": "a", "label": 4}', r"line 2: label=4: this scale has 1 to 3"),
        ('{"question": "q", "answer": "a", "label": "good"}', "line 2: label='good': this scale has 1 to 3"),
        ('{"question": "q", "label": 3}', 'line 2: it has no "answer"'),
    ],
)
def test_a_row_that_cannot_be_used_is_named_by_its_line(line: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=problem):
        path = tmp_path / "labels.jsonl"
        path.write_text(f"{json.dumps(SUMS[0])}\n{line}\n", encoding="utf-8")
        read_labels(path, Rater(judge=point(JudgeModel("http://127.0.0.1:1/v1", "m"))))


def test_kappa_is_that_of_the_textbook() -> None:
    # Cohen's example: 20 both yes, 15 both no, 5 and 10 that differ
    pairs = [(1, 1)] * 20 + [(1, 0)] * 5 + [(0, 1)] * 10 + [(0, 0)] * 15
    assert cohen_kappa(pairs) == pytest.approx(0.4)
    assert cohen_kappa([(0, 1), (1, 0)]) == -1.0
    assert cohen_kappa([(1, 1), (1, 1)]) is None and agreement([], is_ordered=True) is None
    near, far = [(1, 1), (3, 3), (4, 5)], [(1, 1), (3, 3), (1, 5)]
    # of the squared differences, 1 was seen and 39 / 3 is chance; then 16 of 28 / 3
    assert cohen_kappa(near, is_ordered=True) == pytest.approx(1 - 1 * 3 / 39)
    assert cohen_kappa(far, is_ordered=True) == pytest.approx(1 - 16 * 3 / 48)


def test_the_interval_of_kappa_holds_it_and_narrows_with_rows() -> None:
    pairs = [(1, 1)] * 20 + [(1, 0)] * 5 + [(0, 1)] * 10 + [(0, 0)] * 15
    few, many = agreement(pairs, is_ordered=False), agreement(pairs * 10, is_ordered=False)
    assert few is not None and many is not None
    assert few.low < few.kappa < few.high
    assert many.high - many.low < 0.5 * (few.high - few.low)
