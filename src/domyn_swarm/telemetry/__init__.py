"""What a run counts and traces. Private."""
