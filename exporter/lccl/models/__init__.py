"""Networks that a checkpoint may name as its factory: only these are built without the user naming them."""
