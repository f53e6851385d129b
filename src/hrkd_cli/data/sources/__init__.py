"""Raw sources: what a folder or file holds (``discover``), a reader a format, and ``read`` that joins them.

Every reader gives a ``Table``; ``read`` turns all tables into the same ``Example`` by the same rules.
"""
