"""A comparison as one HTML file: for the person who decides."""
