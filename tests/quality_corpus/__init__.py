"""A corpus of data sets, of good runs that drift as sites do, and of runs that are broken as scraped data breaks.

``make quality-corpus`` judges it. Nothing here but ``__main__`` imports the code that checks.
"""
