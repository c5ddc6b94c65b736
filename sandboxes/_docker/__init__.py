"""The Docker backend: the calls to the engine, and the guest that is process 1 of a container."""
