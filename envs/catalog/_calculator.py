"""The calculator that environments hand out."""

from ..calculator import calculate
from ..errors import ToolError
from ..task import Task
from ..tools import ToolEnv, tool


class WithCalculator(ToolEnv[Task]):
    """Has the tool `calculator`."""

    @tool
    async def calculator(self, expression: str) -> str:
        """Work out an expression, such as (48 / 2 + 48) * 15%.

        Args:
            expression: numbers, + - * / ** % and brackets
        """
        try:
            return calculate(expression)
        except ValueError as error:
            raise ToolError(str(error)) from error
