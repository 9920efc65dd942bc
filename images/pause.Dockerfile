# docker build -f images/pause.Dockerfile target/x86_64-unknown-linux-gnu/release
FROM scratch
COPY pause /pause
USER 65535:65535
ENTRYPOINT ["/pause"]
