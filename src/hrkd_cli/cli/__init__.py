"""The command line: a file a command, each options, one call into the package, and rendering."""
