"""Which backend a spec gets."""

from .local import open_local
from .sandbox import Sandbox, SandboxSpec


async def create_sandbox(spec: SandboxSpec) -> Sandbox:
    """A fresh sandbox on the backend that `spec` names."""
    if spec.backend == "docker" or spec.image is not None:
        from .docker import create_docker_sandbox

        return await create_docker_sandbox(spec)
    return await open_local("namespaces", spec)
