"""The `grading:` section of a recipe: what it makes, and what it refuses."""

import socket
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import run_async

from palaestra.agents.grading.program import Program
from palaestra.agents.grading.stage import Grading
from palaestra.agents.ledger import Ledger
from palaestra.envs import Env, Score, Task, TaskSet, UserMessage
from palaestra.envs.reachable import refusal
from palaestra.trainer.arena import Arena
from palaestra.trainer.grading import load_grader, make_adapter, open_grading
from palaestra.trainer.preflight import preflight
from palaestra.trainer.recipe import Recipe
from palaestra.trainer.recipe_file import RecipeError, load_recipe
from palaestra.trainer.sections.tasks import EnvSection, PartnerSection


class Plain(Env[Task]):
    """Has step rewards only."""


class Grouped(Env[Task]):
    """Is graded in groups."""

    class Siblings:
        async def grade_group(self, task: Task, episodes: Any) -> list[Score]:
            return [Score(reward=0.0) for _ in episodes]

    grader = Siblings()


def recipe(tmp_path: Path, **grading: Any) -> Recipe:
    path = tmp_path / "recipe.yaml"
    fields = {"name": "x", "env": {"id": "arithmetic"}, "grpo": {"steps": 1}}
    path.write_text(yaml.safe_dump(fields | ({"grading": grading} if grading else {})))
    return load_recipe(path)


def stage_of(env: type[Env[Task]], asked: Recipe, folder: Path) -> Grading | None:
    tasks = TaskSet([Task(id="t", messages=(UserMessage("go"),))])

    async def main() -> Grading | None:
        with Ledger(folder) as ledger:
            async with open_grading(asked, Arena(env, tasks, tasks), ledger, folder) as grading:
                return grading

    return run_async(main())


@pytest.mark.parametrize(
    ("grading", "why"),
    [
        ({"kind": "http"}, "grading.url: is missing"),
        ({"kind": "sandbox"}, "grading.command: is missing"),
        ({"kind": "inline", "command": ["judge"]}, "set grading.kind to subprocess or sandbox"),
        ({"kind": "subprocess", "callback": True}, "grading.callback: subprocess does not use it"),
        ({"attempt_s": 60, "total_s": 30}, "grading.total_s: 30 is under grading.attempt_s=60"),
        ({"kind": "lamda"}, "grading.kind: 'lamda'"),
        ({"kind": "lambda", "answers": "s3://b"}, "grading.function: is missing"),
        ({"kind": "lambda", "function": "judge"}, "grading.answers: is missing; nobody waits for an event"),
        ({"kind": "http", "url": "http://h", "answers": "s3://b"}, "set grading.kind to lambda"),
        ({"kind": "inline", "function": "judge"}, "grading.function: inline does not use it"),
        ({"closes": "wait"}, "did you mean 'close'"),
    ],
)
def test_a_section_that_cannot_be_used_is_refused(grading: dict[str, Any], why: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=why):
        recipe(tmp_path, **grading)


def test_an_env_that_is_made_for_its_grader_is_closed(tmp_path: Path) -> None:
    closed = list[str]()

    class Open(Grouped):
        """Holds something."""

        async def close(self) -> None:
            closed.append("closed")

    stage_of(Open, recipe(tmp_path), tmp_path)
    assert closed == ["closed"]


@pytest.mark.parametrize("kind", ["async def", "def"])
def test_the_env_that_is_made_to_try_its_options_is_closed(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "from pathlib import Path\n"
        "from palaestra.envs import Env, Task, TaskSet, UserMessage\n"
        "class Open(Env[Task]):\n"
        "    @classmethod\n"
        "    def tasks(cls):\n        return TaskSet([Task(id='t', messages=(UserMessage('go'),))])\n"
        f"    {kind} close(self):\n        Path({str(tmp_path / 'closed')!r}).touch()\n"
    )
    module = f"open_env_{kind.split()[0]}"
    (tmp_path / f"{module}.py").write_text(code)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    asked = recipe(tmp_path)
    assert asked.env is not None
    env = asked.env.model_copy(update={"id": f"{module}:Open", "held_out": 1})
    run_async(preflight(asked.model_copy(update={"env": env}), trains=False))
    assert (tmp_path / "closed").exists()


