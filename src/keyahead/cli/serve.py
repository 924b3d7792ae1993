"""`keyahead serve`: the gRPC service alone, beside an engine that runs elsewhere."""

from __future__ import annotations

import os

from keyahead.cli.output import JsonOption, Output, UsageError
from keyahead.service.config import ConfigError, ServiceConfig
from keyahead.service.server import run


def serve(as_json: JsonOption = False) -> None:
    """Run the gRPC service alone until Ctrl-C.

    Its settings are environment variables, such as KEYAHEAD_MODEL_FOLDER, KEYAHEAD_TRITON_ADDRESS and KEYAHEAD_GRPC_PORT; the file
    service/config.py describes them all. With --json the settings in force are printed.
    """
    try:
        config = ServiceConfig.from_environment(os.environ)
    except ConfigError as error:
        raise UsageError("; ".join(str(error).splitlines())) from error
    Output(as_json).emit(config.redacted())
    run(config)
