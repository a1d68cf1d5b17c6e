"""The GPU PC: a policy behind openpi's websocket protocol. Knows nothing of robots.

`wire`, `contract` and `client` need neither torch nor a server, and are what a robot PC imports.
"""
