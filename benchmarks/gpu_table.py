"""Print the table of gpu.sh, from the folder that its scripts ran in: python -m benchmarks.gpu_table FOLDER."""

import json
import sys
from pathlib import Path

from benchmarks.__main__ import table
from classifier import checkpoint


def main() -> None:
    """Print it."""
    folder = Path(sys.argv[1])
    weights = checkpoint.load(folder / "module" / "gpu.pth")
    report = json.loads(next((folder / "logs" / "evaluate").glob("*/*/report.json")).read_text())
    compute = json.loads((folder / "compute.json").read_text())["images_per_second"]
    history = weights.scores["history"]
    low, high = report["interval"]
    rows = [("", report["device"])]
    for bar in (0.90, 0.95, 0.98):
        reached = [60 * entry["minutes"] for entry in history if entry["val"]["accuracy"] >= bar]
        rows.append((f"seconds of training to {bar:.0%} of validation images", f"{reached[0]:.1f}" if reached else "-"))
    rate = history[-1]["images_per_second"]
    rows += [
        ("network, epochs, images per step", f"{weights.model}, {len(history)}, {weights.settings['batch_size']}"),
        (f"seconds of all {len(history)} epochs", f"{60 * history[-1]['minutes']:.1f}"),
        (f"accuracy on {report['count']:,} test images", f"{report['accuracy']:.2%} ({low:.2%} to {high:.2%})"),
        (f"images/s at {weights.settings['size']} pixels", f"{rate:,.0f}"),
        ("share of the compute-only rate", f"{rate / compute:.0%} of {compute:,.0f}"),
    ]
    print(f"# On one accelerator\n\nWritten by `bash benchmarks/gpu.sh DATA`.\n\n{table(rows)}")


if __name__ == "__main__":
    main()
