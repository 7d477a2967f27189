"""The ``inventory.yaml`` that ``meshctl init`` writes: short, valid, to be edited."""

_TEXT = """\
# The inventory of this mesh: its hosts, and the services that run on them. Replace the two hosts
# by yours, then run: meshctl deploy -i inventory.yaml
# Every key, with its default, is explained in inventory.example.yaml of the distribution;
# `meshctl schema inventory` prints a JSON Schema for your editor.
version: 1

ssh:
  user: root            # another user needs sudo without a password
  # key: ~/.ssh/id_ed25519
  # jump: ops@bastion.example.com
  host_keys: strict     # hosts must be known; accept-new remembers them on first contact

consul:
  mode: existing        # a Consul agent runs on every host already
  # To have it installed instead, give some hosts the role control and use:
  # mode: managed
  # package: {archive: ./consul_linux_amd64.zip, sha256: "<its published sum>"}

hosts:
  - name: web-1
    address: 10.0.0.11
    # roles: [control, workload]
    services:
      - name: web
        port: 8080      # where the application listens, on 127.0.0.1
        protocol: http  # http, http2, grpc or tcp
        health: {http: /}
        upstreams:
          - api: 9001   # web reaches api at 127.0.0.1:9001; nobody else may call it

  - name: app-1
    address: 10.0.0.12
    services:
      - name: api
        port: 8081
        protocol: http
        health: {http: /}
"""


def starting_inventory_yaml() -> str:
    return _TEXT
