"""How many calls run at once, how fast they start, and when they are tried again. Private."""
