"""A run as one HTML page: its records read, curves drawn as SVG, tables. Needs the standard library alone."""
