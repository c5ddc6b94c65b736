"""What runs inside vLLM's own processes, which have this folder, and nothing else of ours, on their path."""
