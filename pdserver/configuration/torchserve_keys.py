"""Keys and variables of TorchServe that this server has not, or under another name."""

from __future__ import annotations

IGNORED_KEYS = frozenset(
    {
        "NUM_WORKERS",
        "async_logging",
        "cpp_log_config",
        "cpu_launcher_args",
        "cpu_launcher_enable",
        "debug",
        "enable_envvars_config",
        "initial_distribution_port",
        "initial_worker_port",
        "io_ratio",
        "ipex_enable",
        "ipex_gpu_enable",
        "max_response_size",
        "metrics_format",
        "model_api_enabled",
        "model_server_home",
        "netty_client_threads",
        "number_of_gpu",
        "number_of_netty_threads",
        "plugins_path",
        "prefer_direct_buffer",
        "python",
        "snapshot_store",
        "system_metrics_cmd",
        "tsConfigFile",
        "ts_open_inference_protocol",
        "use_env_allowed_urls",
        "use_native_io",
        "version",
        "vmargs",
    }
)
"""They steer the JVM, Netty or PyTorch, or stand in its snapshots and examples. A config.properties may keep them."""

_CONVERT = (
    "openssl pkcs12 -in KEYSTORE -nodes -out server.pem writes both that certificate_file and private_key_file may name"
)
REFUSED_KEYS = {"keystore": _CONVERT, "keystore_pass": _CONVERT, "keystore_type": _CONVERT}
"""Keys for what is configured in another way here, with that way."""

OTHER_VARIABLES = {"log_location": "LOG_LOCATION", "metrics_location": "METRICS_LOCATION"}
"""Environment variables that set a key and are not named after it."""
