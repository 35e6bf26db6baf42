"""Start the command line by `python -m rootless`."""

import sys

from rootless.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
