"""What a run writes about itself: metrics, run.json, the report's figures. Private."""
