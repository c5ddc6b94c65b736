"""Models on disk and in memory: made, loaded, fitted, merged, kept as checkpoints."""
