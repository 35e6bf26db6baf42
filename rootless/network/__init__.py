"""How a container reaches the world: what runs on the host, and what inside.

- `pasta`: the default; its parent half starts one pasta a container, `shield` is the half that
  runs in the container's network namespace.
- `none`: only the loopback, which `rootless.linux.netlink.loopback_up` brings up. `host` and
  `container:NAME`: no namespace of its own. Neither needs code here.
- `resolv`: the files of /etc that belong to a network: resolv.conf, hosts, hostname.
"""
