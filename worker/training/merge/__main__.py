"""`python -m worker.training.merge ADAPTER BASE TARGET`."""

import sys

from worker.training.merge.model import main

if __name__ == "__main__":
    sys.exit(main())
