"""From what people have to dataset/: what prepare.py is made of."""
