# migrate in an image of its own:
#   docker build -t migrate .
#   docker run --rm -v /mnt/old-disk:/source:ro -v "$PWD/new:/target" migrate convert /source/var/lib/docker /target/layout
# It runs as root, because the files of a Docker root belong to root; for archives, add --user "$(id -u):$(id -g)".
FROM python:3.12-slim AS build
WORKDIR /src
COPY pyproject.toml hatch_build.py README.md LICENSE ./
COPY migrate ./migrate
RUN python -m venv /opt/migrate && /opt/migrate/bin/pip install --no-cache-dir '.[devicemapper,registry,s3,html,deep]'

FROM python:3.12-slim
COPY --from=build /opt/migrate /opt/migrate
ENTRYPOINT ["/opt/migrate/bin/migrate"]
CMD ["--help"]
