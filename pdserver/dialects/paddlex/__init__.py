"""PaddleX's serving contract: pipelines under the path of their task, with answers in its envelope.

Source: PaddleX 3, paddlex/inference/serving: `schemas`, `infra/models.py` and `basic_serving/_app.py`.
"""
