"""TensorFlow Serving's command: `python -m pdserver.tensorflow_model_server --model_base_path=DIR`."""
