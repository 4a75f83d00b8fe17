"""`python -m pdserver.tensorflow_model_server`: TensorFlow Serving's command line."""

import sys

from pdserver.cli import main

if __name__ == "__main__":
    sys.exit(main(["tensorflow-model-server", *sys.argv[1:]]))
