"""`python -m worker.training.merge ADAPTER BASE TARGET`."""

import sys

if __name__ == "__main__":
    # Merging never quantises, and bitsandbytes, which peft would import, takes over a second and prints warnings.
    sys.modules["bitsandbytes"] = None  # type: ignore[assignment]
    from worker.training.merge.model import main

    sys.exit(main())
