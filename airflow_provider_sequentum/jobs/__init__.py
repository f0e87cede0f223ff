"""Remote jobs: what a run, the runs of a space and an Agent Builder session have in common, and how one is owned."""
