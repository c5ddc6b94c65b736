"""Environments and tools that other projects define: one file each, loaded when it is used."""
