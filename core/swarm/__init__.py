"""The swarm of one layer: chunks, leases of them, and what nodes and the service say to each other."""
