"""What runs inside a sandbox, whatever its walls are made of: standard library only, no import from above."""
