"""Labeled text of several domains: reading, splitting, storing and sampling."""
