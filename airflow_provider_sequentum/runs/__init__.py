"""Runs of agents: how one is started, watched, stopped and judged. Rests on https://docs.sequentum.com/concepts/runs."""
