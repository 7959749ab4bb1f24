"""What predict.py is made of."""
