"""What people look at: the graph as a picture, the report of a run, one row's whole way."""
