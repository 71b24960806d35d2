# FileFly's daemons and its client, for compose.yaml.
FROM python:3.13-slim

COPY setup.cfg pyproject.toml README.md /src/
COPY filefly /src/filefly
COPY twisted /src/twisted
# twistd notes here, while it may, which plugins there are: the user below cannot write to that place.
RUN pip install --no-cache-dir --root-user-action=ignore /src && twistd --help > /dev/null

# An empty named volume takes over the owner of the folder that it is mounted on.
RUN useradd --system --no-create-home filefly && install -d -o filefly -m 0750 /data
USER filefly
WORKDIR /data
