# docker build -f images/echo.Dockerfile target/x86_64-unknown-linux-gnu/release
FROM scratch
COPY echo /echo
USER 65532:65532
ENTRYPOINT ["/echo"]
