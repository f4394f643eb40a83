"""``python -m dmmc``: the command line, for where its script is not on the path."""

from dmmc.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
