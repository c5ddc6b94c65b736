"""Engines, tokens and rollouts. Knows `palaestra.envs`; works without torch against a remote engine."""
