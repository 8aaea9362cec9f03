"""Templates of `domyn-swarm init`. Each file is a working job."""
