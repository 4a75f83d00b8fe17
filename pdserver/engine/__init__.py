"""The core: queues, pools of workers, the registry of models."""
