"""Options of demo.py."""

from __future__ import annotations

from dataclasses import dataclass

from utils.cli.options import InferenceArgs, check_at_least, option, parse
from utils.runtime.errors import UserError


@dataclass
class DemoArgs(InferenceArgs):
    """Options of demo.py."""

    model: str = option("PixDLM/mini", "Model folder.")
    api: bool = option(False, "Serve the HTTP API alone, without the page.")
    host: str = option("127.0.0.1", "Address to listen at; 0.0.0.0 lets other machines in (set --auth).")
    port: int = option(7860, "Port to listen at; 0 takes a free one.")
    share: bool = option(False, "Open a tunnel, so that anybody with its address reaches the page (set --auth).")
    auth: str | None = option(None, "USER:PASSWORD that page and API ask for.")
    max_upload: float = option(20.0, "Largest picture file, in MB.")
    max_megapixels: float = option(50.0, "Largest picture, in million pixels.")
    queue: int = option(8, "Requests that may wait while one is answered; more are refused.")
    max_wait: float = option(120.0, "Seconds after which a request that waits is given up.")
    max_new_tokens: int = option(256, "Longest answer in tokens; longer ones are truncated.")

    @property
    def user(self) -> tuple[str, str] | None:
        """(user, password) of --auth."""
        if self.auth is None:
            return None
        name, _, password = self.auth.partition(":")
        return name, password


def parse_demo(argv: list[str] | None = None) -> DemoArgs:
    """demo.py's options, checked.

    Raises:
        UserError: an option has a value that cannot be.
    """
    args = parse(DemoArgs, argv)
    check_at_least(args, 1, "queue", "max_new_tokens", "max_wait")
    check_at_least(args, 0, "port")
    if args.port > 65535:
        raise UserError(f"--port is {args.port}; it must be at most 65535")
    for name in ("max_upload", "max_megapixels"):
        if not 0 < getattr(args, name) < 10_000:
            raise UserError(f"--{name.replace('_', '-')} is {getattr(args, name)}; it must be above 0 and below 10000")
    if args.user is not None and not all(args.user):
        raise UserError("--auth: give a user and a password with a colon between, as in --auth anna:secret")
    if args.api and args.share:
        raise UserError("--share opens a tunnel to the page; leave it or --api out")
    return args
