"""Real servers on 127.0.0.1: plain Python, no pytest, for the tests, the demo and the benches."""
