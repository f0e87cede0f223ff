"""Waiting well: one watcher for everything that waits on one connection in a triggerer.

To understand it, read in this order. ``polls.py``: who waits or listens, and what one request asks for them.
``watch_list.py``: which poll comes next, and what an answer means to whom; ``agent_list.py`` and ``due_queue.py`` are
its parts. ``watcher.py``: sends the polls, as the budget of the key allows.
"""
