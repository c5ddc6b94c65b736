"""Readers of archives that anyone may have made: strict, linear in time, and bounded in memory."""
