"""Small pieces that several packages share."""
