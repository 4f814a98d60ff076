# opentracker for the layers in its whitelist.
FROM docker.io/library/debian:bookworm-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends opentracker \
    && rm -rf /var/lib/apt/lists/*
# The user of docker-torrents, which writes the whitelist.
RUN install -d -m 750 -o 10050 -g 10050 /var/lib/opentracker
COPY tracker.sh /usr/local/bin/
USER 10050:10050
EXPOSE 6969
CMD ["sh", "/usr/local/bin/tracker.sh", "/var/lib/opentracker"]
