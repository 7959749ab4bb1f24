"""Draw validation accuracy over minutes of training, of runs on one machine: docs/accuracy.png.

    python -m benchmarks.accuracy module/classic.pth module/default.pth

The runs are those of

    python train.py --recipe classic --precision auto --epochs 4 --name classic
    python train.py --name default
"""

import sys
from pathlib import Path

from classifier import checkpoint
from classifier.evaluation import plots


def main() -> None:
    """Draw it."""
    runs = [checkpoint.load(Path(name)) for name in sys.argv[1:]]
    histories = {f"--recipe {run.settings['recipe']}": run.scores["history"] for run in runs}
    plots.curves(histories, [("accuracy", "minutes")]).savefig("docs/accuracy.png", dpi=110)


if __name__ == "__main__":
    main()
