"""TensorFlow Serving's model_config_list: base paths with numbered versions, policies, labels, and their changes."""
