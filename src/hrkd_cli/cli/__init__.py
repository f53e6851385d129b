"""The command line: commands generated from the settings, each with one call into the package, and rendering."""
