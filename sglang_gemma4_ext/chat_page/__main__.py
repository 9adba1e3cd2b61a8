# SPDX-License-Identifier: Apache-2.0
"""Open the chat page of a running server."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from typing import Any

from sglang_gemma4_ext import PREFIX

SERVER = "http://127.0.0.1:30000"
MISSING = (
    "the chat page needs gradio and openai, which are not installed here: run make chat, or "
    "pip install 'sglang-gemma4-ext[chat]'"
)


class Refusal(Exception):
    """Report that the page cannot open; the message says why and what to do."""


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m sglang_gemma4_ext.chat_page", description=__doc__
    )
    parser.add_argument("--server", default=SERVER, help="its address (default: %(default)s)")
    parser.add_argument("--api-key", default="none", help="the server's --api-key")
    parser.add_argument("--host", default="127.0.0.1", help="where the page listens")
    parser.add_argument("--port", type=int, default=7860, help="of the page (default: %(default)s)")
    parser.add_argument("--open", action="store_true", help="open it in a browser")
    return parser.parse_args(argv)


def address_of(server: str) -> str:
    """Return the server's address without a trailing `/v1`."""
    if "://" not in server:
        server = f"http://{server}"
    return server.rstrip("/").removesuffix("/v1")


def connect(address: str, api_key: str) -> tuple[Any, str]:
    """Return a client of the server and the name of its model. Raises Refusal."""
    import openai

    client = openai.OpenAI(base_url=f"{address}/v1", api_key=api_key, max_retries=0)
    try:
        models = client.models.list(timeout=10).data
    except openai.AuthenticationError:
        raise Refusal(f"the server at {address} wants its API key: add --api-key") from None
    except openai.APIConnectionError:
        raise Refusal(
            f"no server answers at {address}: start one with make serve, or name its address with "
            "--server"
        ) from None
    except openai.APIError as error:
        raise Refusal(f"{address} is no OpenAI-compatible server: {error.message}") from None
    if not models:
        raise Refusal(f"the server at {address} lists no model")
    return client, models[0].id


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    try:
        if any(importlib.util.find_spec(name) is None for name in ("gradio", "openai")):
            raise Refusal(MISSING)
        address = address_of(args.server)
        client, model = connect(address, args.api_key)
        serve(client, model, address, args)
    except Refusal as refusal:
        print(f"{PREFIX}{refusal}", file=sys.stderr)
        return 1
    return 0


def serve(client: Any, model: str, address: str, args: argparse.Namespace) -> None:
    """Serve the page until it is interrupted."""
    import gradio

    from sglang_gemma4_ext.chat_page.page import build

    page = build(client, model, address)
    fonts = ["system-ui", "sans-serif"]
    theme = gradio.themes.Default(font=fonts, font_mono=["monospace"])
    try:
        page.launch(
            server_name=args.host,
            server_port=args.port,
            inbrowser=args.open,
            theme=theme,
            footer_links=[],
        )
    except OSError:
        raise Refusal(f"port {args.port} is taken: choose another with --port") from None


if __name__ == "__main__":
    raise SystemExit(main())
