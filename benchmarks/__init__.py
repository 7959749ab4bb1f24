"""Measurements. What the loops that are timed share is here, and imports nothing of the project."""

import argparse
import json
import time

WARM_UP_STEPS = 5


def loop_parser(description: str) -> argparse.ArgumentParser:
    """Return a parser with the flags that all of them have."""
    parser = argparse.ArgumentParser(description=description.split("\n")[0])
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=20)
    return parser


class Meter:
    """Measures images per second over some seconds, without the first steps."""

    def __init__(self, options: argparse.Namespace):
        self.batch_size, self.seconds = options.batch_size, options.seconds
        self.marks = [time.perf_counter()]
        self.done = False

    def step(self) -> bool:
        """Count a step; return whether it was the last one."""
        self.marks.append(time.perf_counter())
        steps = len(self.marks) - 1 - WARM_UP_STEPS
        if steps >= WARM_UP_STEPS and (seconds := self.marks[-1] - self.marks[WARM_UP_STEPS]) >= self.seconds:
            self.done = True
            print(json.dumps({"images_per_second": self.batch_size * steps / seconds}))
        return self.done
