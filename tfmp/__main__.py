"""`python -m tfmp`, which is the command `tfmp`."""

import sys

from tfmp._command_line import main

if __name__ == "__main__":
    sys.exit(main())
