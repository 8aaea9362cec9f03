"""Plans for notebooks and scripts: display, inspect, change and run a job. Private except for `domyn_swarm.plan`."""
