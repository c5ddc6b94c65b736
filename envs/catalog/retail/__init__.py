"""Retail: a shop's service agent, with a database, a policy text and a simulated user."""

from .env import FinalState, Retail

__all__ = ["FinalState", "Retail"]
