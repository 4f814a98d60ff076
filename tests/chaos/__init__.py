"""The whole system under load while its parts fail at random: `make chaos`, and a minute of it in `make test`."""
