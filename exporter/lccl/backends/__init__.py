"""One folder for each runtime: its library, building for it, running in it. ``interface`` is what they have in common."""
