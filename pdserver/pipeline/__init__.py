"""A request's way through a pipeline: which node runs next, with what. Used by the engine, and in workers."""
