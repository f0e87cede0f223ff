"""Whether a run's records are what was promised and what the agent used to deliver. Needs the extra ``quality``."""
