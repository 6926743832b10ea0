"""The console: a program in the browser that is one more NATS client. Here are only its files, and who serves them.

Its sources are in `console/` of the repository; `make console` builds them into `static/` here. The server has no part
in what the console does: it hands out files, and `config.json`, which says where NATS speaks WebSocket.
"""
