"""The driver's side of a sandbox's connection, the same for every tier."""
