"""What `palaestra check judge` measures, and the judge that it is told to."""

from dataclasses import dataclass
from pathlib import Path

from ..envs.graders import UnknownReward
from ..envs.graders.judge import TEMPLATES, Judge, JudgeModel, PairJudge
from ..envs.graders.judge.check import Bars, JudgeReport, check_judge, num_questions
from ..envs.graders.judge.labels import Labelled, Rater, Ratings, read_labels
from ..envs.graders.load import load_object
from ..trainer.recipe_file import RecipeError
from .progress import TerminalProgress


@dataclass(frozen=True, kw_only=True, slots=True)
class Bench:
    """Who judges: "my_judges.py:polite", or a template with the endpoint that asks it."""

    judge: str
    url: str | None = None
    model_name: str = ""
    api_key_env: str | None = None

    def load(self) -> Judge | PairJudge:
        """Raises `RecipeError`."""
        try:
            if self.judge in (*TEMPLATES, "preference"):
                return self._template()
            if ":" not in self.judge:
                known = ", ".join((*TEMPLATES, "preference"))
                raise RecipeError(f'no judge {self.judge!r}; templates: {known}; or "my_judges.py:name"')
            found = load_object(self.judge)
        except UnknownReward as error:
            raise RecipeError(str(error)) from error
        if not isinstance(found, Judge | PairJudge):
            raise RecipeError(f"{self.judge} is {found!r:.200}; it must be a Judge or a PairJudge")
        return found

    def _template(self) -> Judge | PairJudge:
        if self.url is None or not self.model_name:
            raise RecipeError(f"judge {self.judge}: a template needs --url and --model-name")
        try:
            model = JudgeModel(self.url, self.model_name, api_key_env=self.api_key_env)
        except ValueError as error:
            raise RecipeError(f"--url {self.url} with --api-key-env {self.api_key_env}: {error}") from error
        if self.judge == "preference":
            return PairJudge(model=model)
        return Judge(model=model, form=TEMPLATES[self.judge])


async def measure(
    bench: Bench, labels: Path | None, num_rows: int, bars: Bars, progress: TerminalProgress
) -> JudgeReport:
    """Raises `RecipeError` for a judge, a file or a row that cannot be used."""
    judge = bench.load()
    rows: list[tuple[Labelled, Ratings]] = []
    try:
        rater = Rater(judge=judge)
        if labels is not None:
            rows = read_labels(labels, rater)[:num_rows]
    except (OSError, ValueError) as error:
        raise RecipeError(f"--labels {labels}: {error}") from error
    progress.phase("questions", num_questions(len(rows)))
    return await check_judge(judge, rows, bars=bars, on_asked=progress.advance)
