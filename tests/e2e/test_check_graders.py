"""`palaestra check judge` and `palaestra check reward`, as people and machines call them."""

import asyncio
import json
from pathlib import Path

from chat_endpoint import Answer, endpoint
from command import Done, palaestra
from judging import Asked, verdict, writes
from support import run_async

LABELS = [
    {"question": f"{n} + {n}?", "answer": str(n + n + off), "reference": str(n + n), "label": 1 if off else 5}
    for n in range(2, 6)
    for off in (0, 1)
]


def fair(asked: Asked) -> str:
    return verdict(asked, score=5 if asked.sections["ANSWER"] == asked.sections.get("REFERENCE") else 1)


def check_judge(reply: Answer, *arguments: str, cwd: Path) -> Done:
    (cwd / "labels.jsonl").write_text("\n".join(map(json.dumps, LABELS)))

    async def main() -> Done:
        async with endpoint(reply) as found:
            words = [each.replace("URL", found.url) for each in arguments]
            return await asyncio.to_thread(lambda: palaestra("check", "judge", *words, cwd=cwd))

    return run_async(main())


TEMPLATE = ("reasoning", "--url", "URL", "--model-name", "m", "--labels", "labels.jsonl")


def test_a_judge_is_checked_by_a_template_and_told_in_figures(tmp_path: Path) -> None:
    done = check_judge(writes(fair), *TEMPLATE, "--json", cwd=tmp_path)
    assert done.code == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["passed"] and (report["kappa"], report["consistency"]) == (1.0, 1.0)
    assert report["tokens"] > 500
    assert [row["name"] for row in report["checks"]][:2] == ["verdicts", "people"]


def test_a_judge_of_ones_own_that_gives_way_fails_with_exit_code_1(tmp_path: Path) -> None:
    (tmp_path / "my_judges.py").write_text(
        "import os\n"
        "from palaestra.envs.graders.judge import REASONING, Judge, JudgeModel\n"
        "kind = Judge(model=JudgeModel(os.environ['JUDGE_URL'], 'm'), form=REASONING)\n"
    )

    async def main() -> Done:
        def kind(asked: Asked) -> str:
            return verdict(asked, score=5) if "home" in asked.sections["ANSWER"] else fair(asked)

        async with endpoint(writes(kind)) as found:
            words = ("check", "judge", "my_judges.py:kind")
            env = {"JUDGE_URL": found.url}
            return await asyncio.to_thread(lambda: palaestra(*words, cwd=tmp_path, env=env))

    done = run_async(main())
    assert done.code == 1, done.stderr
    assert "'pleading' got 1.0 where the answer alone got 0.0" in done.stdout


def test_what_names_no_judge_or_no_labels_is_refused_with_the_cure(tmp_path: Path) -> None:
    for arguments, cure in {
        ("reasoning",): "a template needs --url and --model-name",
        ("polite",): "templates: faithfulness",
        ("none.py:polite",): "there is no file none.py",
        (*TEMPLATE[:5], "--labels", "none.jsonl"): "--labels none.jsonl: ",
    }.items():
        done = check_judge(writes(fair), *arguments, cwd=tmp_path)
        assert done.code == 2 and cure in done.stderr, done.stderr


REWARDS = """
def strict(task, episode):
    return float(episode.answers[-1].content == str(task.reference))

def lax(task, episode):
    return float(str(task.reference) in episode.answers[-1].content)
"""


def test_a_reward_is_checked_on_rows_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "my_rewards.py").write_text(REWARDS)
    rows = [{"question": f"{n} * {n}?", "answer": str(n * n)} for n in range(11, 31)]
    (tmp_path / "tasks.jsonl").write_text("\n".join(map(json.dumps, rows)))
    call = ("check", "reward", "--data", "tasks.jsonl", "--prompt", "question")
    good = palaestra(*call, "my_rewards.py:strict", "--json", cwd=tmp_path)
    assert good.code == 0, good.stdout + good.stderr
    assert all(row["passed"] for row in json.loads(good.stdout)["checks"])
    bad = palaestra(*call, "my_rewards.py:lax", cwd=tmp_path)
    assert bad.code == 1 and "1000 numbers: reward 1" in bad.stdout, bad.stdout
    unknown = palaestra(*call, "my_rewards.py:loose", cwd=tmp_path)
    assert unknown.code == 2 and "my_rewards has no 'loose'" in unknown.stderr
    asked = palaestra(*call, "exact_match", "--options", "{prefix: 'Answer:'}", cwd=tmp_path)
    assert asked.code == 1 and "gold: reward 0" in asked.stdout, asked.stdout + asked.stderr
    odd = palaestra(*call, "finqa", "--options", "{tolerance: 1}", cwd=tmp_path)
    assert odd.code == 2 and "tolerance" in odd.stderr, odd.stderr


def test_a_reward_is_checked_on_an_environment_by_its_oracle(tmp_path: Path) -> None:
    done = palaestra("check", "reward", "numeric", "--env", "arithmetic", "--tasks", "4", cwd=tmp_path)
    assert done.code == 0 and "FAILED" not in done.stdout, done.stdout + done.stderr
