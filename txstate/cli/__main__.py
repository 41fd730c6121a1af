"""``python -m txstate.cli``."""

from txstate.cli import main

if __name__ == "__main__":
    main()
