"""Print a network's layers as a table: `python -m zoo resnet50`."""

from zoo.table import main

main()
