"""Storage: the fold from events to runs and steps, and the stores."""
