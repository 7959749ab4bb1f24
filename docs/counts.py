"""Count what docs/design.md limits: `python -m docs.counts`."""

import ast
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
NOT_PRODUCT = ("tests", "benchmarks", "docs")
OURS = sorted({path.stem for path in ROOT.glob("*.py")} | {"classifier", "tools", "webui", "zoo"})
LOADED = f"import sys; print(*(name for name in sys.modules if name.split('.')[0] in {OURS}))"
TRAIN = "import train; train.main(); "


def files() -> list[Path]:
    """Return the Python files that git knows, relative to the repository."""
    listed = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [Path(name) for name in listed.split() if (ROOT / name).exists()]


def lines(paths: Iterable[Path]) -> int:
    """Return the number of lines of these files."""
    return sum(len((ROOT / path).read_text(encoding="utf-8").splitlines()) for path in paths)


def longest_function(paths: Iterable[Path]) -> str:
    """Return the length and name of the longest function."""
    found = []
    for path in paths:
        for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef):
                found.append((node.end_lineno - node.lineno + 1, f"{path}: {node.name}"))
    return "{} ({})".format(*max(found))


def modules(code: str, *arguments: str) -> list[str]:
    """Return the modules of ours that are loaded at the end of these lines, run beside a folder of eight images."""
    with tempfile.TemporaryDirectory() as folder:
        for i in range(8):
            path = Path(folder, "dataset", ("train", "test")[i // 4 % 2], "ab"[i % 2], f"{i}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (40, 40), (30 * i, 0, 0)).save(path)
        run = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); {code}{LOADED}", *arguments]
        printed = subprocess.run(run, cwd=folder, capture_output=True, text=True, check=True).stdout
    return printed.splitlines()[-1].split()


def replaced(path: Path) -> int:
    """Return how many names of our modules a file of tests replaces by setattr."""
    nodes = list(ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))))
    imports = [(node.module, node.names) for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
    imports += [(name.name, [name]) for node in nodes if isinstance(node, ast.Import) for name in node.names]
    ours = {name.asname or name.name for module, names in imports if module.split(".")[0] in OURS for name in names}
    calls = [node for node in nodes if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("setattr")]
    return sum(ast.unparse(call.args[0]).split(".")[0].strip("'\"") in ours | set(OURS) for call in calls)


def main() -> None:
    """Print the counts."""
    product = [path for path in files() if path.parts[0] not in NOT_PRODUCT]
    tests = [path for path in files() if path.parts[0] == "tests"]
    train = Path("train.py")
    run = modules(TRAIN, "--epochs", "1", "--size", "32", "--batch-size", "2", "--workers", "0", "--device", "cpu")
    behind = modules("import classifier.checkpoint; ")
    print(f"product: {lines(product):,} lines; longest function {longest_function(p for p in product if p != train)}")
    print(f"train.py: {lines([train])} lines; longest function {longest_function([train])}")
    print(f"modules loaded by train.py --epochs 1: {len(run)}")
    print(
        f"modules behind classifier.checkpoint: {sum(name.split('.')[0] not in ('resnet', 'zoo') for name in behind)}"
    )
    print(f"tests: {lines(tests):,} lines; names that they replace in our modules: {sum(map(replaced, tests))}")


if __name__ == "__main__":
    main()
