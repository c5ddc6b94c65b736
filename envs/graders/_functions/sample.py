"""What a reward function gets of an episode."""

import json
from collections.abc import Mapping
from typing import Any

from pydantic_core import to_jsonable_python

from ...episode import Episode
from ...message import AssistantMessage, Message, to_openai
from ...task import Task

Sample = dict[str, Any]


def to_sample(task: Task, episode: Episode) -> Sample:
    """The sample as Bedrock, SageMaker and Nova send it, for functions written for any of them.

    >>> to_sample(Task(id="7", reference="4", metadata={"topic": "sums"}), episode)["metadata"]
    {'topic': 'sums', 'reference_answer': '4'}

    The row's fields and `reference_answer` stand at the top, as in the training file, and in `metadata` too.
    The messages end with the policy's last answer: what tools said after it, nobody has read.
    """
    fields: dict[str, Any] = to_jsonable_python(dict(task.metadata))
    metadata = fields.pop("metadata", None)
    nested: dict[str, Any] = {**metadata, **fields} if isinstance(metadata, Mapping) else dict(fields)
    reference = to_jsonable_python(task.reference)
    if reference is None:
        reference = nested.get("reference_answer")
    sample: Sample = {**fields, "id": f"{task.id}:{episode.seed}", "messages": _messages(episode)}
    if task.tools:
        sample["tools"] = [tool.to_openai() for tool in task.tools]
    if reference is not None:
        sample["reference_answer"] = nested["reference_answer"] = reference
    sample["metadata"] = nested if isinstance(metadata, Mapping | None) else metadata
    return sample


def _messages(episode: Episode) -> list[dict[str, Any]]:
    said = list(episode.messages)
    while len(said) > episode.num_opening and not isinstance(said[-1], AssistantMessage):
        said.pop()
    if not episode.answers:  # a function looks for the model's answer at the end
        said.append(AssistantMessage())
    return [_wire(message) for message in said]


def _wire(message: Message) -> dict[str, Any]:
    """As OpenAI writes them: arguments are JSON text."""
    row = to_openai(message)
    for call in row.get("tool_calls", ()):
        call["function"]["arguments"] = json.dumps(call["function"]["arguments"])
    return row
