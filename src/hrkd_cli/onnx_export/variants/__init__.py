"""Folders of their own: a student with one head baked in, with a trimmed vocabulary, or both."""
