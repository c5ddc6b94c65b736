"""Tasks, tools, graders and the loop that plays them. Knows `palaestra.sandboxes` and nothing above it."""

from .budget import Budget
from .env import Env, Observation, Step
from .episode import Episode, StopReason, Workspace
from .errors import OutOfBudget, Tampered, ToolBroken, ToolError
from .graders.grading import Grader
from .gym import GymnasiumEnv, register_all
from .message import AssistantMessage, Message, SystemMessage, ToolCall, ToolMessage, ToolSpec, UserMessage
from .outcome import Failed, Outcome, Score, Scored, Ungraded
from .play import play
from .policy import Policy
from .registry import env_names, load_env
from .sandboxed import SandboxToolEnv, transcript
from .scripted import ScriptedPolicy, call_tool
from .task import Task, TaskSet
from .tools import ToolEnv, tool
from .user import ScriptedUser, UserSimulator

__all__ = [
    "AssistantMessage",
    "Budget",
    "Env",
    "Episode",
    "Failed",
    "Grader",
    "GymnasiumEnv",
    "Message",
    "Observation",
    "OutOfBudget",
    "Outcome",
    "Policy",
    "SandboxToolEnv",
    "Score",
    "Scored",
    "ScriptedPolicy",
    "ScriptedUser",
    "Step",
    "StopReason",
    "SystemMessage",
    "Tampered",
    "Task",
    "TaskSet",
    "ToolBroken",
    "ToolCall",
    "ToolEnv",
    "ToolError",
    "ToolMessage",
    "ToolSpec",
    "Ungraded",
    "UserMessage",
    "UserSimulator",
    "Workspace",
    "call_tool",
    "env_names",
    "load_env",
    "play",
    "tool",
    "transcript",
]

register_all()
