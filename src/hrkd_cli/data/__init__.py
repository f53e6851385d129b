"""Reading, splitting and holding labelled text of several domains."""
