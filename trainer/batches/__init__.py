"""From episodes to tensors: rows, packing, attention without contamination, log-probabilities in chunks."""
