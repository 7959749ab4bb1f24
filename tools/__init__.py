"""Tools that training does not need."""
