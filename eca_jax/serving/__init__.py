"""Models behind HTTP: dynamic batching, the endpoints, and a page to try a model. Needs the extra `serve`."""
