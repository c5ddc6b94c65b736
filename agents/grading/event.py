"""Graders that are functions on AWS Lambda, invoked as events: nobody waits for them there either."""

import json
from functools import cached_property
from importlib import import_module
from typing import Any

from yarl import URL

from ...envs.graders._functions.aws import aws_client
from ...envs.threads import in_thread
from .callback import CallbackServer
from .job import Answer, GraderBusy, GradeRequest, GraderRefused, Running
from .remote import Remote
from .wire import MAX_ANSWER_BYTES, read_answer, request_json

S3 = "s3://"


class LambdaEvent(Remote):
    """Submits by `Invoke` of type "Event"; the function puts its answer where it is told to, or calls back.

    LambdaEvent("arn:aws:lambda:eu-west-1:123456789012:function:judge", answers="s3://my-bucket/grades")

    The answer to a try is looked for at ANSWERS/KEY.json, in S3 or by GET; what is not there is to come.
    AWS may run an event twice, and runs one that raised up to three times: the first answer counts. Answers
    stay where they are. An event holds 1 MB at most, the workspaces included.
    """

    def __init__(
        self,
        function: str,
        *,
        answers: str | None = None,
        token_env: str | None = None,
        callback: CallbackServer | None = None,
        endpoint_url: str | None = None,
        timeout_s: float = 30.0,
    ) -> None:
        """`function`: an ARN, or a name. `answers`: "s3://bucket/prefix", or the URL of a folder, to which
        `token_env` is the bearer token. `endpoint_url`: another server that speaks Lambda's API.

        Raises `ValueError`.
        """
        if answers is None and callback is None:
            raise ValueError("answers, callback: one of them must say where answers go")
        super().__init__(token_env=token_env, callback=callback, timeout_s=timeout_s)
        self._function, self._answers = function, None if answers is None else _folder(answers)
        self._timeout_s = timeout_s
        self._lambda = aws_client("lambda", timeout_s=timeout_s, function=function, endpoint_url=endpoint_url)
        self._errors: Any = import_module("botocore.exceptions")

    async def submit(self, request: GradeRequest) -> str:
        at = None if self._answers is None else f"{self._answers}/{request.key}.json"
        more = {} if at is None else {"answer_at": at}
        body = request_json(request, **more, **self._where(request))
        await in_thread(lambda: self._invoke(body))
        return json.dumps({"at": at})

    async def poll(self, handle: str) -> Answer:
        at: str | None = json.loads(handle)["at"]
        if at is None:
            return Running()
        text = await (in_thread(lambda: self._object(at)) if at.startswith(S3) else self._page(at))
        return Running() if text is None else read_answer(text)

    async def release(self, handle: str) -> None:
        """An event cannot be called back."""

    def _invoke(self, body: bytes) -> None:
        try:
            said = self._lambda.invoke(FunctionName=self._function, InvocationType="Event", Payload=body)
        except self._errors.BotoCoreError as error:
            raise self._trouble(self._function, error) from error
        except self._errors.ClientError as error:
            raise _refusal(f"{self._function} does not take an event of {len(body)} bytes", error) from error
        if said["StatusCode"] != 202:
            raise GraderRefused(f"{self._function} answered {said['StatusCode']} to an event, not 202")

    @cached_property
    def _s3(self) -> Any:
        return aws_client("s3", timeout_s=self._timeout_s, function=self._function)

    def _object(self, at: str) -> bytes | None:
        """An object's bytes; None where there is none yet."""
        bucket, _, key = at.removeprefix(S3).partition("/")
        try:
            found: bytes = self._s3.get_object(Bucket=bucket, Key=key)["Body"].read(MAX_ANSWER_BYTES)
        except self._errors.BotoCoreError as error:
            raise self._trouble(at, error) from error
        except self._errors.ClientError as error:
            if error.response["Error"].get("Code") == "NoSuchKey":
                return None
            why = f"{at} cannot be read; the run needs s3:GetObject and s3:ListBucket there"
            raise _refusal(why, error) from error
        return found

    async def _page(self, at: str) -> bytes | None:
        status, _, text = await self._client.ask("GET", URL(at))
        if status == 404:
            return None
        if status != 200:
            raise GraderRefused(f"{at} answered {status}: {text[:200]!r}; it must be 200, or 404 until then")
        return text

    def _trouble(self, what: str, error: Exception) -> GraderBusy | GraderRefused:
        """A connection may come back; credentials that are missing do not."""
        problem = f"{what}: {type(error).__name__}: {error}"
        is_passing = isinstance(error, self._errors.ConnectionError | self._errors.HTTPClientError)
        return GraderBusy(problem) if is_passing else GraderRefused(problem)


def _refusal(problem: str, error: Any) -> GraderBusy | GraderRefused:
    """What AWS answered in place of what was asked for."""
    status = error.response["ResponseMetadata"].get("HTTPStatusCode", 0)
    is_passing = status == 429 or status >= 500
    return (GraderBusy if is_passing else GraderRefused)(f"{problem}: {error}")


def _folder(answers: str) -> str:
    url = URL(answers)
    if url.scheme not in ("s3", "http", "https") or not url.host or url.user is not None or url.query:
        raise ValueError(
            f"answers {answers!r}: give s3://bucket/prefix or http(s)://host/path; "
            "a password or a token goes into token_env"
        )
    return answers.rstrip("/")
