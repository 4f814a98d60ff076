"""The node's half: a registry mirror on every machine, fed by the swarm."""
