"""Agent Builder sessions: what one is, how it is started, spoken in, waited for and ended, and what its end means."""
