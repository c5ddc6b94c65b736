"""Graders that are programs in a sandbox, of any backend: Docker and its images too."""

from collections.abc import Mapping, Sequence

from ...envs.errors import boundary
from ...sandboxes import ExecStatus, SandboxSpec, open_sandbox
from .inline import TaskAdapter
from .job import Broken, GradeRequest, Running, Verdicts
from .wire import ENDED, MAX_ANSWER_BYTES, read_answer, request_json

REQUEST = "request.json"
SHOWN = 2000


class Boxed(TaskAdapter):
    """Each try is a program in a fresh sandbox.

    Boxed(["python3", "judge.py"], SandboxSpec(backend="docker", image="judge:1"), files={"judge.py": source})

    It finds the request on standard input and in `request.json`, `files` beside it, and what episode number 0
    left behind in `workspace/0/`. A sandbox dies with the run, so that a restart starts the try again. What
    the program does with the policy's files is its own affair: one that runs them in its own process can be
    fooled.
    """

    def __init__(
        self,
        argv: Sequence[str],
        spec: SandboxSpec | None = None,
        *,
        files: Mapping[str, bytes] | None = None,
    ) -> None:
        super().__init__()
        self._argv, self._spec, self._files = list(argv), spec or SandboxSpec(), dict(files or {})

    async def grade(self, request: GradeRequest) -> Verdicts | Broken:
        with boundary("grade"):
            body = request_json(request)
            async with open_sandbox(self._spec) as box:
                for path, data in {REQUEST: body, **self._files, **_workspaces(request)}.items():
                    await box.write(path, data)
                result = await box.run(
                    self._argv, stdin=body, timeout_s=request.limit_s, output_limit=MAX_ANSWER_BYTES
                )
        shown = result.stderr.decode(errors="replace")[-SHOWN:].strip()
        match result.status:
            case ExecStatus.OK:
                answer = read_answer(result.stdout)
            case ExecStatus.TIMEOUT:
                return Broken(reason=f"timeout: the grader took over {request.limit_s:g} s")
            case ExecStatus.NONZERO:
                return Broken(reason=f"crash: exit code {result.exit_code}: {shown}")
            case _:
                return Broken(reason=f"crash: {result.status.value}: {shown}")
        if isinstance(answer, Running):
            return Broken(reason=ENDED, is_retryable=False)
        return answer


def _workspaces(request: GradeRequest) -> dict[str, bytes]:
    return {
        f"workspace/{number}/{path}": data
        for number, episode in enumerate(request.episodes)
        if episode.workspace is not None
        for path, data in episode.workspace.files
    }
