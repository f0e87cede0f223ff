"""How well many waits share one key: see ``docs/waiting-measured.md``."""
