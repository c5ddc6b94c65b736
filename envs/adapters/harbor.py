"""Task folders of Harbor: instruction.md, task.toml, environment/, tests/test.sh, solution/solve.sh.

TaskSet([read_folder(path) for path in sorted(Path("my-tasks").iterdir())])
"""

import math
import re
import secrets
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from ...sandboxes import ExecStatus, Sandbox, SandboxFileError, SandboxSpec, open_sandbox
from ..episode import Episode, Workspace
from ..message import UserMessage
from ..outcome import Score
from ..task import Task

Files = Mapping[str, bytes]
"""Contents by relative path."""
REWARD = "reward"
MAX_REWARD_BYTES = 1 << 16
_REWARDS = TypeAdapter(dict[str, float], config=ConfigDict(strict=True))
_WANTED = {"reward.json": f'an object of numbers, with "{REWARD}" or only one', "reward.txt": "a number"}
NOT_RUN = 126
"""A shell's exit codes from here: a command cannot be run, is not there, or was killed."""
HOME = "/app"
"""Where Harbor's tasks have their work; here it is the sandbox's workspace."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Folder:
    """One task, read."""

    files: Files = field(default_factory=dict[str, bytes])
    """What stands in the workspace at the start."""
    tests: Files
    """`test.sh` and what it needs: kept by the host, and shown to the fresh sandbox that grades."""
    solution: Files = field(default_factory=dict[str, bytes])
    timeout_s: float = 120.0
    """For the tests."""

    def __post_init__(self) -> None:
        if "test.sh" not in self.tests:
            raise ValueError(
                f"the tests are {sorted(self.tests)}; one must be test.sh, which judges the work"
            )


class _Verifier(BaseModel):
    model_config = ConfigDict(strict=True)
    timeout_sec: float = Field(default=120.0, gt=0, allow_inf_nan=False)


class _Settings(BaseModel):
    """What is read of task.toml."""

    verifier: _Verifier = _Verifier()


_PARTS = ("instruction.md", "task.toml", "environment", "tests", "solution")


def read_folder(path: Path) -> Task:
    """The task in a folder. Raises `ValueError` for what is not there, is a link, which may lead to files of
    this machine that no policy shall see, or needs an image to be built."""
    links = [name for name in _PARTS for name in _links(path, name)]
    if links:
        raise ValueError(
            f"{path}: {', '.join(links[:5])}: a link, which may lead out of the folder; put the file there"
        )
    missing = [name for name in ("instruction.md", "tests/test.sh") if not (path / name).is_file()]
    if missing:
        raise ValueError(f"{path} is no task folder: it has no {', '.join(missing)}")
    folder = Folder(
        files=_environment(path / "environment"),
        tests=_read(path / "tests"),
        solution=_read(path / "solution"),
        timeout_s=_settings(path / "task.toml").verifier.timeout_sec,
    )
    return make_task(path.name, _text(path / "instruction.md"), folder)


def make_task(id: str, instruction: str, folder: Folder) -> Task:
    """A task of that folder; paths under /app become relative ones."""
    text = re.sub(rf"(?<![\w./-]){HOME}/(?=[\w.])", "", instruction)
    wish = UserMessage(re.sub(rf"(?<![\w./-]){HOME}(/|\b)(?!/)", "the current directory", text).strip())
    return Task(id=id, messages=(wish,), private={"folder": folder})


def _settings(path: Path) -> _Settings:
    if not path.is_file():
        return _Settings()
    try:
        return _Settings.model_validate(tomllib.loads(_text(path)))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path}: {error}") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(
            f"{path}: {place} = {first['input']!r:.60}: {first['msg']}; write [verifier] timeout_sec = 120.0"
        ) from error


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: byte {error.start + 1} is no UTF-8; save the file in UTF-8") from error


def _links(task: Path, part: str) -> list[str]:
    """The links in one part of a task folder, by their paths in it."""
    top = task / part
    found = [top, *(sorted(top.rglob("*")) if not top.is_symlink() else [])]
    return [str(path.relative_to(task)) for path in found if path.is_symlink()]


def _read(folder: Path) -> dict[str, bytes]:
    """The regular files of a folder without links; one that is not there has none."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def _environment(folder: Path) -> dict[str, bytes]:
    """What the Dockerfile copies into the work directory; without a Dockerfile, everything."""
    context = _read(folder)
    if context.pop("Dockerfile", None) is None:
        return context
    files: dict[str, bytes] = {}
    for line in _text(folder / "Dockerfile").replace("\\\n", " ").splitlines():
        word, *words = line.split() or ["#"]
        match word.upper():
            case "COPY" | "ADD" if len(words) == 2:
                if ".." in (part for word in words for part in word.split("/")):
                    raise ValueError(f"{folder}/Dockerfile: {line!r} leads out of the folder; leave '..' out")
                if not (found := _copied(context, *words)) and words[0] not in (".", "./"):
                    raise ValueError(
                        f"{folder}/Dockerfile: {line!r} copies nothing: {words[0]!r} is no file or folder "
                        "with files here; name one, without a pattern"
                    )
                files |= found
            case "FROM" | "WORKDIR" | "ENV" | "LABEL" | "CMD" | "ENTRYPOINT":
                pass
            case other if not other.startswith("#"):
                raise ValueError(
                    f"{folder}/Dockerfile: {line!r} needs an image to be built, which is not done here; "
                    "write what the task needs into files that COPY names"
                )
            case _:
                pass
    return files


