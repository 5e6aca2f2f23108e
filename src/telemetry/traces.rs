//! Calls as they are followed: by the ids that their callers give them, in the log; and as spans,
//! which go to a collector over OTLP.
//!
//! A service's trace (`traceparent`, W3C Trace Context) goes on here, and from here to the cluster;
//! that of another caller is linked. Without a collector no span is made, and a call that brings no
//! id costs a look at its headers.

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

/// Of an id that is logged.
const MAX_ID_BYTES: usize = 128;
/// For an answer of the collector, and for what is left when the service stops.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);

// As they are looked for in each call: text would be read as a name each time.
static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
static X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

static TRACER: OnceLock<SdkTracer> = OnceLock::new();
static PROPAGATOR: LazyLock<TraceContextPropagator> = LazyLock::new(TraceContextPropagator::new);

/// What sends spans, in the background. What it has not sent yet is bounded; what is beyond is
/// dropped.
pub struct Traces(SdkTracerProvider);

impl Traces {
    /// Sends to the collector at this URL; where a call brings no trace of its own, this share of
    /// them is traced. Attributes of the process may be added by `OTEL_RESOURCE_ATTRIBUTES`.
    /// Errors: what is wrong with the URL.
    pub fn start(endpoint: &str, share: f64) -> Result<Self, String> {
        let exporter = SpanExporter::builder()
            .with_tonic()
            .with_endpoint(endpoint)
            .with_timeout(EXPORT_TIMEOUT)
            .build();
        let exporter = exporter.map_err(|error| format!("otlp_endpoint: {error}"))?;
        let resource = Resource::builder().with_service_name(env!("CARGO_PKG_NAME"));
        let resource =
            resource.with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
        let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(share)));
        let provider =
            SdkTracerProvider::builder().with_resource(resource.build()).with_sampler(sampler);
        let provider = provider.with_batch_exporter(exporter).build();
        TRACER.get_or_init(|| provider.tracer(env!("CARGO_PKG_NAME")));
        Ok(Self(provider))
    }

    /// Sends what is left.
    pub async fn end(self) {
        let ended =
            tokio::task::spawn_blocking(move || self.0.shutdown_with_timeout(EXPORT_TIMEOUT)).await;
        if let Ok(Err(error)) = ended {
            tracing::warn!(%error, "some traces were not sent");
        }
    }
}

/// One call: its span, and its ids in each line that is logged meanwhile.
#[derive(Clone)]
pub struct CallTrace {
    context: Context,
    line: Span,
}

impl CallTrace {
    /// Nothing where nobody wants to follow this one. A trace goes on here where a service brings
    /// it; of anybody else's it is only told, because it would say what is followed. A span is
    /// ended with `end`, or when this is dropped, for a call that was given up.
    pub fn begin(
        headers: &HeaderMap,
        is_service: bool,
        name: impl FnOnce() -> String,
        attributes: impl FnOnce() -> Vec<KeyValue>,
    ) -> Option<Box<Self>> {
        let (caller, request_id) = (headers.get(&TRACEPARENT), headers.get(&X_REQUEST_ID));
        let has_ids = caller.is_some() || request_id.is_some();
        let tracer = TRACER.get();
        if !has_ids && tracer.is_none() && !tracing::enabled!(Level::DEBUG) {
            return None;
        }
        let name = name();
        let caller = PROPAGATOR.extract_with_context(&Context::new(), &Headers(headers));
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
        // One that is in no trace has no line but those for debugging.
        let line = if has_ids || context.span().is_recording() {
            info_span!("call", method = name, trace_id = Empty, request_id = Empty)
        } else {
            debug_span!("call", method = name, trace_id = Empty, request_id = Empty)
        };
        let trace_id = context.span().span_context().trace_id();
        if trace_id != TraceId::INVALID {
            line.record("trace_id", tracing::field::display(trace_id));
        }
        if let Some(id) =
            request_id.and_then(|id| id.to_str().ok()).filter(|id| id.len() <= MAX_ID_BYTES)
        {
            line.record("request_id", id);
        }
        Some(Box::new(Self { context, line }))
    }

    /// Does the work of the call within its span.
    pub async fn run<W: Future>(&self, work: W) -> W::Output {
        work.with_context(self.context.clone()).instrument(self.line.clone()).await
    }

    /// The call was answered with this code, of gRPC or HTTP.
    pub fn end(&self, code: KeyValue, is_failure: bool, took: Duration) {
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        tracing::debug!(parent: &self.line, code = %code.value, took_us, "a call was answered");
        let span = self.context.span();
        span.set_attribute(code);
        if is_failure {
            span.set_status(Status::error(""));
        }
        span.end();
    }
}

/// A part of a call, as a span of its own where the call has one.
pub async fn part<T, E: Display>(
    name: &'static str,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    shared_part(name, SpanKind::Internal, &[Context::current()], work).await
}

/// A part that several calls have together, and that another server does: in the trace of the first
/// that has one, with links to the others.
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
    let done = work.with_context(context.clone()).await;
    if let Err(error) = &done {
        context.span().set_status(Status::error(error.to_string()));
    }
    done
}

/// Has another server go on with the trace.
pub fn hand_on(headers: &mut impl Injector) {
    PROPAGATOR.inject_context(&Context::current(), headers);
}

/// Of gRPC, for [`hand_on`].
pub struct Metadata<'a>(pub &'a mut tonic::metadata::MetadataMap);

impl Injector for Metadata<'_> {
    fn set(&mut self, key: &str, value: String) {
        let key = key.parse::<tonic::metadata::AsciiMetadataKey>();
        if let (Ok(key), Ok(value)) = (key, value.parse()) {
            self.0.insert(key, value);
        }
    }
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
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
