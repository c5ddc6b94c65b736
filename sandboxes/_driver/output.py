"""What is kept of a program's output when there is too much of it."""


class HeadTail:
    """Keeps the first and the last half of `limit` bytes and counts what was between them.

    >>> kept = HeadTail(4)
    >>> kept.feed(b"abcdefg")
    >>> kept.value(), kept.omitted
    (b'abfg', 3)
    """

    def __init__(self, limit: int) -> None:
        if limit < 0:
            raise ValueError(f"limit must be 0 or more bytes, got {limit}")
        self._head_room = limit - limit // 2
        self._tail_size = limit // 2
        self._head = bytearray()
        self._tail = bytearray()
        self._dropped = 0

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the stream."""
        if self._head_room:
            head = data[: self._head_room]
            self._head += head
            self._head_room -= len(head)
            data = data[len(head) :]
        self._tail += data
        # Cutting only at twice the size keeps a flood linear: each byte is moved at most once more.
        if len(self._tail) > 2 * self._tail_size:
            self._cut()

    def _cut(self) -> None:
        excess = len(self._tail) - self._tail_size
        if excess > 0:
            del self._tail[:excess]
            self._dropped += excess

    def value(self) -> bytes:
        """At most `limit` bytes: the whole stream, or its head and its tail side by side."""
        self._cut()
        return bytes(self._head + self._tail)

    @property
    def omitted(self) -> int:
        """Bytes that were fed and are not in `value()`."""
        self._cut()
        return self._dropped
