"""When one rank fails all of them end, within seconds, and say why.

A rank that waits in a collective hears nothing of another's exception: with gloo it sees a closed connection
at best, with NCCL nothing. So the failure stands in the store through which the ranks have found each other,
and a thread of each rank looks there.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, cast

import torch.distributed

from ..errors import RankLost
from .processes import Ranks

_EVERY_S = 0.25
"""Between two looks into the store."""
_GRACE_S = 5.0
"""For the first rank to end by itself, with words of its own, after another has failed."""
_SILENT = "a rank has ended without a word: killed, perhaps for its memory, or its machine is gone"


class Watch:
    """One rank's eye on the others."""

    def __init__(self, rank: int, world: int) -> None:
        distributed: Any = torch.distributed
        address = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
        # A connection of its own: the one of the group is held by whoever waits on it.
        self._store: Any = distributed.TCPStore(*address, is_master=False, timeout=timedelta(seconds=60))
        self._lost: type[Exception] = distributed.DistError
        self._rank, self._num_others = rank, world - 1
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        self._failed, self._first_failed, self._num_heard = (
            f"palaestra/{attempt}/{name}" for name in ("failed", "first-failed", "num-heard")
        )
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="rank-watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        self._thread.join()

    def tell(self, error: BaseException) -> None:
        """This rank fails: all shall end. Of several failures the first is told."""
        self.stop()
        words = f"rank {self._rank} failed with {type(error).__name__}: {error}"
        try:
            self._store.compare_set(self._failed, "", json.dumps({"rank": self._rank, "words": words}))
            if self._rank == 0:
                self._store.set(self._first_failed, "1")
                self._let_all_hear()
            else:
                self._store.add(self._num_heard, 1)
                # It may be about to say the same, and would hear of a closed connection when this rank goes.
                self._store.wait([self._first_failed], timedelta(seconds=_GRACE_S / 2))
        except self._lost:
            return  # the first rank has ended, and the store with it, or it waits for this one

    def reason(self, error: BaseException) -> RankLost | None:
        """What ended this rank, if that is another one's end; None: the error is its own."""
        is_gloos = isinstance(error, RuntimeError) and "gloo" in str(error)
        if not is_gloos and not isinstance(error, self._lost):
            return None
        try:
            self._store.wait([self._failed], timedelta(seconds=_GRACE_S / 2))
            told = self._told()
        except self._lost:
            return RankLost(_SILENT)
        return RankLost(_SILENT if told["rank"] == self._rank else told["words"])

    def _let_all_hear(self) -> None:
        """The store may be this process's, and go with it."""
        for _ in range(int(_GRACE_S / _EVERY_S)):
            if self._store.add(self._num_heard, 0) >= self._num_others:
                return
            time.sleep(_EVERY_S)

    def _told(self) -> dict[str, Any]:
        return cast(dict[str, Any], json.loads(self._store.get(self._failed)))

    def _look(self) -> None:
        """End this process where it stands, as a kill would, if it does not end by itself: it may wait in a
        collective for ever. What is on disk is whole at every moment."""
        why = None
        while why is None:
            if self._over.wait(_EVERY_S):
                return
            try:
                why = self._told()["words"] if self._store.check([self._failed]) else None
            except self._lost:
                why = _SILENT
        is_told = why is not _SILENT
        if not self._over.wait(0.0 if is_told and self._rank else _GRACE_S):
            sys.stderr.write(f"palaestra: rank {self._rank} ends: {why}\n")
            sys.stderr.flush()
            try:
                self._store.add(self._num_heard, 1)
            finally:
                os._exit(1)


@contextmanager
def watched(ranks: Ranks) -> Generator[None, None, None]:
    """What the ranks do together: if it fails for one, it ends for all. Every rank has to enter it.

    Raises `RankLost` where a rank's own error is only that another has gone.
    """
    watch = Watch(ranks.rank, ranks.world)
    try:
        yield
        watch.stop()
        ranks.gather(None)  # nobody goes, and takes the store along, while another still looks into it
    except BaseException as error:
        lost = watch.reason(error)
        watch.tell(lost or error)
        if lost is None:
            raise
        raise lost from error