def test_without_a_section_only_groups_get_a_stage(tmp_path: Path) -> None:
    assert stage_of(Plain, recipe(tmp_path), tmp_path) is None
    grading = stage_of(Grouped, recipe(tmp_path), tmp_path)
    assert grading is not None and grading.is_of_groups and grading.limits.attempt_s == 60.0


def test_a_stage_without_any_grader_is_refused_and_a_program_is_one(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="only step rewards; name one by"):
        stage_of(Plain, recipe(tmp_path, kind="inline"), tmp_path)
    asked = recipe(tmp_path, kind="subprocess", command=["judge"], close="partial", close_after_s=5)
    grading = stage_of(Plain, asked, tmp_path)
    assert grading is not None and grading.limits.close_after_s == 5
    assert asked.grading is not None
    with Ledger(tmp_path) as ledger:
        assert isinstance(make_adapter(asked, asked.grading, None, ledger, tmp_path), Program)


def test_a_function_on_lambda_is_a_grader_and_where_its_answers_go_must_make_sense(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("boto3")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    arn = "arn:aws:lambda:eu-west-1:123456789012:function:judge"
    asked = recipe(tmp_path, kind="lambda", function=arn, answers="s3://bucket/grades", callback=True)
    assert stage_of(Plain, asked, tmp_path) is not None
    for function, answers, why in (
        (arn, "bucket", "give s3://bucket/prefix"),
        ("judge", "s3://b", "AWS_REGION"),
    ):
        with pytest.raises(RecipeError, match=why):
            stage_of(Plain, recipe(tmp_path, kind="lambda", function=function, answers=answers), tmp_path)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("nowhere:judge", "ModuleNotFoundError"),
        ("graded_envs", "names no function"),
        ("graded_envs:os", "neither a function nor a grader"),
    ],
)
def test_a_grader_that_cannot_be_loaded_is_explained(name: str, why: str) -> None:
    with pytest.raises(RecipeError, match=why):
        load_grader(name)


def test_a_plain_function_is_a_grader_as_it_is_a_reward(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def score(completion: str) -> float:\n    return 1.0\n")
    assert hasattr(load_grader(f"{tmp_path / 'mine.py'}:score"), "grade")


def test_partners_are_not_lost_in_another_process(tmp_path: Path) -> None:
    asked = recipe(tmp_path, kind="subprocess")
    assert asked.env is not None and asked.grading is not None
    partner = PartnerSection(url="http://127.0.0.1:1/v1", model="m")
    env = asked.env.model_copy(update={"partners": {"judge": partner}})
    with Ledger(tmp_path) as ledger, pytest.raises(RecipeError, match=r"env\.partners\.judge is not there"):
        make_adapter(asked.model_copy(update={"env": env}), asked.grading, None, ledger, tmp_path)


def test_a_grader_is_a_class_or_an_object() -> None:
    assert hasattr(load_grader("graded_envs:Loud"), "grade")


@pytest.mark.parametrize(
    ("grading", "field"),
    [
        ({"kind": "http", "url": "http://127.0.0.1:PORT/jobs"}, "url"),
        (
            {"kind": "lambda", "function": "f", "answers": "s3://b", "endpoint_url": "http://127.0.0.1:PORT"},
            "endpoint_url",
        ),
    ],
)
def test_a_service_that_is_not_there_is_told_of_before_the_run(
    grading: dict[str, Any], field: str, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        asked = recipe(tmp_path, **{key: text.replace("PORT", port) for key, text in grading.items()})
        asked = asked.model_copy(update={"env": EnvSection(id="arithmetic", held_out=10)})
        run_async(preflight(asked, trains=False))
    with pytest.raises(
        RecipeError, match=rf"^grading.{field}: 127.0.0.1:{port} refuses the connection; start"
    ):
        run_async(preflight(asked, trains=False))


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        (
            socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
            "nobody has no address: Name or service not known",
        ),
        (socket.gaierror(socket.EAI_AGAIN, "Temporary failure"), None),
        (TimeoutError(), None),
    ],
)
def test_a_host_without_an_address_is_nobody_and_what_may_pass_is_not_told(
    trouble: OSError, said: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(address: tuple[str, int], timeout: float) -> socket.socket:
        assert address == ("nobody", 443)
        raise trouble

    monkeypatch.setattr(socket, "create_connection", fails)
    found = run_async(refusal("https://me:secret@nobody/grade"))
    assert found == said
