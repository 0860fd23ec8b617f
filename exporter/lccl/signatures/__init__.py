"""What public functions take: the types of their arguments, and keywords that were renamed."""
