"""The lint of task files: each way in which a workspace gives its answer away, and clean ones that do not."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest
from support import run_async
from typer.testing import CliRunner

from palaestra.cli.main import app
from palaestra.envs import Observation, Policy, SandboxToolEnv, ScriptedPolicy, Task, TaskSet, UserMessage
from palaestra.envs.check import check_env
from palaestra.envs.graders import AnyGrader, Exact
from palaestra.envs.leaks import find_leaks

CANARY = "the-canary-in-the-answer"


def git(repo: Path, *words: str) -> str:
    kept = {"PATH": os.environ["PATH"], "HOME": str(repo), "GIT_CONFIG_NOSYSTEM": "1"}
    who = ["-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "init.defaultBranch=main"]
    done = subprocess.run(["git", *who, *words], cwd=repo, env=kept, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def commit(repo: Path, text: str) -> str:
    (repo / "parser.py").write_text(text)
    git(repo, "add", "-A")
    git(repo, "commit", "-qm", f"now {text}")
    return git(repo, "rev-parse", "HEAD")


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """Two commits; what is asked for is the third."""
    folder = tmp_path / "task" / "repo"
    folder.mkdir(parents=True)
    git(folder, "init", "-q")
    commit(folder, "one")
    commit(folder, "two")
    return folder


def whys(folder: Path, *secrets: str, **options: str) -> list[str]:
    return [f"{leak.place}: {leak.why}" for leak in find_leaks(folder, secrets=secrets, **options)]


def clean(repo: Path) -> None:
    git(repo, "reflog", "expire", "--expire=now", "--all")
    git(repo, "gc", "-q", "--prune=now")


def test_a_repository_that_ends_at_its_base_is_clean(repo: Path) -> None:
    git(repo, "tag", "v1", "HEAD~1")
    git(repo, "tag", "-a", "v2", "-m", "two")
    (repo / "new.py").write_text("not yet committed")
    git(repo, "add", "new.py")
    assert whys(repo.parent, CANARY) == []
    clean(repo)
    assert whys(repo.parent, CANARY) == []
    git(repo.parent, "clone", "-q", "--bare", "--no-local", str(repo), "bare.git")
    assert whys(repo.parent, CANARY) == []


def reset_hard(repo: Path) -> None:
    commit(repo, "three")
    git(repo, "reset", "-q", "--hard", "HEAD~1")


def test_a_future_commit_is_found_wherever_git_keeps_it(repo: Path) -> None:
    reset_hard(repo)
    found = "\n".join(whys(repo.parent))
    assert "repo/.git/: 1 commits are no ancestors of HEAD" in found
    assert "logs/HEAD tells of 1 commits" in found and "logs/refs/heads/main tells of 1 commits" in found
    assert "ORIG_HEAD names what is no ancestor of HEAD" in found
    assert "COMMIT_EDITMSG tells of a commit that is no ancestor of HEAD: 'now three'" in found
    assert "2 objects are not part of HEAD or the index" in found


def branch(repo: Path) -> None:
    git(repo, "branch", "fix")
    git(repo, "reset", "-q", "--hard", "HEAD~1")


def tag(repo: Path) -> None:
    git(repo, "tag", "-a", "v3", "-m", "three")
    git(repo, "reset", "-q", "--hard", "HEAD~1")


def stash(repo: Path) -> None:
    (repo / "parser.py").write_text("three")
    git(repo, "stash", "-q")


@pytest.mark.parametrize(
    ("leave", "said"),
    [
        (branch, "refs/heads/fix points beyond HEAD"),
        (tag, "refs/tags/v3 points beyond HEAD"),
        (stash, "refs/stash points beyond HEAD"),
    ],
)
def test_a_ref_beyond_the_base_is_found_after_a_clean_up_too(
    repo: Path, leave: Callable[[Path], None], said: str
) -> None:
    leave(repo)
    assert any(said in why for why in whys(repo.parent))
    if leave is not stash:  # which is nothing but an entry of a reflog
        clean(repo)
        found = whys(repo.parent)
        assert any(said in why for why in found)
        assert any("1 commits are no ancestors of HEAD" in why for why in found)


def test_what_was_only_staged_or_hashed_is_found(repo: Path) -> None:
    (repo / "answer.txt").write_text("three")
    git(repo, "add", "answer.txt")
    git(repo, "reset", "-q")
    (repo / "answer.txt").unlink()
    (only,) = whys(repo.parent)
    assert "1 objects are not part of HEAD or the index" in only
    clean(repo)
    assert whys(repo.parent) == []


def test_a_base_other_than_head(repo: Path) -> None:
    assert any("1 commits are no ancestors of HEAD~1" in why for why in whys(repo.parent, base="HEAD~1"))
    with pytest.raises(ValueError, match="has no commit 'nope'"):
        find_leaks(repo.parent, base="nope")


def test_a_secret_is_found_in_files_and_in_what_git_keeps(repo: Path) -> None:
    (repo / "notes.bin").write_bytes(b"\xff\x00" + CANARY.encode())
    assert whys(repo.parent, CANARY, "short") == [f"repo/notes.bin: it holds the secret {CANARY!r}"]
    commit(repo, "three")
    (repo / "notes.bin").unlink()
    commit(repo, "four")
    (only,) = whys(repo.parent, CANARY)
    assert only == f"repo/.git/: an object: it holds the secret {CANARY!r}"
    (repo / ".git" / "description").write_text(f"mind {CANARY}")
    assert f"repo/.git/: description: it holds the secret {CANARY!r}" in whys(repo.parent, CANARY)


def test_a_secret_across_two_reads_of_a_large_object_is_found(repo: Path) -> None:
    for shift in range(0, len(CANARY), 6):
        (repo / "large.txt").write_text("x" * ((1 << 20) - shift - 60) + CANARY + "y" * (1 << 20))
        git(repo, "add", "-A")
        assert any("an object" in why for why in whys(repo / "..", CANARY))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("solution/solve.sh", "solution/: it has the name of a solution"),
        ("a/b/solve.sh", "a/b/solve.sh: it has the name of a solution"),
        ("gold.patch", "it has the name of a solution"),
        (".cache/pip/x", ".cache/: a cache"),
        ("deep/.pytest_cache/v/lastfailed", "deep/.pytest_cache/: a cache"),
        ("parser.py.orig", "a cache or a leftover"),
        (".bash_history", "a cache or a leftover"),
        ("__pycache__/parser.cpython-311.pyc", "compiled from a source that is not there"),
        ("parser.pyc", "compiled from a source that is not there"),
    ],
)
def test_a_name_that_gives_the_answer_away_is_found(tmp_path: Path, name: str, said: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("x")
    found = whys(tmp_path)
    assert any(said in why for why in found), found
    allow = ["solution*", "*/solve.sh", "gold.patch", ".cache", "deep/*", "*.orig", ".bash*", "*.pyc"]
    assert find_leaks(tmp_path, allow=allow) == []


def test_ordinary_files_are_no_leaks(tmp_path: Path) -> None:
    for name in (
        "solution.py",
        "tests/test_gold.py",
        "src/oracle.py",
        "a.py",
        "__pycache__/a.cpython-311.pyc",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    (tmp_path / "link").symlink_to("/etc/passwd")
    (tmp_path / "loop").symlink_to(".")
    assert whys(tmp_path, "root:x:0:0:root") == []
    with pytest.raises(ValueError, match="is no folder"):
        find_leaks(tmp_path / "a.py")


class Files(SandboxToolEnv[Task]):
    """Its tasks begin with files."""

    grader: AnyGrader | None = Exact()
    given: ClassVar[dict[str, bytes]] = {"parser.py": b"one"}

    @classmethod
    def tasks(cls) -> TaskSet:
        asked = (UserMessage("What does parser.py say?"),)
        private = {"patch": "the patch that mends it all"}
        return TaskSet([Task(id="t", messages=asked, reference="the long answer", private=private)])

    @classmethod
    def oracle(cls, task: Task) -> Policy:
        return ScriptedPolicy([str(task.reference)])

    async def reset(self, task: Task, *, seed: int) -> Observation:
        box = await self.box()
        for path, data in self.given.items():
            await box.write(path, data)
        return await super().reset(task, seed=seed)


class Patched(Files):
    given: ClassVar = {"deep/mend.diff": b"-- the patch that mends it all"}


class Solved(Files):
    given: ClassVar = {"solution/solve.sh": b"echo"}


class Answered(Files):
    async def reset(self, task: Task, *, seed: int) -> Observation:
        await (await self.box()).write("notes.txt", f"expected: {task.reference}".encode())
        return await super().reset(task, seed=seed)


class Future(Files):
    async def reset(self, task: Task, *, seed: int) -> Observation:
        box = await self.box()
        for path in sorted(self.repo.rglob("*")):
            if path.is_file():
                await box.write(path.relative_to(self.repo).as_posix(), path.read_bytes())
        return await super().reset(task, seed=seed)

    repo: ClassVar[Path]


def files_row(env: type[Files]) -> tuple[bool, str]:
    report = run_async(check_env(env))
    (row,) = [check for check in report.checks if check.name == "files"]
    return row.passed, row.detail


@pytest.mark.parametrize(
    ("env", "passed", "said"),
    [
        (Files, True, "no answer in the files that 1 tasks begin with"),
        (Patched, False, "deep/mend.diff: it holds the secret 'the patch that mends it all'"),
        (Solved, False, "solution/: it has the name of a solution"),
        (Answered, False, "notes.txt: it holds the secret"),
    ],
)
def test_check_env_looks_into_the_files_of_a_sandbox(env: type[Files], passed: bool, said: str) -> None:
    found, detail = files_row(env)
    assert found is passed and said in detail


def test_check_env_looks_into_repositories(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clean(repo)
    monkeypatch.setattr(Future, "repo", repo, raising=False)
    assert files_row(Future)[0]
    reset_hard(repo)
    passed, detail = files_row(Future)
    assert not passed and ".git/: 1 commits are no ancestors of HEAD" in detail


def test_the_command_line_names_each_leak_and_fails(repo: Path) -> None:
    def said(*words: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, ["check", "files", str(repo.parent), *words], env={"COLUMNS": "200"})
        return done.exit_code, done.output

    assert said("--canary", CANARY)[0] == 0
    (repo / "gold.patch").write_text(CANARY)
    code, output = said("--canary", CANARY, "--json")
    assert code == 1 and [row["name"] for row in json.loads(output)["checks"]] == ["repo/gold.patch"] * 2
    assert said("--canary", CANARY, "--allow", "*/gold.patch")[0] == 0
    code, output = said("--base", "nope")
    assert code == 2 and "has no commit 'nope'" in " ".join(output.split())
