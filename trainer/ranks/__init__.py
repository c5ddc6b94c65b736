"""Several processes that train as one: how they start, share a model, and end together."""
