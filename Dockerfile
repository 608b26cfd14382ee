# The image of Voxgate: the binary, the libraries that it links, and the public authorities by which webhooks judge their
# receivers' certificates. No shell and no package manager: what is not there needs no updates and helps no intruder.
#
#   docker buildx build --build-arg SOURCE_DATE_EPOCH="$(git log -1 --format=%ct)" \
#       --output type=docker,name=voxgate:0.1.0,rewrite-timestamp=true .
#
# Reproducible as far as its base is: dependencies by Cargo.lock, every date from the commit. It is named by tag, since a
# tag is what can be known without a registry; who has one names it with its digest (RUST_IMAGE=…@sha256:…). The Rust is
# that of rust-toolchain.toml, and the Debian has the glibc that comes into the image.
ARG RUST_IMAGE=rust:1.95.0-slim-bookworm

FROM ${RUST_IMAGE} AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked --bin voxgate

# What the loader wants is copied to where it looks for it. Names are resolved by glibc itself since 2.34, without libraries
# that it would load later on.
ARG SOURCE_DATE_EPOCH=0
RUN set -eu; \
    install -D -m 0755 target/release/voxgate /image/usr/bin/voxgate; \
    ldd target/release/voxgate | grep -o '/[^ ]*' | while read -r library; do \
        install -D -m 0755 "$library" "/image$library"; \
    done; \
    install -D -m 0644 /etc/ssl/certs/ca-certificates.crt /image/etc/ssl/certs/ca-certificates.crt; \
    find /image -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +; \
    chroot --userspec=65532:65532 /image /usr/bin/voxgate --version

FROM scratch
LABEL org.opencontainers.image.title="voxgate" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /image /
# A user without a name and without rights; Kubernetes takes only numbers for proof that it is not root.
USER 65532:65532
# gRPC, and the admin port.
EXPOSE 50051 9090
ENTRYPOINT ["/usr/bin/voxgate"]
CMD ["serve"]
