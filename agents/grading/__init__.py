"""Detached grading: a stage of its own between an episode and its outcome, kept in the run file."""
