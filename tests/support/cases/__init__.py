"""Named and random cases of the op, of which each implementation runs the same."""
