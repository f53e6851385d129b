"""A run as one HTML page: its records read by pandas, curves drawn as SVG by matplotlib, tables by Jinja2."""
