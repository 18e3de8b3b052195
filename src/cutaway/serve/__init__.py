"""The local server: one process answers HTTP and never imports torch, another owns the models (docs/server.md)."""
