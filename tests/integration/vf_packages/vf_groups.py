"""A verifiers package whose rubric compares siblings. Knows nothing of Palaestra."""

import verifiers as vf
from datasets import Dataset


def shortest(completions, **kwargs) -> list[float]:
    sizes = [len(str(completion)) for completion in completions]
    return [float(size == min(sizes)) for size in sizes]


def load_environment():
    rows = [{"question": "Be brief.", "answer": ""}]
    return vf.SingleTurnEnv(dataset=Dataset.from_list(rows), rubric=vf.Rubric(funcs=[shortest]))
