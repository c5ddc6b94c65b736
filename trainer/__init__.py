"""GRPO: trajectories to gradients to published weights. torch is loaded only when training starts."""
