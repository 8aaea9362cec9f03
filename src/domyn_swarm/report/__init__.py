"""What people look at: reports, the live view, rows and failures, progress. Private."""
