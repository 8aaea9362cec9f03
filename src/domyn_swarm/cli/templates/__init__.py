"""What `domyn-swarm init` writes: each file is a job that works as it stands."""
