"""`python -m capsnet`."""

import sys

from capsnet.cli import main

if __name__ == "__main__":  # a worker process of the DataLoader imports this file too
    sys.exit(main())
