# Every image of Florin; `make images` builds them with the arguments that each needs.
#   --target service  --build-arg SERVICE=accounts|transactions|compliance|notifications|checker
#   --target operator --build-arg SERVICE=operator    the florin command, for what a deployment needs done
#   --target edge     --build-arg SERVICE=operator    Envoy with the configuration that the contracts give
# Who has packages from elsewhere gives pip's settings and authorities as secrets, which no image keeps:
#   --secret id=pip,src=/etc/pip.conf --secret id=ca,src=/etc/ssl/certs/ca-certificates.crt
ARG PYTHON_IMAGE=python:3.12-slim
ARG ENVOY_IMAGE=envoyproxy/envoy:v1.40.0

# What building needs. Nothing of it gets into an image.
FROM ${PYTHON_IMAGE} AS tools
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
RUN command -v strip >/dev/null || { apt-get update && apt-get install --yes --no-install-recommends binutils; }
WORKDIR /src
COPY requirements.lock ./
COPY images/requirements.py images/

FROM tools AS stubs
RUN --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt \
    python images/requirements.py stubs > stubs.lock \
 && python -m venv /stubs \
 && /stubs/bin/python -m pip install --require-hashes --no-deps -r stubs.lock
COPY protos protos
RUN /stubs/bin/python protos/generate.py

FROM tools AS build
ARG SERVICE
# The symbols are a fifth of what the wheels weigh.
RUN --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=secret,id=ca,target=/etc/ssl/certs/ca-certificates.crt \
    python images/requirements.py "$SERVICE" > runtime.lock \
 && python -m venv --without-pip /opt/florin/venv \
 && python -m pip --python /opt/florin/venv/bin/python install --require-hashes --no-deps --no-compile -r runtime.lock \
 && find /opt/florin/venv -name '*.so*' -type f -exec strip --strip-unneeded {} +
COPY images/assemble.py images/
RUN python images/assemble.py packages /opt/florin
COPY accounts accounts
COPY transactions transactions
COPY compliance compliance
COPY notifications notifications
COPY checker checker
COPY meshkit meshkit
COPY local local
COPY envoy envoy
COPY --from=stubs /src/build/gen build/gen
ARG SOURCE_DATE_EPOCH=0
RUN /opt/florin/venv/bin/python images/assemble.py "$SERVICE" /opt/florin

FROM ${PYTHON_IMAGE} AS service
ARG SERVICE
ARG VERSION=0.0.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Florin ${SERVICE}" \
      org.opencontainers.image.description="The ${SERVICE} part of Florin, a core-banking mesh." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# A layer each: a new version with the same packages is a small one.
COPY --from=build /opt/florin/venv /opt/florin/venv
COPY --from=build /opt/florin/app /opt/florin/app
COPY --from=build /opt/florin/entrypoint /opt/florin/entrypoint
# PYTHONSAFEPATH: a folder that is called accounts where the command runs must not be taken for the service.
ENV PATH=/opt/florin/venv/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONPATH=/opt/florin/app:/opt/florin/app/build/gen \
    PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    GRPC_ENABLE_FORK_SUPPORT=0 \
    FLORIN_SERVICE=${SERVICE}
USER 65532:65532
WORKDIR /
EXPOSE 50051 9001
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s CMD ["python", "-m", "meshkit.probe"]
ENTRYPOINT ["/opt/florin/entrypoint"]

FROM service AS operator
HEALTHCHECK NONE

FROM build AS edge-configuration
# Names as compose.yaml and the charts have them. Who has an issuer with an address gives it as JWKS_URL.
ARG ISSUER=https://issuer.florin.local
ARG AUDIENCE=florin
ARG JWKS_URL=
RUN /opt/florin/venv/bin/python /opt/florin/app/envoy/generate.py --output /envoy.json \
    --listen 0.0.0.0:8443 --admin 127.0.0.1:9901 --stats 0.0.0.0:9902 \
    --upstream accounts=accounts:50051 --upstream transactions=transactions:50051 \
    --upstream compliance=compliance:50051 --upstream notifications=notifications:50051 \
    --issuer "$ISSUER" --audience "$AUDIENCE" \
    $(if [ -n "$JWKS_URL" ]; then echo --issuer-jwks "$JWKS_URL"; else echo --issuer-jwks-file /etc/florin/issuer/jwks.json; fi) \
    --tls-cert /etc/florin/tls/tls.crt --tls-key /etc/florin/tls/tls.key --ca /etc/florin/tls/ca.crt \
    --client-cert /etc/florin/tls/tls.crt --client-key /etc/florin/tls/tls.key

FROM ${ENVOY_IMAGE} AS edge
ARG VERSION=0.0.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Florin edge" \
      org.opencontainers.image.description="Envoy before the services of Florin, a core-banking mesh." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=edge-configuration /envoy.json /etc/envoy/envoy.json
COPY --chmod=0755 images/edge-health images/edge-drain /usr/local/bin/
USER 65532:65532
EXPOSE 8443 9902
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["edge-health"]
# Hot restart needs shared memory, and a container is replaced, not restarted in place.
ENTRYPOINT ["envoy", "--disable-hot-restart", "--log-level", "warning"]
CMD ["-c", "/etc/envoy/envoy.json"]
