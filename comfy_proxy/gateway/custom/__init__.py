"""Routes that no row of the table names: those of custom nodes, of which nobody here knows more."""
