#!/bin/sh
# The build stage of the *.source.Dockerfile: compiles PACKAGE for ARCHITECTURE (Docker's name of it),
# whatever the stage itself runs on, and leaves the file in /out.
set -eu
package=$1 architecture=$2

case $architecture in
  amd64) target=x86_64-unknown-linux-gnu compiler=x86_64-linux-gnu-gcc debian=gcc-x86-64-linux-gnu ;;
  arm64) target=aarch64-unknown-linux-gnu compiler=aarch64-linux-gnu-gcc debian=gcc-aarch64-linux-gnu ;;
  *) echo "svclb is built for amd64 and arm64, not for $architecture" >&2 && exit 1 ;;
esac

if [ "$architecture" != "$(dpkg --print-architecture)" ]; then
  apt-get update -q
  apt-get install -q -y --no-install-recommends "$debian" "libc6-dev-$architecture-cross"
  rustup target add "$target"
  variable=CARGO_TARGET_$(echo "$target" | tr 'a-z-' 'A-Z_')_LINKER
  export "$variable=$compiler"
fi
cargo build --release --locked --package "$package" --target "$target"
install -D "target/$target/release/$package" "/out/$package"
