"""What breaks at the other end of an adapter."""


class PeerLost(ConnectionError):
    """The program behind an adapter did not start, is gone, or speaks nonsense: infrastructure, no score."""

    def __init__(self, message: str, *, is_retryable: bool = True) -> None:
        super().__init__(message)
        self.is_retryable = is_retryable
