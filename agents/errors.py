"""What agents may raise to the people who run them.

EngineError          the engine could not answer; worth another try
└── EngineRefused    the request itself is wrong; another try gets the same answer
LedgerError          the run file cannot be used
"""


class EngineError(Exception):
    """The engine could not answer: infrastructure, never the policy's fault. Worth another try."""


class EngineRefused(EngineError):
    """The request itself is wrong (too long, unknown policy): another try gets the same answer."""

    is_retryable = False


class LedgerError(Exception):
    """The run file cannot be used: corrupt, of another schema, on a full disk, or held by another process."""
