"""``python -m tests.fuzz TARGET FILE ...``: run one target over files, as to reproduce a finding."""

import sys
from pathlib import Path

from tests.fuzz.targets import TARGETS

if __name__ == "__main__":
    target = TARGETS[sys.argv[1]]
    for name in sys.argv[2:]:
        target.run(Path(name).read_bytes())
        print(f"{name}: no finding")
