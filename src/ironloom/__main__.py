"""``python -m ironloom`` is ``ironloom``."""

from ironloom.cli import main

if __name__ == "__main__":
    main()
