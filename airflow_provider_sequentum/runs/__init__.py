"""Runs of agents: how one is started, watched, stopped and judged. Based on https://docs.sequentum.com/concepts/runs."""
