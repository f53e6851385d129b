"""``python -m hrkd_cli`` is ``hrkd``."""

from hrkd_cli.cli.main import run

if __name__ == "__main__":
    run()
