"""Raw sources: what a folder or file holds (``discover``) and the readers of its formats (``formats``)."""
