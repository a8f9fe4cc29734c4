"""Events, written as spans."""
