"""Batches of rows through the job's method, on threads and an event loop, to tables of outputs. Private."""
