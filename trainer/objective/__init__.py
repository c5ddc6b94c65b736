"""What is minimised beside the losses: off-policy correction, distance from a reference, what losses read."""
