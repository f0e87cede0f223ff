"""The shared watcher: polls on behalf of everything in a triggerer that waits on one connection.

Read the modules in this order. ``polls.py``: who waits or listens, what one request polls for them, and the pages of
the agents list. ``watch_list.py``: which poll comes next, and what a response means to whom. ``watcher.py``: sends the
polls, as the request budget of the key allows.
"""