def _copied(context: Files, source: str, target: str) -> dict[str, bytes]:
    source = source.removeprefix("./").rstrip("/")
    into = target.removeprefix(HOME).removeprefix("./").strip("/").removeprefix(".")
    if source in context:
        is_folder = target.endswith("/") or target in (".", HOME)
        name = f"{into}/{Path(source).name}" if is_folder else into
        return {name.strip("/"): context[source]}
    prefix = "" if source in (".", "") else f"{source}/"
    return {
        f"{into}/{path.removeprefix(prefix)}".strip("/"): data
        for path, data in context.items()
        if path.startswith(prefix)
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class TestScript:
    """What the task's tests/test.sh says, in a fresh sandbox, of the files that the episode left.

    The reward is "reward" in /logs/verifier/reward.json, whose other numbers are components, or the number in
    reward.txt there, or without these files 1 for exit code 0. A script
    that comes to no end (over its time, killed, or a command of its own is not there) is lost where it
    comes to one with the task's files as they were; where not, there is no number. /app,
    /tests and /logs in the tests' texts become paths of the sandbox, with names that are new each time: a
    reward file or a pytest.ini that the policy planted is not the one that counts. Links and the right to
    execute do not outlive the episode. A script that runs a program of the policy shares its sandbox with
    it: where policies are expected to attack, `Suite` and `UnitTests` keep them apart.
    """

    __test__ = False  # for pytest, which takes the name for a test's
    sandbox: SandboxSpec = field(default_factory=SandboxSpec)

    async def grade(self, task: Task, episode: Episode, workspace: Workspace | None) -> Score:
        """Raises `ValueError` for a reward that is no number, `RuntimeError` for tests that cannot judge."""
        folder: Folder = task.private["folder"]
        left = folder.files if workspace is None else dict(workspace.files)
        async with open_sandbox(self.sandbox) as box:
            try:
                for path, data in left.items():
                    await box.write(path, data)
            except SandboxFileError as error:
                return Score(reward=0.0, evidence=f"the workspace has no place in a sandbox: {error}")
            score, told = await self._run(box, folder)
        return score or await self._control(folder, told)

    async def _control(self, folder: Folder, told: str) -> Score:
        """The tests came to no end: the work's doing, unless without any work they fare no better."""
        async with open_sandbox(self.sandbox) as box:
            for path, data in folder.files.items():
                await box.write(path, data)
            score, why = await self._run(box, folder)
        if score is None:
            raise RuntimeError(f"the tests judge nothing, not even the task's own files: {why}")
        return Score(reward=0.0, evidence=told)

    async def _run(self, box: Sandbox, folder: Folder) -> tuple[Score | None, str]:
        """What the tests say, and their last words; None where they came to no end."""
        name = f".palaestra-{secrets.token_hex(8)}"
        home = (await box.run(["pwd"])).stdout.decode().strip()
        places = {HOME: home, "/tests": f"{home}/{name}/tests", "/logs": f"{home}/{name}/logs"}
        await box.write(f"{name}/logs/verifier/.keep", b"")
        # An ini file of its own, or pytest would take the one in the workspace, and its conftest.py with it.
        for path, data in {"pytest.ini": b"[pytest]\n", **folder.tests}.items():
            await box.write(f"{name}/tests/{path}", moved(data, places))
        quiet = {"PYTHONSAFEPATH": "1", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONNOUSERSITE": "1"}
        result = await box.run(
            ["bash", f"{name}/tests/test.sh"], timeout_s=folder.timeout_s, output_limit=1 << 14, env=quiet
        )
        words = (
            (result.stdout + result.stderr)
            .replace(f"{home}/{name}".encode(), b"")
            .replace(name.encode(), b"")
        )
        told = moved(words, {home: HOME}).decode(errors="replace").strip()[-500:]  # the same of each sandbox
        if result.status not in (ExecStatus.OK, ExecStatus.NONZERO):
            return None, f"the tests were ended: {result.status.value}; {told}"
        rewards = await _written(box, f"{name}/logs/verifier")
        if rewards is None:
            if result.exit_code is None or result.exit_code >= NOT_RUN:
                return None, f"the tests ended with {result.exit_code} and wrote no reward; {told}"
            rewards = {REWARD: float(result.ok)}
        return Score(reward=rewards.pop(REWARD), components=rewards, evidence=told), told


async def _written(box: Sandbox, logs: str) -> dict[str, float] | None:
    """What the tests wrote, by name, the reward among it; None: nothing. Raises `ValueError`."""
    for file in ("reward.json", "reward.txt"):
        try:
            data = await box.read(f"{logs}/{file}", max_bytes=MAX_REWARD_BYTES)
        except SandboxFileError:
            continue
        try:
            found = _REWARDS.validate_json(data) if file == "reward.json" else {REWARD: float(data)}
            only = {REWARD: next(iter(found.values()))} if len(found) == 1 else found
            if REWARD in only and all(map(math.isfinite, only.values())):
                return only
        except ValueError:
            pass
        told = data.decode(errors="replace").strip()
        raise ValueError(f"the tests wrote {told!r:.200} to {file}; it must be {_WANTED[file]}")
    return None


def moved(data: bytes, places: Mapping[str, str]) -> bytes:
    """A text with the absolute paths of Harbor's containers replaced; what is no text stays.

    >>> moved(b"cat /app/a.txt /apple", {"/app": "/w"})
    b'cat /w/a.txt /apple'
    """
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return data
    for old, new in places.items():
        text = new.join(re.split(rf"(?<![\w./-]){re.escape(old)}(?![\w-])", text))
    return text.encode()
