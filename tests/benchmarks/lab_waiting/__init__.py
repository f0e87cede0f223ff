"""How waiting does under many workloads, in virtual time: see ``docs/waiting-measured.md``."""
