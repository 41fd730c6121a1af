"""``python -m txstate``: the command line, where the script is not on the path."""

from txstate.cli import main

if __name__ == "__main__":
    main()
