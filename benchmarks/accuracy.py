"""Draw validation accuracy over minutes of training, of runs on one machine: docs/accuracy.png.

    python -m benchmarks.accuracy module/default.pth module/fine-tuned.pth module/frozen.pth

Each curve has the name of its file. The runs are those of

    python train.py --name default
    python train.py --name fine-tuned --model efficientnet_lite0 --weights imagenet --epochs 3 --size 160
    python train.py --name frozen --model efficientnet_lite0 --weights imagenet --freeze
"""

import sys
from pathlib import Path

from classifier import checkpoint
from classifier.evaluation import plots


def main() -> None:
    """Draw it."""
    histories = {Path(name).stem: checkpoint.load(Path(name)).scores["history"] for name in sys.argv[1:]}
    plots.curves(histories, [("accuracy", "minutes")]).savefig("docs/accuracy.png", dpi=110)


if __name__ == "__main__":
    main()
