"""The parts of `LambdaReward`."""
