"""The parts of the proxy (`proxy.py`): what a client sends, and where it may go. Driver side only."""
