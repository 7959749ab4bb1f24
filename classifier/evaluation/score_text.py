"""What evaluate.py prints of a network's scores."""

import torch

from classifier.text import print_table, shorten

MANY = 12  # with more classes than these the worst confusions are printed instead of the whole matrix
LISTED = 40  # with more than these, of the classes only the MANY that are found worst


def print_scores(report: dict) -> None:
    """Print the scores that `evaluate.judge` puts together, the keys of report.json."""
    low, high = report["interval"]
    right = sum(row[i] for i, row in enumerate(report["confusion_matrix"]))
    print(
        f"\naccuracy   {report['accuracy']:.2%}, {right:,} of {report['count']:,}; 95% interval {low:.2%} to {high:.2%}"
    )
    for remark in report["remarks"]:
        print(f"           {remark}")
    print(f"loss       {report['loss']:.4f}")
    print(
        f"sureness   off by {report['calibration_error']:.3f} on average (calibration error; "
        f"{report['calibration_error_without_temperature']:.3f} before the temperature, {report['temperature']:.2f})"
    )
    if report["neither"] is not None:
        print(f"neither    {report['neither']:,} of {report['count']:,} called unlike the training images")
    _print_classes(report["per_class"])
    _print_confusions(report)
    rate = 1000 / report["milliseconds_per_picture"]
    print(
        f"\ntime       {report['milliseconds_per_picture']:.2f} ms per image ({rate:,.0f} images/s) from file to "
        f"answer, decoding included; {report['device']}\n"
        f"           {report['milliseconds_for_one']:.1f} ms for one alone, from pixels to answer; 95% below "
        f"{report['milliseconds_for_one_p95']:.1f} ms"
    )


def _print_classes(rows: list[dict]) -> None:
    print()
    if len(rows) > LISTED:
        print(f"of {len(rows)} classes those with the lowest F1; report.html has all")
        rows = sorted(rows, key=lambda row: 2 if row["f1"] is None else row["f1"])[:MANY]
    table = [("class", "precision", "recall", "F1", "images")]
    for row in rows:
        shares = ("-" if row[key] is None else f"{row[key]:.2%}" for key in ("precision", "recall", "f1"))
        table.append((shorten(row["class"], 30), *shares, f"{row['count']:,}"))
    print_table(table)


def _print_confusions(report: dict) -> None:
    names = [shorten(name, 30) for name in report["classes"]]
    matrix = torch.tensor(report["confusion_matrix"])
    if len(names) <= MANY:
        print("\ntrue class, and what its images were taken for")
        heading = ("", *(shorten(name, 9) for name in names))
        print_table([heading, *((name, *counts) for name, counts in zip(names, matrix.tolist(), strict=True))])
        return
    mistakes = matrix.fill_diagonal_(0).flatten()
    if mistakes.any():
        print("\nmost frequent confusions")
    for place in mistakes.topk(MANY).indices.tolist():
        if mistakes[place]:
            print(f"{names[place // len(names)]} taken for {names[place % len(names)]}: {mistakes[place]}")
