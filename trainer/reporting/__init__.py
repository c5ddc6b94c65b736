"""What a run says of itself: numbers of a step, its record and replay, speed, progress, summary."""
