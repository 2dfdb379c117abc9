"""What `demo.py` serves: a page for people and an HTTP API for programs; see the README."""
