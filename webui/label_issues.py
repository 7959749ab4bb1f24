"""Read the label issues that evaluate.py lists: suspects.csv in the newest reports of a network."""

import csv
import functools
import json
from dataclasses import dataclass
from pathlib import Path

from classifier.cli import UserError
from classifier.data import corrections


@dataclass(frozen=True)
class LabelIssue:
    """A row of the list; `file` is the image's name in corrections.csv, `label` its class by its folder."""

    path: str
    file: str
    label: str
    answer: str
    confidence: float

    def exists(self) -> bool:
        """Return whether there is such a file, with a name that a browser can send."""
        return self.file.encode("utf-8", "ignore").decode() == self.file and Path(self.path).is_file()

    def digest(self) -> str:
        """Return the digest of the file as it is now, "" where it cannot be read."""
        try:
            state = Path(self.path).stat()
            return _digest(self.path, state.st_mtime_ns, state.st_size)
        except (OSError, UserError):
            return ""


def newest_lists(weights: Path, logs: Path) -> list[tuple[Path, Path]]:
    """Return the newest suspects.csv of a .pth for each part of the images (test, val), with the folder of those."""
    found: dict[str, tuple[Path, Path]] = {}
    for path in sorted(logs.glob("evaluate/*/[!.]*/suspects.csv"), key=lambda path: path.parent.name, reverse=True):
        try:
            report = json.loads(path.with_name("report.json").read_text(encoding="utf-8"))
            if Path(report["weights"]).resolve() == weights.resolve():
                found.setdefault(report.get("part", "test"), (path, Path(report["folder"])))
        except (OSError, ValueError, KeyError, TypeError):  # not of evaluate.py
            continue
    return list(found.values())


def read_list(path: Path, root: Path) -> list[LabelIssue]:
    """Return the rows of a suspects.csv about images below `root`; none if it is unreadable."""
    table, issues = corrections.table_of(root), []
    try:
        with path.open(encoding="utf-8-sig", errors=corrections.NAMES, newline="") as file:
            for row in csv.DictReader(file):
                name = row["path"]
                label, confidence = Path(name).relative_to(root).parts[0], float(row["sure"])
                issues.append(LabelIssue(name, corrections.name_in(table, name), label, row["answer"], confidence))
    except (OSError, ValueError, KeyError, TypeError, IndexError, csv.Error):
        return []
    return issues


@functools.lru_cache(4096)
def _digest(path: str, time: int, size: int) -> str:
    return corrections.digest(path).hex()
