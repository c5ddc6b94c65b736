"""What graders on the network have in common: a client to ask them, and a server that they may call back."""

from typing import Any

from .callback import CALLBACK_POLL_S, CallbackServer
from .client import Client
from .job import GradeRequest, Inbox


class Remote:
    """Opens and closes both, and says in a request where to call back."""

    is_durable = True

    def __init__(self, *, token_env: str | None, callback: CallbackServer | None, timeout_s: float) -> None:
        """`callback`: where the answer shall go; then we look ourselves only once a minute."""
        self._client, self._callback = Client(token_env=token_env, timeout_s=timeout_s), callback
        self.poll_s: float | None = None if callback is None else CALLBACK_POLL_S

    async def open(self, inbox: Inbox) -> None:
        await self._client.open()
        if self._callback is not None:
            await self._callback.open(inbox)

    async def close(self) -> None:
        """Graders that are under way go on."""
        await self._client.close()
        if self._callback is not None:
            await self._callback.close()

    def _where(self, request: GradeRequest) -> dict[str, Any]:
        """What a request says of it."""
        return {} if self._callback is None else {"callback": self._callback.address(request)}
