"""A service as the tutorials have it: the script reads its arguments and starts without asking whether it is the main
one, and changes what it is given."""

import argparse
import logging
from typing import Any

import numpy as np

from pdserver.pipeline_service import Op, WebService

_LOGGER = logging.getLogger()


def serve_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser("serve")
    parser.add_argument("config", type=str, default="config.yml", nargs="?")
    return parser.parse_args()


class UciOp(Op):
    def init_op(self) -> None:
        self.separator = ","
        self.batch_separator = ";"

    def preprocess(self, input_dicts: Any, data_id: int, log_id: int) -> Any:  # type: ignore[override]
        ((_, input_dict),) = input_dicts.items()
        rows = [
            np.array([float(x.strip()) for x in row.split(self.separator)]).reshape(1, 13)
            for row in input_dict["x"].split(self.batch_separator)
        ]
        input_dict["x"] = np.concatenate(rows, axis=0)
        return input_dict, False, None, ""

    def postprocess(self, input_dicts: Any, fetch_dict: Any, data_id: int, log_id: int) -> Any:  # type: ignore[override]
        fetch_dict["price"] = str(fetch_dict["price"])
        return fetch_dict, None, ""


class UciService(WebService):
    def get_pipeline_response(self, read_op: Any) -> Op:
        return UciOp(name="uci", input_ops=[read_op])


args = serve_args()
uci_service = UciService(name="uci")
uci_service.prepare_pipeline_config(args.config)
uci_service.run_service()
