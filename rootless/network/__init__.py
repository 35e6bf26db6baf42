"""The networks of containers: the part on the host, and the part in the network namespace.

- The default network: `pasta` starts one pasta for each container, on the host; `loopback_guard` is
  the part in the container's network namespace.
- Networks that containers share: `hub`, `bridge`, `firewall`, `addresses`.
- `none` has only the loopback, which `linux.network.netlink.loopback_up` brings up. `host` and
  `container:NAME` have no namespace of their own. They need no code here.
- `resolv`: the files of /etc that belong to a network: resolv.conf, hosts, hostname.
- `interfaces`: what pyroute2 reads and removes, for commands that start nothing.
"""
