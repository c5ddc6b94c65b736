"""The embedded tiers: pre-forked processes behind namespaces, or behind Landlock."""
