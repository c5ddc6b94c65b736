"""Why the proxy ends a request by itself."""


class Refused(Exception):
    """What the client is told in place of the host's answer.

    >>> Refused(400, "the head has no Host").status
    400
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        """400 malformed, 403 not allowed, 408 too slow, 502 not reachable, 504 no answer in time."""
        self.reason = reason
        """A sentence with the value and the cure; what the client chose stands in it as a repr."""
