"""The HTML report of training runs: read by pandas, drawn by matplotlib as SVG, rendered by Jinja2."""
