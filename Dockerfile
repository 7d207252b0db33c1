# migrate in an image of its own:
#   docker build -t migrate .
#   docker run --rm -v /mnt/old-disk:/source:ro -v "$PWD/new:/target" migrate convert /source/var/lib/docker /target/layout
# The base is pinned, so that a build can be repeated. A later one, with Debian's updates:
#   docker buildx imagetools inspect python:3.12-slim-bookworm, then --build-arg BASE=python:3.12-slim-bookworm@sha256:…
# It runs as root, because the files of a Docker root belong to root; for archives, add --user "$(id -u):$(id -g)".
ARG BASE=python:3.12.14-slim-bookworm@sha256:782412e85d0f0984994c290652577d4018aff08145c85b262bb63dc0c7522254
FROM ${BASE} AS build
WORKDIR /src
COPY pyproject.toml hatch_build.py README.md LICENSE requirements/ci.lock ./
COPY migrate ./migrate
COPY tools ./tools
# Without [devicemapper] and [disk], whose packages are AGPL-3.0-or-later: docs/licences.md. EXTRAS=all adds everything.
ARG EXTRAS=registry,s3,html,deep
# the versions that the tests ran with; the lock holds more packages than are installed here
RUN sed -n 's/^\([A-Za-z0-9._-]*==[^ ;]*\).*/\1/p' ci.lock > constraints.txt \
  && python -m venv /opt/migrate \
  && /opt/migrate/bin/pip install --no-cache-dir -c constraints.txt ".[${EXTRAS}]"

FROM ${BASE}
COPY --from=build /opt/migrate /opt/migrate
ENV PATH=/opt/migrate/bin:$PATH
ENTRYPOINT ["/opt/migrate/bin/migrate"]
CMD ["--help"]
