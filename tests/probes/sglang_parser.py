# SPDX-License-Identifier: Apache-2.0
"""Print the flags of SGLang's own parser as JSON, as a server has it once plugins are loaded."""

from __future__ import annotations

import argparse
import json

from sglang.srt.plugins import load_plugins
from sglang.srt.server_args import ServerArgs


def main() -> None:
    load_plugins()
    parser = argparse.ArgumentParser()
    ServerArgs.add_cli_args(parser)
    print(
        json.dumps(
            [
                {
                    "names": action.option_strings,
                    "nargs": action.nargs,
                    "type": getattr(action.type, "__name__", None),
                    "choices": None if action.choices is None else list(action.choices),
                }
                for action in parser._actions
            ]
        )
    )


if __name__ == "__main__":
    main()
