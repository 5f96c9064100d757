"""Agreement and time of the ``raypipe demo`` command, for seeds that appear nowhere else in the code.

python -m bench.demo [--seeds 7 101 2026]
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.machine import keep


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[7, 101, 2026])
    figures = []
    for seed in parser.parse_args().seeds:
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / "run"
            started = time.monotonic()
            command = [sys.executable, "-m", "raypipe", "demo", "-q", "-o", str(run), "--seed", str(seed)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            seconds = time.monotonic() - started
            figures.append(
                {"seed": seed, "seconds": seconds, "ari": json.loads((run / "run.json").read_text())["demo"]["ari"]}
            )
            print(figures[-1], flush=True)
    print(f"kept in {keep('demo', figures)}")


if __name__ == "__main__":
    main()
