//! Tracing of calls: the ids that callers send appear in log lines, and spans go to a collector
//! over OTLP.
//!
//! The trace of a service (`traceparent`, W3C Trace Context) continues here and in the calls to
//! etcd; the trace of any other caller is only linked. Without a collector no span is made, and a
//! call without ids costs only the look-up of two headers.
//!
//! `tracing-opentelemetry` makes its spans from those of `tracing`, so each call would need one.

use std::{
    fmt::Display,
    sync::{LazyLock, OnceLock},
    time::Duration,
};

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::{
    Context, KeyValue,
    propagation::{Extractor, Injector, TextMapPropagator as _},
    trace::{
        FutureExt as _, Link, SpanKind, Status, TraceContextExt as _, TraceId, Tracer as _,
        TracerProvider as _,
    },
};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::{
    Resource,
    propagation::TraceContextPropagator,
    trace::{Sampler, SdkTracer, SdkTracerProvider},
};
use tracing::{Instrument as _, Level, Span, debug_span, field::Empty, info_span};

/// The maximum length of a request id that is logged.
const MAX_ID_BYTES: usize = 128;
/// The timeout of an export, and of the last export at shutdown.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);

// Parsed once, because each call looks them up.
static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
static X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

static TRACER: OnceLock<SdkTracer> = OnceLock::new();
static PROPAGATOR: LazyLock<TraceContextPropagator> = LazyLock::new(TraceContextPropagator::new);

/// Exports spans in the background. The queue is bounded; spans beyond it are dropped.
pub struct Traces(SdkTracerProvider);

impl Traces {
    /// Starts exporting to the collector at this URL. Calls without a trace of their own are
    /// sampled at `sample_ratio`. `OTEL_RESOURCE_ATTRIBUTES` adds attributes of the process.
    /// Errors: what is wrong with the URL.
    pub fn start(endpoint: &str, sample_ratio: f64) -> Result<Self, String> {
        let exporter = SpanExporter::builder()
            .with_tonic()
            .with_endpoint(endpoint)
            .with_timeout(EXPORT_TIMEOUT)
            .build();
        let exporter = exporter.map_err(|error| format!("otlp_endpoint: {error}"))?;
        let resource = Resource::builder().with_service_name(env!("CARGO_PKG_NAME"));
        let resource =
            resource.with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
        let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(sample_ratio)));
        let provider =
            SdkTracerProvider::builder().with_resource(resource.build()).with_sampler(sampler);
        let provider = provider.with_batch_exporter(exporter).build();
        TRACER.get_or_init(|| provider.tracer(env!("CARGO_PKG_NAME")));
        Ok(Self(provider))
    }

    /// Exports the remaining spans.
    pub async fn end(self) {
        let ended =
            tokio::task::spawn_blocking(move || self.0.shutdown_with_timeout(EXPORT_TIMEOUT)).await;
        if let Ok(Err(error)) = ended {
            tracing::warn!(%error, "some spans could not be exported");
        }
    }
}

/// The trace of one call: its span, and a log span that adds its ids to each log line.
#[derive(Clone)]
pub struct CallTrace {
    context: Context,
    log_span: Span,
}

