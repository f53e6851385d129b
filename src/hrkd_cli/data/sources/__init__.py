"""Raw sources: discovery of their files (``discover``) and readers of all formats (``formats``)."""
