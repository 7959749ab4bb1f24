"""`python -m zoo resnet50`: a network's layers as a table."""

from zoo.table import main

main()
