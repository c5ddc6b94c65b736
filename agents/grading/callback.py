"""Where graders call back: a small server on the loopback, with a token for each job."""

import hmac

from aiohttp import web

from ..ledger import Ledger
from .job import Broken, Fate, GradeRequest, Inbox, Running
from .wire import MAX_ANSWER_BYTES, read_answer

_PORT = "grading_port"
CALLBACK_POLL_S = 60.0
"""How often to look beside callbacks, which may get lost."""


class CallbackServer:
    """POST {url} takes the answer of a job, POST {url}/beat a sign of life; both want the job's token.

    The reply says what became of it, as in {"fate": "kept"}: "duplicate" and "late" change nothing. Port and
    tokens are those of the run file, so that a grader finds us after a restart. From other machines it is
    reached through `public_url`, by a proxy of yours.
    """

    def __init__(
        self, ledger: Ledger, *, host: str = "127.0.0.1", port: int = 0, public_url: str | None = None
    ) -> None:
        """`port` 0: a free one, the same again after a restart if it can be had."""
        self._ledger, self._host, self._port, self._public_url = ledger, host, port, public_url
        self._secret = ledger.grades.secret("grading_secret").encode()

    async def open(self, inbox: Inbox) -> None:
        """Listen."""
        self._inbox = inbox
        app = web.Application(client_max_size=MAX_ANSWER_BYTES)
        app.router.add_post("/grades/{job}/{attempt:[0-9]{1,9}}", self._result)
        app.router.add_post("/grades/{job}/{attempt:[0-9]{1,9}}/beat", self._beat)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        self._port = await self._listen(self._port or int(self._ledger.meta(_PORT) or 0))
        self._ledger.set_meta(_PORT, str(self._port))

    async def close(self) -> None:
        await self._runner.cleanup()

    def address(self, request: GradeRequest) -> dict[str, str]:
        """What a request says: where the answer shall go, and the token to bring."""
        base = self._public_url or f"http://{self._host}:{self._port}"
        url = f"{base.rstrip('/')}/grades/{request.job}/{request.attempt}"
        return {"url": url, "token": self._token(request.job)}

    async def _listen(self, port: int) -> int:
        """The port that it became."""
        site = web.TCPSite(self._runner, self._host, port)
        try:
            await site.start()
        except OSError:
            if port == 0:
                raise
            return await self._listen(0)  # somebody has it: graders under way are asked, as they cannot call
        ((_, bound, *_),) = self._runner.addresses
        return int(bound)

    def _token(self, job: str) -> str:
        return hmac.new(self._secret, job.encode(), "sha256").hexdigest()

    def _is_allowed(self, request: web.Request) -> bool:
        said = request.headers.get("Authorization", "").encode(errors="replace")
        return hmac.compare_digest(said, f"Bearer {self._token(request.match_info['job'])}".encode())

    async def _result(self, request: web.Request) -> web.Response:
        if not self._is_allowed(request):
            return _reply(401, error="bring the token of the job: Authorization: Bearer ...")
        job, attempt = request.match_info["job"], int(request.match_info["attempt"])
        answer = read_answer(await request.read())
        if isinstance(answer, Running):
            return _reply(200, alive=self._inbox.beat(job))
        fate = self._inbox.receive(job, attempt, answer)
        error = answer.reason if isinstance(answer, Broken) else ""
        return _reply(404 if fate is Fate.UNKNOWN else 200, fate=fate.value, error=error)

    async def _beat(self, request: web.Request) -> web.Response:
        if not self._is_allowed(request):
            return _reply(401, error="bring the token of the job: Authorization: Bearer ...")
        return _reply(200, alive=self._inbox.beat(request.match_info["job"]))


def _reply(status: int, **body: object) -> web.Response:
    return web.json_response({name: value for name, value in body.items() if value != ""}, status=status)
