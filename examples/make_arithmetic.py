"""Writes the demo's data set, `arithmetic.train.jsonl` and `arithmetic.heldout.jsonl`, next to this script.

python examples/make_arithmetic.py [SEED]
"""

import sys
from pathlib import Path

from app.cli.demo.command import DEFAULT_SEED
from app.cli.demo.data import write_dataset

HERE = Path(__file__).parent

if __name__ == "__main__":
    seed = int(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_SEED
    write_dataset(HERE / "arithmetic.train.jsonl", HERE / "arithmetic.heldout.jsonl", seed=seed)
