"""Tasks, tools, graders and the loop that plays them. Knows `palaestra.sandboxes` and nothing above it."""

from .budget import Budget
from .env import Env, Observation, Step
from .episode import Episode, StopReason
from .errors import OutOfBudget, ToolError
from .graders.grader import Grader
from .message import AssistantMessage, Message, SystemMessage, ToolCall, ToolMessage, ToolSpec, UserMessage
from .outcome import Failed, Outcome, Score, Scored, Ungraded
from .play import play
from .policy import Policy
from .registry import env_names, load_env
from .task import Task, TaskSet

__all__ = [
    "AssistantMessage",
    "Budget",
    "Env",
    "Episode",
    "Failed",
    "Grader",
    "Message",
    "Observation",
    "OutOfBudget",
    "Outcome",
    "Policy",
    "Score",
    "Scored",
    "Step",
    "StopReason",
    "SystemMessage",
    "Task",
    "TaskSet",
    "ToolCall",
    "ToolError",
    "ToolMessage",
    "ToolSpec",
    "Ungraded",
    "UserMessage",
    "env_names",
    "load_env",
    "play",
]
