"""HTTP to graders: one session, a token, and what of its trouble may pass."""

import os

import aiohttp
from yarl import URL

from .job import GraderBusy
from .wire import MAX_ANSWER_BYTES

_BUSY = frozenset({408, 409, 425, 429})
"""Below 500; everything from there on is, too."""


class Client:
    """Asks with the bearer token in the environment variable `token_env`. Raises `ValueError` without it."""

    def __init__(self, *, token_env: str | None, timeout_s: float) -> None:
        self._headers = {} if token_env is None else {"Authorization": f"Bearer {_token(token_env)}"}
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)

    async def open(self) -> None:
        self._session = aiohttp.ClientSession(
            headers=self._headers, timeout=self._timeout, connector=aiohttp.TCPConnector(limit=32)
        )

    async def close(self) -> None:
        await self._session.close()

    async def ask(
        self, method: str, url: URL, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, str | None, bytes]:
        """(status, Location, body). Redirects are not followed: what is submitted has the answers in it.

        Raises `GraderBusy`.
        """
        try:
            async with self._session.request(
                method, url, data=body, headers=headers, allow_redirects=False
            ) as answer:
                text = await answer.content.read(MAX_ANSWER_BYTES)
                while not answer.content.at_eof() and len(text) < MAX_ANSWER_BYTES:
                    text += await answer.content.read(MAX_ANSWER_BYTES - len(text))
        except (aiohttp.ClientError, TimeoutError) as error:
            raise GraderBusy(f"{method} {url}: {type(error).__name__}: {error}") from error
        if answer.status in _BUSY or answer.status >= 500:
            raise GraderBusy(f"{method} {url} answered {answer.status}: {text[:200]!r}")
        return answer.status, answer.headers.get("Location"), text


def _token(variable: str) -> str:
    if not (token := os.environ.get(variable)):
        raise ValueError(f"token_env: the environment variable {variable} is not set; export the token in it")
    return token
