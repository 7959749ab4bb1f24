"""What a run of train.py is made of."""
