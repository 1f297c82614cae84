"""What work costs where, what is loaded where, and which instance finishes it first."""
