"""Which view belongs to which backend."""

import os
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points

from .._inside.cell import descendants
from .proc import name_of
from .target import View

ENTRY_POINTS = "palaestra.sandboxes.views"
"""The group in which a package offers the `View` of its backend, under the backend's name."""


def view_of(backend: str) -> View:
    """The view of a backend; of one that offers none, what can be seen from outside."""
    if backend == "docker":
        from .docker_view import DockerView

        return DockerView()
    if backend in ("namespaces", "landlock"):
        from .embedded_view import EmbeddedView

        return EmbeddedView(backend)
    for found in entry_points(group=ENTRY_POINTS, name=backend):
        make: Callable[[], View] = found.load()
        return make()
    return OutsideView()


class OutsideView(View):
    """Sees this process's own children only."""

    settles_s = 2.0

    def everything(self) -> frozenset[str]:
        return frozenset(name_of(pid) for pid in descendants(os.getpid()))

    def programs(self) -> Sequence[str]:
        return ()
