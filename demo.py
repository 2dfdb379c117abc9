"""Ask a model in the browser, or from another program: `python demo.py --model DIR`.

A page at http://127.0.0.1:7860 (needs Gradio), and an HTTP API beside it; `--api` serves the API alone. Limits, privacy
and the API: utils/demo/README.md.
"""

from __future__ import annotations

import logging
from contextlib import ExitStack
from importlib.util import find_spec

from model.segmenter import PixDLM
from utils.cli.demo_options import parse_demo
from utils.demo.pictures import Limits
from utils.demo.service import Service
from utils.demo.uploads import upload_folder
from utils.runtime.errors import UserError, run_main
from utils.runtime.logs import start_logging

log = logging.getLogger("demo")

API_NEEDS = {"fastapi": "fastapi", "uvicorn": "uvicorn", "python_multipart": "python-multipart"}
LOCAL = ("127.0.0.1", "localhost", "::1")


def check_installed(api_alone: bool) -> None:
    """Raises UserError that says what to install, where something is missing."""
    if not api_alone and find_spec("gradio") is None:
        raise UserError("the page needs Gradio; install it (pip install gradio), or serve the API alone with --api")
    if missing := [package for module, package in API_NEEDS.items() if find_spec(module) is None]:
        raise UserError(f"the API needs {', '.join(missing)}; install: pip install {' '.join(missing)}")


def main() -> None:
    args = parse_demo()
    check_installed(args.api)
    start_logging()
    # Optional packages stand behind these, so that they are imported once those are known to be there.
    from utils.demo.api import build_api
    from utils.demo.server import address_of, listen, serve

    with ExitStack() as cleaning:
        listening = cleaning.enter_context(listen(args.host, args.port))
        limits = Limits(int(args.max_upload * 2**20), int(args.max_megapixels * 1e6), seconds=args.max_wait)
        pixdlm = PixDLM.from_pretrained(args.model, args.device, args.precision, args.backbones, args.load_in)
        service = Service(pixdlm, limits, args.queue, args.max_new_tokens)
        cleaning.callback(service.close)
        app = build_api(service, args.user)
        if not args.api:
            folder = cleaning.enter_context(upload_folder())
            from utils.demo.page import add_page, open_tunnel

            add_page(app, service, folder, args.user)
            if args.share:
                log.info("shared as %s", open_tunnel(*listening.getsockname()[:2]))
        if args.user is None and (args.share or args.host not in LOCAL):
            log.warning("everybody who reaches this address may ask; set --auth USER:PASSWORD")
        log.info("%s%s", address_of(listening), "/api/segment" if args.api else "")
        serve(app, listening)


if __name__ == "__main__":
    run_main(main)
