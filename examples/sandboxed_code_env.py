from palaestra.envs import Episode, SandboxToolEnv, Task, TaskSet, UserMessage, tool, transcript
from palaestra.envs.graders import grader
from palaestra.sandboxes import open_sandbox


@grader
async def sorts(task: Task, episode: Episode) -> float:
    files = dict(episode.workspace.files) if episode.workspace else {}
    async with open_sandbox() as box:  # a fresh one: what the episode left running cannot reach it
        await box.write("sort.py", files.get("sort.py", b""))
        result = await box.run(["python3", "sort.py"], stdin=task.private["stdin"])
    return float(result.stdout.split() == task.reference)


class Coder(SandboxToolEnv[Task]):
    grader = sorts

    @tool(timeout_s=30)
    async def bash(self, command: str) -> str:
        """Run a shell command; files stay from call to call."""
        return transcript(await self.run(["bash", "-c", command]))

    @classmethod
    def tasks(cls) -> TaskSet:
        wish = (UserMessage("Write sort.py: it reads words from stdin and prints them in order."),)
        hidden, expected = {"stdin": b"pear apple fig"}, [b"apple", b"fig", b"pear"]
        return TaskSet([Task(id="words", messages=wish, private=hidden, reference=expected)])
