"""Reading: the JSON API and the pages."""
