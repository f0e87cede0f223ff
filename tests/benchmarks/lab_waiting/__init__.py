"""How waiting does under many workloads, in virtual time: see ``docs/waiting.md``."""
