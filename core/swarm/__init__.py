"""The service's half of the swarm protocol: chunks, leases, and the messages between nodes and the service.

node         a mirror, distinguished by a random id; complete nodes are seeds, incomplete ones downloaders
peer         a node as others connect to it: address and port
swarm        the nodes of one layer, its members
chunk        a run of whole pieces of a layer; `held` chunks are those that a node or a peer of it has
origin       where layers come from: the web seed, or else the registry
lease        the right to fetch one chunk from the origin until it expires; no other node has it meanwhile
swarm call   a node reports about one layer, and gets peers, leases, and the interval until its next call
coordinator  the process that holds the lease table, which has the swarms of all layers
"""
