"""Draw validation accuracy over minutes of training, each curve with the name of its file.

    python -m benchmarks.accuracy docs/accuracy.png module/classic.pth module/default.pth
    python -m benchmarks.accuracy docs/accuracy-imagenet.png module/{default,frozen,catdog-efficientnet_lite0}.pth

The runs are those of

    python train.py --recipe classic --precision auto --epochs 4 --name classic
    python train.py --name default
    python train.py --model efficientnet_lite0 --weights imagenet --freeze --name frozen

and of module/README.md.
"""

import sys
from pathlib import Path

from classifier import checkpoint
from classifier.evaluation import plots


def main() -> None:
    """Draw it."""
    target, *names = sys.argv[1:]
    histories = {Path(name).stem: checkpoint.load(Path(name)).scores["history"] for name in names}
    plots.curves(histories, [("accuracy", "minutes")]).savefig(target, dpi=110)


if __name__ == "__main__":
    main()
