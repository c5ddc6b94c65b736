"""The policy that training started from, kept beside the one that is trained."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor


class Reference:
    """The trained parameters as they are now. Nothing else is copied; with an adapter that is little."""

    def __init__(self, parameters: Mapping[str, Tensor], *, in_parts: bool) -> None:
        """`in_parts`: the parameters lie on several ranks, and cannot be exchanged but copied over."""
        self._parameters, self._in_parts = parameters, in_parts
        self._kept = {name: parameter.detach().clone() for name, parameter in parameters.items()}

    @contextmanager
    def in_place(self) -> Generator[None, None, None]:
        """Inside, the model is the reference."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for name, parameter in self._parameters.items():
            if not self._in_parts:
                parameter.data, self._kept[name] = self._kept[name], parameter.data
                continue
            kept = parameter.detach().clone()
            with torch.no_grad():
                parameter.copy_(self._kept[name])
            self._kept[name] = kept
