"""The swarm of one layer: chunks, leases, and the messages between nodes and the service."""
