"""`python -m ringtable` is the command `ringtable`."""

from ringtable._cli import main

if __name__ == "__main__":
    main()
