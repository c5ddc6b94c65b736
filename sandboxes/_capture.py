"""Output with a bound: everything up to the limit, else the head, the tail, and how much lay between."""


class Capture:
    """Feed it chunks; memory stays under twice the limit.

    >>> capture = Capture(4)
    >>> capture.feed(b"abcdefgh")
    >>> capture.kept(), capture.omitted
    (b'abgh', 4)
    """

    def __init__(self, limit: int) -> None:
        self._head_limit = (limit + 1) // 2
        self._tail_limit = limit - self._head_limit
        self._head = bytearray()
        self._tail = bytearray()
        self._total = 0

    def feed(self, chunk: bytes) -> None:
        self._total += len(chunk)
        room = self._head_limit - len(self._head)
        if room > 0:
            self._head += chunk[:room]
            chunk = chunk[room:]
        self._tail += chunk
        # Trimmed by whole tails: each byte is moved once on average, however small the chunks are.
        if len(self._tail) > 2 * self._tail_limit + 65536:
            self._trim()

    def _trim(self) -> None:
        del self._tail[: max(0, len(self._tail) - self._tail_limit)]

    def kept(self) -> bytes:
        self._trim()
        return bytes(self._head + self._tail)

    @property
    def omitted(self) -> int:
        """Bytes that were fed and are not in `kept()`."""
        return max(0, self._total - self._head_limit - self._tail_limit)
