# The built file alone: docker build -f images/svclb-pod.Dockerfile target/x86_64-unknown-linux-gnu/release
#
# No USER: a capability does not survive the change to another uid, and the rules need NET_ADMIN.
FROM scratch
LABEL org.opencontainers.image.title="svclb-pod" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY svclb-pod /svclb-pod
ENTRYPOINT ["/svclb-pod"]
