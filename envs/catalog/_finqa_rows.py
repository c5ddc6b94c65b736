"""Questions about financial reports, in the three forms in which FinQA and ConvFinQA are handed around."""

import re
from dataclasses import dataclass

from pydantic import BaseModel, RootModel

TableRows = tuple[tuple[str, ...], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """A question, and what is needed to answer it."""

    id: str
    text: str
    """Without the table."""
    table: TableRows
    """The first row names the columns, the first cell of a row the row."""
    question: str
    answer: str
    """A number, or yes or no."""
    steps: tuple[str, ...] = ()
    """Expressions that lead to the answer, where the row has a program."""


class Flat(BaseModel):
    """All in one text; the lines of the table begin with "|"."""

    id: str
    context: str
    question: str
    answer: str

    def report(self) -> Report:
        lines = self.context.splitlines()
        table = tuple(_cells(line.strip().strip("|")) for line in lines if line.startswith("|"))
        text = "\n".join(line for line in lines if not line.startswith("|"))
        return Report(id=self.id, text=text, table=table, question=self.question, answer=self.answer)


class Conversation(BaseModel):
    """ConvFinQA: questions that lead up to the last, with a program in Python for each."""

    id: str
    text: str
    table: str
    questions: list[str]
    answer: float | str
    """To the last question."""
    programs: list[str]

    def report(self) -> Report:
        asked = "\n".join(f"{number}. {question}" for number, question in enumerate(self.questions, start=1))
        table = tuple(map(_cells, self.table.strip().splitlines()))
        return Report(
            id=self.id,
            text=self.text,
            table=table,
            question=f"{asked}\nAnswer the last question.",
            answer=str(self.answer),
            steps=python_steps(self.programs[-1] if self.programs else ""),
        )


class Question(BaseModel):
    """The part `qa` of FinQA's own files."""

    question: str
    exe_ans: float | str
    program: str = ""


class Original(BaseModel):
    """FinQA's own files."""

    id: str
    pre_text: list[str]
    post_text: list[str]
    table: list[list[str]]
    qa: Question

    def report(self) -> Report:
        return Report(
            id=self.id,
            text="\n".join([*self.pre_text, *self.post_text]),
            table=tuple(map(tuple, self.table)),
            question=self.qa.question,
            answer=str(self.qa.exe_ans),
            steps=finqa_steps(self.qa.program),
        )


class FinQARow(RootModel[Flat | Conversation | Original]):
    """Any of the three."""


def _cells(line: str) -> tuple[str, ...]:
    return tuple(cell.strip() for cell in line.split("|"))


def python_steps(program: str) -> tuple[str, ...]:
    """The expressions of a program of assignments, each with the earlier ones put in.

    >>> python_steps("x0 = 9 - 4; ans = x0 / 4")
    ('9 - 4', '(9 - 4) / 4')
    """
    known: dict[str, str] = {}
    for line in filter(None, map(str.strip, program.split(";"))):
        name, _, expression = line.partition("=")
        names = set(_NAME.findall(expression))
        if not names <= known.keys():
            raise ValueError(
                f"the program {program!r:.200} uses {min(names - known.keys())!r} before it is known"
            )
        known[name.strip()] = _NAME.sub(lambda found: f"({known[found[0]]})", expression.strip())
    return tuple(known.values())


_NAME = re.compile(r"[a-z]\w*")
_SIGNS = {"add": "+", "subtract": "-", "multiply": "*", "divide": "/", "exp": "**", "greater": ">"}


def finqa_steps(program: str) -> tuple[str, ...]:
    """The expressions of a program in FinQA's own language; none where it looks things up in the table.

    >>> finqa_steps("subtract(9, 4), divide(#0, const_100)")
    ('9 - 4', '(9 - 4) / 100')
    """
    steps: list[str] = []
    for name, first, second in re.findall(r"(\w+)\(\s*([^,()]+)\s*,\s*([^,()]+?)\s*\)", program):
        if name not in _SIGNS:
            return ()
        steps.append(f"{_argument(first, steps)} {_SIGNS[name]} {_argument(second, steps)}")
    return tuple(steps)


def _argument(text: str, steps: list[str]) -> str:
    if not text.startswith("#"):
        return f"(-{text[7:]})" if text.startswith("const_m") else text.removeprefix("const_")
    if text[1:] not in map(str, range(len(steps))):
        raise ValueError(f"the program uses the result {text!r}, and has {len(steps)} before it")
    return f"({steps[int(text[1:])]})"
