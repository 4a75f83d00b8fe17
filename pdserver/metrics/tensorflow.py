"""TensorFlow Serving's metrics, under its names, with its labels and buckets, in microseconds.

Source: servables/tensorflow/util.cc, batching_session.cc, saved_model_warmup_util.cc, and prometheus_exporter.cc for
the names and the way to write bounds. Its series are by model and not by version, so they go on when versions change.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence

from pdserver.errors import Kind
from pdserver.metrics.counters import Histogram, ModelMetrics, Timed
from pdserver.metrics.exposition import Family

_MICROSECONDS = 1e6
_BOUND = ".6g"
"""As TensorFlow Serving writes bounds; dashboards look for le="708235"."""
_API = {"classify": "Classify", "regress": "Regress"}
"""By the form that a request has in that dialect."""
_REST = "REST"
_STATUS = {
    Kind.INVALID: "INVALID_ARGUMENT",
    Kind.NOT_FOUND: "NOT_FOUND",
    Kind.VERSION_NOT_FOUND: "NOT_FOUND",
    Kind.CONFLICT: "FAILED_PRECONDITION",
    Kind.FORBIDDEN: "PERMISSION_DENIED",
    Kind.UNSUPPORTED: "UNIMPLEMENTED",
    Kind.TOO_LARGE: "INVALID_ARGUMENT",
    Kind.UNAVAILABLE: "UNAVAILABLE",
    Kind.OVERLOADED: "UNAVAILABLE",
    Kind.DEADLINE: "DEADLINE_EXCEEDED",
    Kind.OUT_OF_MEMORY: "RESOURCE_EXHAUSTED",
    Kind.CONFIG: "INVALID_ARGUMENT",
}
"""Failure → the code that its clients are told; other failures are INTERNAL."""


def _exponential(scale: float, growth: float, count: int) -> tuple[float, ...]:
    return tuple(float(format(scale * growth**i, _BOUND)) for i in range(count))


LATENCY_BOUNDS = _exponential(10, 1.8, 33)
QUEUING_BOUNDS = _exponential(100, 1.2, 52)
EXAMPLE_BOUNDS = _exponential(1, 2, 15)


class ServingMetrics:
    """The counters of one model, of all its versions. Each observation is an append."""

    def __init__(self) -> None:
        self.latency: defaultdict[tuple[str, str], Histogram] = defaultdict(lambda: Histogram(LATENCY_BOUNDS))
        """By API and entrypoint, of requests that succeeded."""
        self.runtime: defaultdict[str, Histogram] = defaultdict(lambda: Histogram(LATENCY_BOUNDS))
        """By API."""
        self.queuing = Histogram(QUEUING_BOUNDS)
        self.examples = Histogram(EXAMPLE_BOUNDS)
        """Of requests with tf.Examples: how many."""
        self.warm_up: defaultdict[tuple[str, str], Histogram] = defaultdict(lambda: Histogram(LATENCY_BOUNDS))
        """By the model's path and status."""
        self.gone: Counter[str] = Counter()
        """Requests by status, of versions that are not served any more."""

    def succeed(self, calls: Sequence[Timed], now: float) -> None:
        """Observe requests that were answered at `now` (monotonic seconds)."""
        for call in calls:
            api = _API.get(call.form, "Predict")
            entrypoint = call.entrypoint
            self.latency[api.lower() if entrypoint == _REST else api, entrypoint].observe(
                (now - call.arrived) * _MICROSECONDS
            )
            self.queuing.observe((call.taken - call.arrived) * _MICROSECONDS)
            if api != "Predict":
                self.examples.observe(call.request.rows)

    def batch(self, calls: Sequence[Timed], seconds: float) -> None:
        """Observe a batch that the model had for so long. Each request has had to wait for it."""
        for call in calls:
            api = _API.get(call.form, "Predict")
            self.runtime[api].observe(seconds * _MICROSECONDS)

    def warmed_up(self, path: str, seconds: float, failure: Kind | None) -> None:
        """Observe a worker's warm-up."""
        status = "OK" if failure is None else _STATUS.get(failure, "INTERNAL")
        self.warm_up[path, status].observe(seconds * _MICROSECONDS)

    def forget(self, version: ModelMetrics) -> None:
        """Keep the numbers of a version that is not served any more."""
        self.gone += requests_of(version)


def requests_of(version: ModelMetrics) -> Counter[str]:
    """A version's requests by status."""
    counts = Counter({"OK": version.succeeded})
    for kind, count in version.failed.items():
        if count:
            counts[_STATUS.get(kind, "INTERNAL")] += count
    return counts


def families(names: Mapping[str, ServingMetrics], versions: Sequence[tuple[str, ModelMetrics]]) -> Iterator[Family]:
    """`names` by model; `versions` are those that are served, with their models' names."""
    requests = _family("request_count", "Requests by status.", "counter")
    latency = _family("request_latency", "Microseconds from arrival to answer of successful requests.")
    runtime = _family("runtime_latency", "Microseconds of the batch that a request was in.")
    examples = _family("request_example_counts", "Examples in a request to classify or regress.")
    total = _family("request_example_count_total", "Examples in all these requests.", "counter")
    queuing = _family("batching_session:queuing_latency", "Microseconds in the queue of successful requests.")
    warm_up = _family("model_warmup_latency", "Microseconds in which a worker answered the model's warm-up requests.")
    waited = Histogram(QUEUING_BOUNDS)
    for name, model in names.items():
        counts = sum((requests_of(version) for of, version in versions if of == name), model.gone)
        for status, count in counts.items():
            requests.add({"model_name": name, "status": status}, count)
        for (api, entrypoint), seen in list(model.latency.items()):
            latency.add({"model_name": name, "API": api, "entrypoint": entrypoint}, seen)
        for api, seen in list(model.runtime.items()):
            runtime.add({"model_name": name, "API": api, "runtime": "Paddle"}, seen)
        examples.add({"model": name}, model.examples)
        total.add({"model": name}, model.examples.total)
        for (path, status), seen in list(model.warm_up.items()):
            warm_up.add({"model_path": path, "status": status}, seen)
        waited.merge(model.queuing)
    queuing.add({"thread_pool_name": "batch_threads"}, waited)
    yield from (requests, latency, runtime, examples, total, queuing, warm_up)


def _family(name: str, words: str, kind: str = "histogram") -> Family:
    return Family(f":tensorflow:serving:{name}", words, kind, bound_format=_BOUND)  # type: ignore[arg-type]
