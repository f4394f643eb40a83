"""Long programs: from an action to a page with results."""
