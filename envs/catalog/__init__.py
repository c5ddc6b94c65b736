"""Built-in environments, a file or a folder each."""
