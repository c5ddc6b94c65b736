"""The driver's side of the embedded tiers: one zygote per tier, one socket per sandbox.

    driver ──"open 7" + socket──> zygote ──clone──> supervisor of sandbox 7
       └─────────────────── frames on that socket ────────────┘

An open sandbox belongs to the event loop that opened it; zygotes belong to none.
"""

import asyncio
import os
import socket
import time
from collections.abc import Sequence

from ._driver.calls import Answer
from ._driver.client import GRACE_S, BoxClient
from ._embedded.layers import MAX_LAYERS
from ._embedded.zygotes import Limits, Parked, Zygote, require_venv, zygote
from ._forks import keep_from_forks
from ._inside.linux import require_linux
from ._inside.loop import PARKED_S
from ._newcomers import Newcomer, admit
from .errors import SandboxError, SandboxLost, SandboxUnavailable
from .refusals import REFUSED
from .sandbox import Capabilities, SandboxSpec

_CLOSE_S = 5.0
_PARK_S = 1.0


def _limits(spec: SandboxSpec) -> Limits:
    return spec.memory_mb, spec.pids, spec.disk_mb, spec.cpus


class LocalSandbox(BoxClient):
    """A sandbox of an embedded tier; made by `open_local`."""

    def __init__(
        self,
        spec: SandboxSpec,
        keeper: Zygote,
        number: int,
        sock: socket.socket,
        newcomer: Newcomer,
        *,
        begins_empty: bool = True,
    ) -> None:
        tier = keeper.tier
        self._is_proxied = tier == "namespaces" and spec.network != "none"
        super().__init__(tier, spec, sock, is_proxied=self._is_proxied)
        self._keeper = keeper
        self._newcomer = newcomer
        self.number = number
        """Which of its zygote's sandboxes this is."""
        self._freezing = asyncio.Lock()
        self._may_be_parked = tier == "namespaces" and not self._is_proxied and begins_empty

    def capabilities(self) -> Capabilities:
        if self.tier == "namespaces":
            return Capabilities(tier=self.tier, jobs=True, fork="overlay", networks=("none", "open", "hosts"))
        networks = ("none",) if self.tier == "landlock" else ("open",)
        refused = REFUSED.get(self.tier, {})
        return Capabilities(tier=self.tier, jobs=True, fork="copy", networks=networks, refused=refused)

    async def open_twin(self) -> "LocalSandbox":
        return await open_local(self.tier, self.spec)

    async def fork(self) -> BoxClient:
        if self.tier != "namespaces":
            return await super().fork()
        layers: list[int] = []
        try:
            async with self._freezing:
                self._may_be_parked = False
                self.link.max_descriptors = MAX_LAYERS
                try:
                    await self.ask({"op": "freeze"})
                finally:
                    self.link.max_descriptors = 0
                    layers, self.link.descriptors = self.link.descriptors, []
            return await open_local(self.tier, self.spec, layers)
        finally:
            for layer in layers:
                os.close(layer)

    def end_now(self) -> None:
        self._keeper.kill(self.number)

    def why_lost(self) -> SandboxError:
        return self._keeper.lost(f"the supervisor of sandbox {self.number} died")

    async def open(self) -> None:
        """Wait until the supervisor has built its walls."""
        answer = Answer()
        spec = self.spec
        limits = {
            "memory_mb": spec.memory_mb,
            "pids": spec.pids,
            "disk_mb": spec.disk_mb,
            "cpus": spec.cpus,
            "has_network": self._is_proxied,
        }
        # Who refuses before it has read this knows no other channel.
        self.send_as(0, answer, limits)
        try:
            async with asyncio.timeout(GRACE_S):
                words, why = await answer.future
        except TimeoutError:
            self.end_now()
            raise SandboxLost(f"sandbox {self.number} did not start in {GRACE_S:g} s") from None
        except SandboxLost:
            raise self._keeper.failure() from None
        if words[0] != b"ok":
            raise SandboxUnavailable(why.decode(errors="replace"))

    async def reopen(self) -> bool:
        """Take over a parked sandbox. False when it has left meanwhile."""
        try:
            await self.ask({"op": "open"})
        except SandboxLost:
            self.link.close()
            return False
        except BaseException:
            self.link.close()
            raise
        return True

    async def close(self) -> None:
        try:
            if not self.is_closing:
                is_idle, self.is_closing = not self.is_busy, True
                # A zygote that has died has been replaced: nobody would ask it for what is parked there.
                can_park = is_idle and self._may_be_parked and self._keeper.is_alive()
                if can_park and await self._park():
                    return
                # The supervisor reads the end of the stream, and kills what runs; a pending call sees it.
                self.link.end_requests()
                await self.close_gate()
            if not await self.see_ended(_CLOSE_S):
                self.end_now()
                await self.see_ended(_CLOSE_S)
        finally:
            self.link.close()
            self._newcomer.leave()

    async def _park(self) -> bool:
        """Whether the sandbox is as new, and waits for another owner."""
        answer = Answer()
        try:
            self.send_as(0, answer, {"op": "park"})
            async with asyncio.timeout(_PARK_S):
                words, _ = await answer.future
        except (TimeoutError, SandboxLost):
            return False
        if words[0] != b"ok":
            return False
        parked = Parked(self.number, self.let_go(), time.monotonic() + PARKED_S)
        self._keeper.park(_limits(self.spec), parked)
        asyncio.get_running_loop().call_later(2 * PARKED_S, self._keeper.drop_late)
        return True


async def open_local(tier: str, spec: SandboxSpec, layers: Sequence[int] = ()) -> LocalSandbox:
    """A sandbox of exactly this tier. `SandboxUnavailable` when the machine refuses one of its walls.

    `layers`: descriptors of the files that it begins with, from a sandbox of the same tier.
    """
    if (reason := require_linux()) is not None:
        raise SandboxUnavailable(reason)
    keeper = zygote(tier, require_venv(spec.venv) if spec.venv else "", spec.preload)
    newcomer = await admit()
    try:
        return await _open(keeper, spec, layers, newcomer)
    except BaseException:
        newcomer.leave()
        raise


async def _open(keeper: Zygote, spec: SandboxSpec, layers: Sequence[int], newcomer: Newcomer) -> LocalSandbox:
    if keeper.tier == "namespaces" and spec.network == "none" and not layers:
        while (parked := keeper.take_parked(_limits(spec))) is not None:
            box = LocalSandbox(spec, keeper, parked.number, parked.sock, newcomer)
            if await box.reopen():
                return box
    ours, theirs = socket.socketpair()
    keep_from_forks(ours)
    try:
        with theirs:
            number = await keeper.open(theirs, layers)
        box = LocalSandbox(spec, keeper, number, ours, newcomer, begins_empty=not layers)
    except BaseException:
        ours.close()
        raise
    try:
        await box.open()
    except BaseException:
        box.link.close()
        raise
    return box
