"""Reward functions as people bring them, and a server that speaks the API of AWS Lambda and runs one."""

import asyncio
import json
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from support import run_async

from palaestra.envs import (
    AssistantMessage,
    Episode,
    Failed,
    Message,
    Scored,
    StopReason,
    Task,
    Ungraded,
    UserMessage,
)
from palaestra.envs.graders import Grader, grade_episode
from palaestra.envs.graders._functions.host import Context, load_module

BEDROCK = """
from dataclasses import asdict, dataclass


@dataclass
class RewardOutput:
    id: str
    aggregate_reward_score: float
    metrics_list: list


def lambda_handler(event, context):
    print("graded on", context.aws_request_id, context.get_remaining_time_in_millis())
    scores = []
    for sample in event:
        expected = sample.get("metadata", {}).get("reference_answer")
        last = sample["messages"][-1]
        assert last["role"] == "assistant", "Last message must be from assistant"
        right = float(last["content"].lower() == expected["answer"].lower())
        metrics = [{"name": "accuracy", "value": right, "type": "Reward"},
                   {"name": "batch", "value": len(event), "type": "Metric"}]
        scores.append(RewardOutput(id=sample["id"], aggregate_reward_score=right, metrics_list=metrics))
    return [asdict(score) for score in scores]
"""
"""The reference is in `metadata`, the reply is the list itself."""

SAGEMAKER = """
import json


def lambda_handler(event, context):
    rows = []
    for sample in event:
        right = sample["messages"][-1]["content"] == sample["reference_answer"]["answer"]
        rows.append({"id": sample["id"], "aggregate_reward_score": float(right)})
    return {"statusCode": 200, "body": json.dumps(rows)}
"""
"""The reference is at the top, the reply is in an envelope."""


def episode(*said: str, task_id: str = "t", seed: int = 0) -> Episode:
    messages: list[Message] = [UserMessage("question"), *map(AssistantMessage, said)]
    return Episode(task_id=task_id, seed=seed, messages=tuple(messages), num_opening=1, stop=StopReason.DONE)


TASK = Task(id="t", reference={"answer": "4"}, metadata={"my_key": "sample-001"})
Outcome = Scored | Ungraded | Failed


def grade(grader: Grader, *said: str, timeout_s: float = 60.0) -> list[Outcome]:
    """The outcomes of episodes that said these, graded at the same time."""

    async def main() -> list[Outcome]:
        episodes = [episode(text, seed=seed) for seed, text in enumerate(said)]
        grades = [grade_episode(grader, TASK, each, timeout_s=timeout_s) for each in episodes]
        return list(await asyncio.gather(*grades))

    return run_async(main())


def rewards(outcomes: list[Outcome]) -> list[float | None]:
    return [found.reward if isinstance(found, Scored) else None for found in outcomes]


def reasons(outcomes: list[Outcome]) -> str:
    assert all(isinstance(found, Ungraded) for found in outcomes), outcomes
    return "\n".join(found.reason for found in outcomes if isinstance(found, Ungraded))


def write(folder: Path, code: str, name: str = "lambda_function.py") -> Path:
    path = folder / name
    path.write_text(code)
    return path


@dataclass
class RewardServer:
    """Takes `Invoke` and plain posts alike, and runs the file's `lambda_handler` for each."""

    path: Path
    trouble: Iterator[int] = field(default_factory=lambda: iter(()))
    """The status of the next answers that are none."""
    calls: list[int] = field(default_factory=list[int])
    """How many samples each call had that the function was run for."""
    requests: list[tuple[str, str | None]] = field(default_factory=list[tuple[str, str | None]])
    """(path, authorization) of every request."""
    url: str = ""


@contextmanager
def serving(path: Path, *trouble: int) -> Generator[RewardServer, None, None]:
    """The first answers are the statuses in `trouble`."""
    server = RewardServer(path, iter(trouble))

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            server.requests.append((unquote(self.path), self.headers.get("Authorization")))
            if status := next(server.trouble, 0):
                kind = "TooManyRequestsException" if status == 429 else "ServiceException"
                self._answer(status, {"message": "not now"}, {"x-amzn-ErrorType": kind})
                return
            server.calls.append(len(json.loads(body)))
            try:
                reply = load_module(str(path)).lambda_handler(json.loads(body), Context("grade", body, 10.0))
            except Exception as error:  # every kind: the function's
                told = {"errorType": type(error).__name__, "errorMessage": str(error)}
                if "/invocations" in self.path:
                    self._answer(200, told, {"X-Amz-Function-Error": "Unhandled"})
                else:
                    self._answer(400, told, {})
            else:
                self._answer(200, reply, {})

        def _answer(self, status: int, value: Any, headers: dict[str, str]) -> None:
            data = json.dumps(value).encode()
            self.send_response(status)
            for name, text in {"Content-Length": str(len(data)), **headers}.items():
                self.send_header(name, text)
            with suppress(BrokenPipeError, ConnectionResetError):  # the client has not waited
                self.end_headers()
                self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            """Keep quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listener:
        server.url = f"http://127.0.0.1:{listener.server_port}"
        thread = threading.Thread(target=listener.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            listener.shutdown()
            thread.join()
