# From source, for amd64 and arm64, each compiled on this machine's own architecture:
#
#   docker buildx build --platform linux/amd64,linux/arm64 -f images/svclb-pod.source.Dockerfile .
FROM --platform=$BUILDPLATFORM docker.io/library/rust:1.95.0-slim-bookworm AS build
# The image's own toolchain, where rust-toolchain.toml would fetch the newest.
ENV RUSTUP_TOOLCHAIN=1.95.0
WORKDIR /src
COPY . .
ARG TARGETARCH
RUN images/compile.sh svclb-pod "$TARGETARCH"

FROM scratch
# No USER: a capability does not survive the change to another uid, and the rules need NET_ADMIN.
LABEL org.opencontainers.image.title="svclb-pod" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /out/svclb-pod /svclb-pod
ENTRYPOINT ["/svclb-pod"]
