"""An engine in this process: torch on CPU or a GPU, for tiny models, tests and bit-exact runs."""

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ..engine import Generation, PolicyVersion, Sampling, WeightUpdate
from ..errors import EngineError, EngineRefused
from .slots import Request, refuse

T = TypeVar("T")
_Work = Callable[[EngineError | None], None]
"""Done in the engine's thread with None; with the reason once the engine has stopped."""


class LocalEngine:
    """Serves a Qwen2, Qwen3 or Llama model from this process; `slots` answers are sampled at once.

    engine = LocalEngine("models/tiny", slots=128)
    answer = await engine.generate(ids, Sampling(max_tokens=32), policy=PolicyVersion(0), seed=1)

    `model_or_path` is a transformers model, whose parameters are copied as version 0, or its folder. An
    answer depends on the weights, the prompt, the sampling and the seed. What else is in the batch moves a
    log-probability by float noise at most; with `deterministic=True` shapes are fixed and nothing moves, at
    about three times the cost.
    """

    def __init__(
        self,
        model_or_path: Any,
        *,
        slots: int = 128,
        max_context: int | None = None,
        deterministic: bool = False,
        threads: int | None = None,
        device: str = "cpu",
        dtype: str = "auto",
    ) -> None:
        """`threads`: torch threads of this process from now on; None leaves them alone. `device` and `dtype`:
        of a model that is a folder, "auto" being what it is stored in; another one stays as it is. What is
        published is rounded to that."""
        if slots < 1 or (max_context is not None and max_context < 2):
            raise ValueError(
                f"slots={slots}, max_context={max_context}: needs slots >= 1 and max_context >= 2"
            )
        from .runner import Runner

        if isinstance(model_or_path, str | Path) and not Path(model_or_path).is_dir():
            raise ValueError(f"{str(model_or_path)!r} is not a folder with a model in it")
        self._runner = Runner(
            model_or_path,
            slots=slots,
            max_context=max_context,
            deterministic=deterministic,
            device=device,
            dtype=dtype,
        )
        if deterministic:
            self._runner.set_threads(threads)
            self._runner.check_rows()
        self.max_context = self._runner.max_context
        self._arrivals: list[Request] = []
        self._inbox: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._stopped: EngineError | None = None
        self._stopping = threading.Lock()
        self._thread = threading.Thread(target=self._serve, args=(threads,), name="local-engine", daemon=True)
        self._thread.start()

    async def generate(
        self, prompt_ids: Sequence[int], sampling: Sampling, *, policy: PolicyVersion, seed: int
    ) -> Generation:
        """Continue `prompt_ids`; the answer ends early where `max_context` does."""
        if not 0 < len(prompt_ids) < self.max_context:
            raise EngineRefused(f"prompt of {len(prompt_ids)} tokens: needs 1 .. {self.max_context - 1}")
        prompt = np.array(prompt_ids, np.int64)
        if prompt.min() < 0 or prompt.max() >= self._runner.vocab_size:
            raise EngineRefused(f"prompt has ids outside of 0 .. {self._runner.vocab_size - 1}")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Generation] = loop.create_future()
        request = Request(
            prompt=prompt,
            sampling=sampling,
            seed=seed % 2**64,
            version=policy,
            end=min(len(prompt) + sampling.max_tokens, self.max_context),
            deliver=lambda result: _settle(loop, answer, result),
        )
        # Calls of one turn of the event loop go to the thread together, so that they start in one batch.
        if not self._arrivals:
            loop.call_soon(self._flush)
        self._arrivals.append(request)
        try:
            return await answer
        finally:
            request.cancelled = True

    async def publish(self, update: WeightUpdate) -> PolicyVersion:
        """Copy `update.state`: all parameters of the model by their transformers names."""
        state = update.state
        if state is None:
            raise EngineRefused(f"version {update.version}: LocalEngine takes a state, not an adapter folder")
        await self._call(lambda: self._runner.publish(update.version, state))
        return update.version

    async def retire(self, version: PolicyVersion) -> None:
        """Refuse new requests of the version; its weights are freed after its last answer."""
        await self._call(lambda: self._runner.retire(version))

    async def close(self) -> None:
        """Answer what is in flight with EngineError and end the thread."""
        self._inbox.put(None)
        await asyncio.to_thread(self._thread.join)

    def _flush(self) -> None:
        arrived, self._arrivals = self._arrivals, []
        if arrived:
            self._post(
                lambda error: self._runner.submit(arrived) if error is None else refuse(arrived, error)
            )

    async def _call(self, work: Callable[[], None]) -> None:
        """Run `work` in the engine's thread, between two steps."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def run(error: EngineError | None) -> None:
            if error is None:
                try:
                    work()
                except EngineError as refused:
                    error = refused
                except Exception as broken:  # boundary: the caller would wait forever for what torch raises
                    error = EngineError(f"the engine could not do it: {broken!r}")
            _settle(loop, done, error)

        self._flush()  # what was asked before comes before
        self._post(run)
        await done

    def _post(self, work: _Work) -> None:
        with self._stopping:
            if self._stopped is None:
                self._inbox.put(work)
                return
        work(self._stopped)

    def _serve(self, threads: int | None) -> None:
        """The thread. Steps while there is something to compute, waits for the inbox otherwise."""
        self._runner.set_threads(threads)
        why = EngineError("the engine is closed")
        try:
            while self._take_work(wait=not self._runner.step()):
                pass
        except (
            Exception
        ) as error:  # boundary: a defect of ours answers the callers instead of leaving them waiting
            why = EngineError(f"the engine stopped: {error!r}")
        with self._stopping:
            self._stopped = why
        self._runner.fail_all(why)
        while not self._inbox.empty():
            if (work := self._inbox.get()) is not None:
                work(why)

    def _take_work(self, *, wait: bool) -> bool:
        """Do what the inbox holds. False: it said to stop."""
        while wait or not self._inbox.empty():
            work = self._inbox.get()
            if work is None:
                return False
            work(None)
            wait = False
        return True


def _settle(loop: asyncio.AbstractEventLoop, future: asyncio.Future[T], result: T | EngineError) -> None:
    """Give a waiting coroutine its result, from the engine's thread."""

    def settle() -> None:
        if future.done():
            return
        if isinstance(result, EngineError):
            future.set_exception(result)
        else:
            future.set_result(result)

    # A loop that has ended took its coroutines with it: nobody waits.
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(settle)
