"""Engines: vLLM over HTTP, an in-process torch engine, and a scripted one for tests."""
