"""The web page: what app.py puts together."""
