# The built file alone: docker build -f images/svclb-controller.Dockerfile target/x86_64-unknown-linux-gnu/release
FROM scratch
LABEL org.opencontainers.image.title="svclb-controller" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY svclb-controller /svclb-controller
USER 65532:65532
ENTRYPOINT ["/svclb-controller"]
