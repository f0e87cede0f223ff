"""The shared watcher: polls on behalf of everything in a triggerer that waits on one connection.

Read the modules in this order. ``polls.py``: who waits or listens, and what one request polls for them.
``watch_list.py``: which poll comes next, and what a response means to whom; ``agent_list.py`` is a part of it.
``watcher.py``: sends the polls, as the request budget of the key allows.
"""
