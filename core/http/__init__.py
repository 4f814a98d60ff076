"""HTTP: the client for all requests to other servers, and byte ranges."""
