# From source, for amd64 and arm64, each compiled on this machine's own architecture:
#
#   docker buildx build --platform linux/amd64,linux/arm64 -f images/svclb-controller.source.Dockerfile .
FROM --platform=$BUILDPLATFORM docker.io/library/rust:1.95.0-slim-bookworm AS build
# The image's own toolchain, where rust-toolchain.toml would fetch the newest.
ENV RUSTUP_TOOLCHAIN=1.95.0
WORKDIR /src
COPY . .
ARG TARGETARCH
RUN images/compile.sh svclb-controller "$TARGETARCH"

FROM scratch
LABEL org.opencontainers.image.title="svclb-controller" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /out/svclb-controller /svclb-controller
USER 65532:65532
ENTRYPOINT ["/svclb-controller"]
