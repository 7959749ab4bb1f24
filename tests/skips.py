"""What a whole run of the tests may skip on Linux, and why: any other skip, or one that is missing, fails the run.

`python -m tests.skips browser` prints the tests that need one of these, for a run where they are at hand.
"""

import shutil
import sys
from pathlib import Path

import pytest

# what may be missing -> the tests that need it: files, or the beginnings of names
NEEDS = {
    "browser": ["tests/test_page.py", "tests/test_gallery.py::test_in_a_browser"],
    "cases": [
        "tests/test_images.py::test_cases_of_other_projects",
        "tests/test_predict.py::test_the_second_of_two_photographs_under_one_name",
    ],
    "curl": ["tests/test_app.py::test_the_commands_on_the_page_work"],
    "photographs": [
        "tests/test_onnx_file.py::test_8_bits_of_photographs",
        "tests/test_prepare.py::test_the_split_of_kaggles_photographs_never_changes",
        "tests/test_pretrained.py::test_ants_and_bees_frozen",
    ],
    "an address and mounts": [
        "tests/test_app.py::test_it_listens_on_this_machine_only",
        "tests/test_faults.py",
    ],
}


def is_here(need: str) -> bool | None:
    """Return whether this machine has it; None where only the test itself can tell."""
    return {
        "browser": any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
        "cases": (Path(__file__).resolve().parents[2] / "shared/cases").is_dir(),
        "curl": bool(shutil.which("curl") and shutil.which("bash")),
        "photographs": (Path(__file__).resolve().parents[2] / "shared/data/dogs-vs-cats/train.zip").is_file(),
    }.get(need)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Compare the skipped tests of a whole run with those that this machine has to skip."""
    config = session.config
    part = config.args_source is not config.ArgsSource.TESTPATHS or config.option.keyword or config.option.markexpr
    if part or exitstatus or hasattr(config, "workerinput") or sys.platform != "linux":
        return
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    skipped = {report.nodeid for report in reporter.stats.get("skipped", [])}
    here = {need: is_here(need) for need in NEEDS}
    allowed = tuple(test for need, tests in NEEDS.items() if not here[need] for test in tests)
    expected = [test for need, tests in NEEDS.items() if here[need] is False for test in tests]
    wrong = [f"{test} was skipped" for test in skipped if not test.startswith(allowed)]
    wrong += [f"{test} was not skipped" for test in expected if not any(name.startswith(test) for name in skipped)]
    for line in sorted(wrong):
        reporter.write_line(f"tests/skips.py: {line}", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


if __name__ == "__main__":
    print(*(test for need in sys.argv[1:] for test in NEEDS[need]), sep="\n")
