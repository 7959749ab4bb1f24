"""A trained network that answers: predictions, class activation maps, out-of-distribution scores."""
