"""What is here, what works with it, and the command that gets the rest."""
