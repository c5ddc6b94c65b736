"""The grader of an environment as a program: `program.own_process` starts it.

python -m palaestra.agents.grading.child ENV OPTIONS < request
"""

import asyncio
import json
import os
import sys

from ...envs import load_env
from ...envs.errors import EpisodeFailed
from ...envs.graders.grading import ask, crash
from ...envs.play import put_away
from .job import GradeRequest
from .wire import read_request, verdicts_json


async def answer(env: str, options: str, request: GradeRequest) -> str:
    """What the grader says, or how it broke."""
    made = load_env(env)(**json.loads(options))
    grader = made.grader
    assert grader is not None, "without a grader there is no job"
    try:
        return verdicts_json(await ask(grader, request.task, request.episodes))
    except EpisodeFailed as error:
        failed = error.failed
        why = crash(failed).removeprefix("crash: ")
        return json.dumps({"status": "failed", "error": why, "retryable": failed.retryable})
    finally:
        await put_away(made)


def main() -> None:
    request = read_request(sys.stdin.buffer.read())
    said = os.dup(1)
    os.dup2(2, 1)  # what an environment and its processes print does not spoil the answer
    with os.fdopen(said, "w", encoding="utf-8") as answers:
        answers.write(asyncio.run(answer(sys.argv[1], sys.argv[2], request)))


if __name__ == "__main__":
    main()
