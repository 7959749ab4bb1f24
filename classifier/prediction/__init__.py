"""What predict.py is made of: where its images come from, the table, and what is made of it."""
