"""Runs as users manage them: submitting, finding, following, cancelling and resuming them. Private."""