impl CallTrace {
    /// Begins the trace of a call; `None` if neither log nor collector would show it. A trace that
    /// a service sends is continued. Any other caller's is only linked, because it would otherwise
    /// decide what is sampled. The span ends with `end`; for a cancelled call, when this is
    /// dropped.
    pub fn begin(
        headers: &HeaderMap,
        is_service: bool,
        name: impl FnOnce() -> String,
        attributes: impl FnOnce() -> Vec<KeyValue>,
    ) -> Option<Box<Self>> {
        let request_id = headers.get(&X_REQUEST_ID);
        let has_ids = headers.contains_key(&TRACEPARENT) || request_id.is_some();
        let tracer = TRACER.get();
        if !has_ids && tracer.is_none() && !tracing::enabled!(Level::DEBUG) {
            return None;
        }
        let name = name();
        let caller = PROPAGATOR.extract_with_context(&Context::new(), &HeaderExtractor(headers));
        let mut context = if is_service { caller.clone() } else { Context::new() };
        if let Some(tracer) = tracer {
            let span = tracer.span_builder(name.clone()).with_kind(SpanKind::Server);
            let span = span.with_attributes(attributes());
            let caller = caller.span().span_context().clone();
            let links = (!is_service && caller.is_valid())
                .then(|| Link::new(caller, Vec::new(), 0))
                .into_iter()
                .collect();
            let span = span.with_links(links).start_with_context(tracer, &context);
            context = context.with_span(span);
        }
        // A call without a trace appears in debug log lines only.
        let log_span = if has_ids || context.span().is_recording() {
            info_span!("call", method = name, trace_id = Empty, request_id = Empty)
        } else {
            debug_span!("call", method = name, trace_id = Empty, request_id = Empty)
        };
        let trace_id = context.span().span_context().trace_id();
        if trace_id != TraceId::INVALID {
            log_span.record("trace_id", tracing::field::display(trace_id));
        }
        if let Some(id) =
            request_id.and_then(|id| id.to_str().ok()).filter(|id| id.len() <= MAX_ID_BYTES)
        {
            log_span.record("request_id", id);
        }
        Some(Box::new(Self { context, log_span }))
    }

    /// Runs the work of the call within its span.
    pub async fn run<W: Future>(&self, work: W) -> W::Output {
        work.with_context(self.context.clone()).instrument(self.log_span.clone()).await
    }

    /// Ends the trace with the status code of gRPC or HTTP.
    pub fn end(&self, code: KeyValue, is_failure: bool, took: Duration) {
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        tracing::debug!(parent: &self.log_span, code = %code.value, took_us, "a call was answered");
        let span = self.context.span();
        span.set_attribute(code);
        if is_failure {
            span.set_status(Status::error(""));
        }
        span.end();
    }
}

/// Runs a part of a call in a span of its own, if the call is traced.
pub async fn part<T, E: Display>(
    name: &'static str,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    shared_part(name, SpanKind::Internal, &[Context::current()], work).await
}

/// Runs work that several calls share, such as a request to another server, in a span. The span
/// belongs to the first call that is traced and links the others.
pub async fn shared_part<T, E: Display>(
    name: &'static str,
    kind: SpanKind,
    calls: &[Context],
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let mut traced = calls.iter().filter(|call| call.span().is_recording());
    let (Some(tracer), Some(parent)) = (TRACER.get(), traced.next()) else { return work.await };
    let links = traced.map(|call| Link::with_context(call.span().span_context().clone())).collect();
    let span = tracer
        .span_builder(name)
        .with_kind(kind)
        .with_links(links)
        .start_with_context(tracer, parent);
    let context = parent.with_span(span);
    let result = work.with_context(context.clone()).await;
    if let Err(error) = &result {
        context.span().set_status(Status::error(error.to_string()));
    }
    result
}

/// Adds the current trace to the headers of a request to another server.
pub fn inject_context(headers: &mut impl Injector) {
    PROPAGATOR.inject_context(&Context::current(), headers);
}

/// gRPC metadata, for [`inject_context`].
pub struct Metadata<'a>(pub &'a mut tonic::metadata::MetadataMap);

impl Injector for Metadata<'_> {
    fn set(&mut self, key: &str, value: String) {
        let key = key.parse::<tonic::metadata::AsciiMetadataKey>();
        if let (Ok(key), Ok(value)) = (key, value.parse()) {
            self.0.insert(key, value);
        }
    }
}

struct HeaderExtractor<'a>(&'a HeaderMap);

impl Extractor for HeaderExtractor<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }

    fn get_all(&self, key: &str) -> Option<Vec<&str>> {
        Some(
            self.0
                .get_all(key)
                .iter()
                .filter_map(|value: &HeaderValue| value.to_str().ok())
                .collect(),
        )
    }
}
