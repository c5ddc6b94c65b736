"""The grader of an environment as a program: `program.own_process` starts it.

python -m palaestra.agents.grading.child ENV OPTIONS < request
"""

import asyncio
import json
import sys
from contextlib import suppress

from ...envs import load_env
from ...envs.errors import EpisodeFailed, boundary
from ...envs.graders.grading import ask, crash
from ...envs.play import CLOSE_S
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
        with suppress(EpisodeFailed), boundary("close"):  # the verdict stands
            async with asyncio.timeout(CLOSE_S):
                await made.close()


def main() -> None:
    request = read_request(sys.stdin.buffer.read())
    said = sys.stdout
    sys.stdout = sys.stderr  # an environment that prints does not spoil the answer
    said.write(asyncio.run(answer(sys.argv[1], sys.argv[2], request)))
    said.flush()


if __name__ == "__main__":
    main()
