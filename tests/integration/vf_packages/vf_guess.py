"""A verifiers package: guess a number in a few turns. Knows nothing of Palaestra."""

import verifiers as vf
from datasets import Dataset


class Guess(vf.MultiTurnEnv):
    async def env_response(self, messages, state, **kwargs):
        said = messages[-1].content or ""
        secret = int(state["answer"])
        if not said.strip().isdigit():
            return [vf.UserMessage(content="Say a number.")]
        if int(said) == secret:
            reply = [vf.UserMessage(content="Right.")]
            state["final_env_response"] = reply
            return reply
        return [vf.UserMessage(content="higher" if int(said) < secret else "lower")]


def found(completion, answer, **kwargs) -> float:
    return float(any(message.role == "assistant" and message.content == answer for message in completion))


def fragile(completion, **kwargs) -> float:
    if any("break" in str(message.content) for message in completion):
        raise KeyError("the reward function broke")
    return 1.0


def load_environment(num_rows: int = 3, max_turns: int = 8):
    print("a package that prints")
    rows = [
        {"question": f"Guess my number, from 0 to 15, and again: it is game {row}.", "answer": str(5 + row)}
        for row in range(num_rows)
    ]
    rubric = vf.Rubric(funcs=[found, fragile], weights=[1.0, 0.5])
    return Guess(
        dataset=Dataset.from_list(rows), system_prompt="You guess.", rubric=rubric, max_turns=max_turns
    )
