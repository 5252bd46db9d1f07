"""`python -m tfmp`, which is the command `tfmp`."""

import sys

from tfmp.command_line import main

if __name__ == "__main__":
    sys.exit(main())
